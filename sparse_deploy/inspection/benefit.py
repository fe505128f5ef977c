# SPDX-License-Identifier: Apache-2.0
"""Will these zeros help on this CPU? What each runtime does with them, decided from facts alone.

Nothing here measures or guesses: a verdict is read off the machine's flags and the file's tensors by conditions that
stand in the runtimes' sources, and our own operators are asked what they chose. Speed is measured by ``sparse-deploy
bench``.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from sparse_deploy.inspection.operators import DENSE_KERNEL, OperatorDecisions, TensorDecision, grouped
from sparse_deploy.sparsity.pattern import DENSE_BELOW

SPARSE_RATE_PROPERTY = "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"
# oneDNN's avx512_core_amx, which OpenVINO asks for: both AMX types and AVX512-FP16.
AMX_FLAGS = ("amx_tile", "amx_int8", "amx_bf16", "avx512_fp16")
AMX_TILE_MULTIPLE = 64
INT8_ACTIVATIONS = ("u8", "i8")


class Fact(BaseModel):
    """Base of everything that this module says."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorFacts(Fact):
    """What decides how a runtime multiplies with one weight.

    Attributes:
        name: parameter name.
        shape: ``[out, in]``.
        zero_share: stored zeros over weights, 0 to 1.
        weight_type: type in the file, in OpenVINO's words (``f32``, ``bf16``, ``i8``, ``u8`` ...).
        activation_type: type in which the other operand reaches the product: ``u8`` or ``i8`` when the file quantizes
            it with a stored scale, ``f32`` otherwise.
    """

    name: str
    shape: tuple[int, int]
    zero_share: float
    weight_type: str
    activation_type: str


class Verdict(StrEnum):
    """What zeros are worth in one runtime."""

    NO_EFFECT = "no effect"
    WITH_SETTING = "with a setting"
    IN_SPARSE_FILE = "skipped in model_sparse.onnx"
    NOT_INSTALLED = "not installed"


class Condition(Fact):
    """One condition of OpenVINO's switch.

    Attributes:
        text: the condition, as a statement.
        holds: whether it is met; for conditions on tensors: by at least one sparse tensor.
        found: what was found.
    """

    text: str
    holds: bool
    found: str


class Finding(Fact):
    """What one runtime does with the zeros of one file.

    Attributes:
        runtime: its name.
        file: the model file, where the answer depends on it; empty where it holds for every file.
        verdict: see :class:`Verdict`.
        explanation: one or two sentences.
        conditions: those that decided, in the order in which the runtime checks them.
        tensors_ready: sparse tensors that meet every condition on the model.
        tensors_sparse: tensors with zeros worth the name.
        suggested_rate: value for :data:`SPARSE_RATE_PROPERTY` that reaches all ready tensors.
        decisions: what our operators chose for each tensor.
    """

    runtime: str
    file: str = ""
    verdict: Verdict
    explanation: str
    conditions: tuple[Condition, ...] = ()
    tensors_ready: int = 0
    tensors_sparse: int = 0
    suggested_rate: float | None = None
    decisions: tuple[TensorDecision, ...] = ()


def assess_runtimes(
    flags: Collection[str], files: dict[str, Sequence[TensorFacts]], operators: OperatorDecisions | str
) -> tuple[Finding, ...]:
    """Say what each runtime does with the zeros of these files.

    Args:
        flags: the CPU's flags, as ``/proc/cpuinfo`` names them.
        files: facts of each model file that PyTorch, ONNX Runtime and OpenVINO open on their own, by name.
        operators: what our operators chose, or why they can't be asked.
    """
    return (
        Finding(
            runtime="PyTorch",
            verdict=Verdict.NO_EFFECT,
            explanation="nn.Linear runs dense kernels: zeros are multiplied like any other weight.",
        ),
        Finding(
            runtime="ONNX Runtime",
            verdict=Verdict.NO_EFFECT,
            explanation="The CPU provider has no sparse kernels: zeros are multiplied like any other weight, and a "
            "sparse initializer is made dense when the file is loaded.",
        ),
        *(assess_openvino(flags, facts, file=name) for name, facts in files.items()),
        assess_operators(operators),
        Finding(
            runtime="file size",
            verdict=Verdict.NO_EFFECT,
            explanation="Zeros are stored like any other weight, in all files but model_sparse.onnx, which leaves "
            "them out. The others get smaller only when they are compressed for transport or storage.",
        ),
    )


def assess_openvino(flags: Collection[str], facts: Sequence[TensorFacts], *, file: str = "") -> Finding:
    """Evaluate OpenVINO's sparse-weights decompression for one file on one CPU.

    The conditions are those of ``useSparseWeightsDecompression`` in OpenVINO's
    ``src/plugins/intel_cpu/src/nodes/fullyconnected.cpp`` (2026.4): where one fails, the dense kernel runs and nothing
    is said.

    Args:
        flags: the CPU's flags.
        facts: the file's prunable tensors.
        file: name of the file, for the finding.
    """
    sparse = [tensor for tensor in facts if tensor.zero_share >= DENSE_BELOW]
    missing = [flag for flag in AMX_FLAGS if flag not in flags]
    amx = Condition(
        text="the CPU has AMX",
        holds=not missing,
        found=f"no {', '.join(missing)}" if missing else ", ".join(AMX_FLAGS),
    )
    model, ready = _model_conditions(sparse)
    lowest = min((tensor.zero_share for tensor in ready), default=None)
    rate = None if lowest is None else min(0.99, math.floor(lowest * 100) / 100)  # 1.0 means off
    switch = Condition(
        text=f"{SPARSE_RATE_PROPERTY} is set below 1.0 and not above the tensor's zero share",
        holds=False,
        found=f"off by default (1.0); {rate:g} would reach all tensors that qualify"
        if rate
        else "off by default (1.0)",
    )
    works = amx.holds and bool(ready)
    return Finding(
        runtime="OpenVINO",
        file=file,
        verdict=Verdict.WITH_SETTING if works else Verdict.NO_EFFECT,
        explanation=_openvino_words(amx, model, ready=len(ready), sparse=len(sparse), rate=rate),
        conditions=(switch, amx, *model) if sparse else (),
        tensors_ready=len(ready),
        tensors_sparse=len(sparse),
        suggested_rate=rate if works else None,
    )


