# SPDX-License-Identifier: Apache-2.0
"""Expected speed of the sparse operators on this CPU, from recorded figures."""

from collections import Counter
from collections.abc import Collection

from sparse_deploy.inspection.operators import OperatorDecisions
from sparse_deploy.inspection.recorded_speed import RecordedSpeed, nearest_speed

_AMX_INT8 = ("amx_tile", "amx_int8")
_RUNTIMES = (("onnxruntime_int8", "ONNX Runtime INT8"), ("openvino_int8", "OpenVINO INT8"))
_NAMES = {
    "base": "bert-base",
    "large": "bert-large",
    "minilm": "MiniLM",
    "distilroberta": "distilroberta-base",
    "debertav3small": "deberta-v3-small",
    "modernbert": "ModernBERT-base",
}
_ADVICE = "measure this model with bench; serve selects the fastest runtime itself"


def expected_speed(flags: Collection[str], operators: OperatorDecisions) -> tuple[str, str]:
    """Expected speed of ``model_sparse.onnx`` against ONNX Runtime INT8 on this CPU.

    Args:
        flags: the CPU's flags.
        operators: the choices of the kernels for the model's tensors.

    Returns:
        ``faster``, ``slower`` or ``unknown``, and the reason in one or two sentences.
    """
    if all(flag in flags for flag in _AMX_INT8):
        return "slower", (
            "This CPU has AMX, whose dense INT8 tiles compute 16 times the products of a vector instruction: skipping "
            "zeros is slower (from the instructions' throughput, not measured). Use OpenVINO INT8; serve measures both."
        )
    if not operators.tensors:
        return "unknown", f"No tensor to compare; {_ADVICE}."
    pattern = Counter(tensor.pattern for tensor in operators.tensors).most_common(1)[0][0]
    share = sum(tensor.zero_share for tensor in operators.tensors) / len(operators.tensors)
    found = nearest_speed(operators.instruction_set, pattern, share)
    if found is None:
        return "unknown", (f"There is no record for {operators.instruction_set} and the pattern {pattern}; {_ADVICE}.")
    return _words(found)


def _words(speed: RecordedSpeed) -> tuple[str, str]:
    times = speed.milliseconds
    what = (
        f"Recorded with {speed.instruction_set}{', forced' if speed.forced else ''} on {speed.cpu} ({speed.date}, "
        f"`{speed.command}`): {_NAMES.get(speed.model, speed.model)} with {100 * speed.zero_share:.0f} % zeros "
        f"({speed.pattern}), {speed.batch} x {speed.tokens} tokens, {times['ours']:.3g} ms"
    )
    if speed.forced:
        return "unknown", (
            f"{what}, {speed.speedup:.2f} times as fast as the dense kernels of this package. There is no "
            f"measurement against ONNX Runtime INT8 on a CPU without more than {speed.instruction_set}; {_ADVICE}."
        )
    against = [f"{times[name]:.3g} ms in {text}" for name, text in _RUNTIMES if name in times]
    best = f"{speed.speedup:.2f} times as fast as the best dense runtime ({speed.best_dense.replace('_', ' ')})"
    verdict = "faster" if speed.interval[0] > 1 else "slower" if speed.interval[1] < 1 else "unknown"
    return verdict, f"{what}, against {' and '.join(against)}; {best}. {_ADVICE.capitalize()}."
