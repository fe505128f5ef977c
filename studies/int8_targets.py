# SPDX-License-Identifier: Apache-2.0
"""Accuracy and speed of each ``quantization.target_cpu``, on this CPU and on a CPU without VNNI.

    python studies/int8_targets.py runs/minilm-sst2-dense --data-dir ../shared/data

The CPU without VNNI is this CPU with AVX-512 and VNNI hidden from the runtimes (``tests/hidden_instructions.py``): its
AVX2 code runs at native speed. In addition to the three targets, two other methods without saturation are measured:
the ``vnni`` file with 7-bit activations (twice the scale, so that 2 * 127 * 128 fits 16 bits), and, in ONNX Runtime,
the ``vnni`` file in the exact mode, which multiplies u8 by u8 and which our sessions select on such a CPU.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
SHORT_ACTIVATIONS = "vnni, 7-bit activations"
TARGETS = ("vnni", "any", "avx2")
_ROUNDS, _TOKENS = 40, 128


def export(checkpoint: Path, task: str, data_dir: Path | None, folder: Path) -> dict[str, dict[str, Path]]:
    """Deployments by mode and target; static ones have ONNX and IR, dynamic ones are made from their FP32 file."""
    from sparse_deploy.config.loader import recipe_from_mapping
    from sparse_deploy.export.openvino import convert_to_ir
    from sparse_deploy.graph.model_file import load_onnx, save_onnx
    from sparse_deploy.graph.weights import read_weights
    from sparse_deploy.quantization.onnx_dynamic import quantize_dynamic
    from sparse_deploy.sparsity.weight_grid import NEIGHBOUR_SUM_KEY
    from sparse_deploy.stages.export import export_deployment

    static, dynamic = dict[str, Path](), dict[str, Path]()
    for target in TARGETS:
        static[target], dynamic[target] = folder / f"static-{target}", folder / f"dynamic-{target}"
        if dynamic[target].is_dir():
            continue
        recipe = recipe_from_mapping(
            {
                "name": "int8-targets",
                "task": task,
                "model": {"name_or_path": str(checkpoint)},
                "quantization": {"target_cpu": target},
                "export": {"sparse": {"enabled": False}},
            },
            "int8_targets",
        )
        export_deployment(str(checkpoint), recipe, static[target], data_dir=data_dir)
        shutil.copytree(static[target], dynamic[target])
        graph = quantize_dynamic(dynamic[target] / "model.onnx", recipe.quantization)
        sums = [weight.largest_neighbour_sum() for weight in read_weights(graph)]
        graph.metadata_props[NEIGHBOUR_SUM_KEY] = str(max(sums))
        save_onnx(graph, dynamic[target] / "model_int8.onnx")
    short = static[SHORT_ACTIVATIONS] = folder / "static-short"
    if short.is_dir():
        return {"static": static, "dynamic": dynamic}
    shutil.copytree(static["vnni"], short)
    graph = load_onnx(short / "model_int8.onnx")
    halve_activations(graph)
    save_onnx(graph, short / "model_int8.onnx")
    convert_to_ir(short / "model_int8.onnx", short / "openvino_model_int8.xml")
    return {"static": static, "dynamic": dynamic}


def halve_activations(model: Any) -> None:
    """Let u8 activations take the values 0 to 127 instead of 0 to 255, in place."""
    import onnx_ir as ir

    from sparse_deploy.sparsity.weight_grid import NEIGHBOUR_SUM_KEY

    for node in model.graph:
        if node.op_type != "QuantizeLinear":
            continue
        dequantize = [use.node for use in node.outputs[0].uses()]
        scale, zero = node.inputs[1], node.inputs[2]
        new_scale, new_zero = scale.const_value.numpy() * 2, zero.const_value.numpy() // 2
        for value, array in ((scale, new_scale), (zero, new_zero)):
            name = f"{node.outputs[0].name}_{value.name}_halved"
            new = ir.Value(name=name, type=value.type, shape=value.shape, const_value=ir.tensor(array, name=name))
            model.graph.register_initializer(new)
            for user in (node, *dequantize):
                user.replace_input_with(1 if value is scale else 2, new)
    model.metadata_props[NEIGHBOUR_SUM_KEY] = "128"  # safe with these activations


def score(folders: Sequence[Path], task_name: str, data_dir: Path | None, runtimes: Sequence[str]) -> list[Any]:
    """Logits of the validation rows and time of one request, by folder and runtime; runs in a child process."""
    from sparse_deploy.config.schema import DataSection
    from sparse_deploy.data.batches import sorted_batches
    from sparse_deploy.data.tasks import get_task
    from sparse_deploy.errors import RuntimeUnavailableError
    from sparse_deploy.evaluation.accuracy import load_validation
    from sparse_deploy.runtimes import get_runtime

    task = get_task(task_name)
    requests = load_validation(task, DataSection(), folders[0], data_dir)[0].requests
    batches = sorted_batches(requests.lengths, 8)
    found: list[dict[str, Any]] = []
    for folder in folders:
        for name in runtimes:
            try:
                session = get_runtime(name).open(folder, "fp32" if name == "pytorch" else "int8", 1)
            except RuntimeUnavailableError as error:
                found.append({"refused": str(error)})
                continue
            logits = np.zeros((len(requests), 8))
            for batch in batches:
                (answers,) = session.run(requests.batch(batch))
                logits[batch, : answers.shape[1]] = answers
            shaped = requests.shaped(1, _TOKENS)
            times = []
            for _ in range(_ROUNDS):
                start = time.perf_counter()
                session.run(shaped)
                times.append((time.perf_counter() - start) * 1e3)
            found.append(
                {"logits": logits.tolist(), "ms": min(times), "median": median(times),
                 "warning": getattr(session, "warning", "")}
            )  # fmt: skip
            session.close()
    return found


def measure(folders: dict[str, Path], arguments: argparse.Namespace, runtimes: Sequence[str], *, hide: bool) -> Any:
    """Run :func:`score` in a process with all instructions or with hidden ones; by target and runtime."""
    import hidden_instructions

    command = [sys.executable, __file__, "--score", *map(str, folders.values()), "--task", arguments.task]
    command += ["--runtimes", *runtimes]
    if arguments.data_dir:
        command += ["--data-dir", str(arguments.data_dir)]
    environment = hidden_instructions.environment() if hide else None
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    rows = iter(json.loads(result.stdout.splitlines()[-1]))
    return {name: {runtime: next(rows) for runtime in runtimes} for name in folders}


def report(arguments: argparse.Namespace, folder: Path) -> None:
    """Print one row per mode, target, runtime and CPU."""
    from sparse_deploy.data.loading import load_split
    from sparse_deploy.data.tasks import get_task

    task = get_task(arguments.task)
    labels = np.array(
        [row["label"] for row in load_split(task, next(iter(task.validation_splits.values())), arguments.data_dir)]
    )
    print("| mode | target_cpu | runtime | CPU | correct | became right, wrong | mean logit change | ms, 1x128 |")
    print("|---|---|---|---|---|---|---|---|")
    modes = export(arguments.checkpoint, arguments.task, arguments.data_dir, folder)
    baseline = measure({"fp32": modes["static"]["vnni"]}, arguments, ["pytorch"], hide=False)["fp32"]["pytorch"]
    reference = np.array(baseline["logits"])
    correct = reference.argmax(axis=1) == labels
    print(f"| FP32 | | pytorch | this | {int(correct.sum())} | | | {baseline['ms']:.1f} |", flush=True)
    for mode, folders in modes.items():
        runtimes = ["onnxruntime", "openvino"] if mode == "static" else ["onnxruntime"]
        for hide in (False, True):
            cpu = "VNNI hidden" if hide else "this"
            for target, by_runtime in measure(folders, arguments, runtimes, hide=hide).items():
                for runtime, one in by_runtime.items():
                    if "refused" in one:
                        print(f"| {mode} | {target} | {runtime} | {cpu} | refused | | | |", flush=True)
                        continue
                    logits = np.array(one["logits"])
                    right = logits.argmax(axis=1) == labels
                    change = f"+{int((right & ~correct).sum())} -{int((correct & ~right).sum())}"
                    exact = " (exact mode)" if one["warning"] else ""
                    mean = np.abs(logits - reference)[:, :2].mean()
                    print(
                        f"| {mode} | {target} | {runtime}{exact} | {cpu} | {int(right.sum())} | {change} | {mean:.4f} "
                        f"| {one['ms']:.1f} |",
                        flush=True,
                    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="fine-tuned classifier of the task")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, help="folder in which the deployments are kept for later runs")
    parser.add_argument("--score", type=Path, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--runtimes", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.score:
        print(json.dumps(score(arguments.score, arguments.task, arguments.data_dir, arguments.runtimes)))
        return
    if arguments.work:
        report(arguments, arguments.work)
        return
    with tempfile.TemporaryDirectory(prefix="int8-targets-") as folder:
        report(arguments, Path(folder))


if __name__ == "__main__":
    main()