def assess_operators(operators: OperatorDecisions | str) -> Finding:
    """What this package's sparse operators (domain ``sparse_deploy``) do with the tensors on this CPU.

    Args:
        operators: their decisions, or why they can't be asked.
    """
    runtime = "sparse-deploy operators"
    if isinstance(operators, str):
        return Finding(
            runtime=runtime,
            verdict=Verdict.NOT_INSTALLED,
            explanation=f"They could not be asked: {operators}. Without them model_sparse.onnx can't be opened.",
        )
    chosen = [tensor for tensor in operators.tensors if tensor.kernel != DENSE_KERNEL]
    summary = f"{len(chosen)} of {len(operators.tensors)} tensors get a sparse kernel ({operators.instruction_set})"
    if not chosen:
        return Finding(
            runtime=runtime,
            verdict=Verdict.NO_EFFECT,
            explanation=f"{summary}: too few zeros, the dense INT8 kernel is the faster one.",
            decisions=operators.tensors,
        )
    return Finding(
        runtime=runtime,
        verdict=Verdict.IN_SPARSE_FILE,
        explanation=f"{summary}, predicted from their packed form to take {_range(t.cost for t in chosen)} of the "
        f"dense INT8 kernel's time. Write the file with export --target sparse, measure it with bench.",
        conditions=tuple(
            Condition(text=role, holds=kernel != DENSE_KERNEL, found=_group_words(kernel, tensors))
            for (role, kernel), tensors in grouped(operators.tensors).items()
        ),
        tensors_ready=len(chosen),
        tensors_sparse=len(operators.tensors),
        decisions=operators.tensors,
    )


def _group_words(kernel: str, tensors: Sequence[TensorDecision]) -> str:
    patterns = ", ".join(sorted({tensor.pattern for tensor in tensors}))
    words = f"{kernel} kernel in {len(tensors)} {'layer' if len(tensors) == 1 else 'layers'} (pattern {patterns}"
    if kernel == DENSE_KERNEL:
        return f"{words})"
    return f"{words}, fill {_range(t.fill for t in tensors)}, cost {_range(t.cost for t in tensors)})"


def _range(numbers: Iterable[float]) -> str:
    values = list(numbers)
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _model_conditions(sparse: Sequence[TensorFacts]) -> tuple[tuple[Condition, ...], list[TensorFacts]]:
    """The conditions on tensors, and the tensors that meet them all."""
    checks: tuple[tuple[str, Callable[[TensorFacts], bool], Callable[[TensorFacts], str]], ...] = (
        ("both sides of the weight are multiples of 64", _divisible, _sides),
        ("activations reach the product as u8 or i8", _int8_activations, lambda t: t.activation_type),
        ("weights are stored as i8", _int8_weights, lambda t: t.weight_type),
    )
    conditions = []
    for text, check, describe in checks:
        passed = sum(check(tensor) for tensor in sparse)
        failed = sorted({describe(tensor) for tensor in sparse if not check(tensor)})
        others = f"; found {', '.join(failed[:4])}" if failed else ""
        conditions.append(
            Condition(text=text, holds=passed > 0, found=f"{passed} of {len(sparse)} sparse tensors{others}")
        )
    return tuple(conditions), [tensor for tensor in sparse if all(check(tensor) for _, check, _ in checks)]


def _divisible(tensor: TensorFacts) -> bool:
    return all(side % AMX_TILE_MULTIPLE == 0 for side in tensor.shape)


def _sides(tensor: TensorFacts) -> str:
    return f"{tensor.shape[0]}x{tensor.shape[1]}"


def _int8_activations(tensor: TensorFacts) -> bool:
    return tensor.activation_type in INT8_ACTIVATIONS


def _int8_weights(tensor: TensorFacts) -> bool:
    return tensor.weight_type == "i8"


def _openvino_words(
    amx: Condition, model: Sequence[Condition], *, ready: int, sparse: int, rate: float | None
) -> str:  # fmt: skip
    if not sparse:
        return "No tensor holds enough zeros for its sparse-weights decompression."
    reasons = [] if amx.holds else [f"this CPU lacks AMX ({amx.found}), so the switch has no effect here"]
    if not ready and not any(c.holds for c in model[1:]):
        reasons.append("the file is not INT8: only i8 weights with u8 or i8 activations qualify (export --int8 static)")
    elif not ready:
        failed = next((f"{c.text}: {c.found}" for c in model if not c.holds), "all conditions on one tensor: none")
        reasons.append(f"the file fails at: {failed}")
    if reasons:
        also = f"; on a CPU with AMX {ready} of {sparse} sparse tensors of the file would qualify" if ready else ""
        return f"Zeros are multiplied: {', and '.join(reasons)}{also}."
    return (
        f"{ready} of {sparse} sparse tensors qualify for sparse-weights decompression, which is off by default: set "
        f"{SPARSE_RATE_PROPERTY} to {rate:g}. It saves memory traffic, not multiplications; measure it."
    )
