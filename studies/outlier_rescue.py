# SPDX-License-Identifier: Apache-2.0
"""Adds outliers on which plain static INT8 fails, and runs the accuracy-driven INT8 search on the model.

    python studies/outlier_rescue.py runs/minilm-sst2-dense --data-dir ../shared/data

Outliers are added to a trained checkpoint such that its FP32 answers do not change:

* value: some rows of a layer's value weight and bias are multiplied by a factor, and the columns of the attention's
  output layer that read them are divided by it. Attention weights mix tokens, not channels, so the path between the
  two is linear; with a power of two even the rounding is the same.
* shift: a constant is added to one channel of a LayerNorm's bias and subtracted again in its readers: from the biases
  of query, key and value by ``W[:, c] * constant``, and from the bias of the attention's output layer, to which the
  residual is added. A *scaled* LayerNorm channel cannot be compensated in a post-LayerNorm encoder: the residual
  carries it into the next LayerNorm and changes its mean and variance.

Zero weights stay zero. The recipe starts with smoothing off, so that trial 1 is plain static INT8.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

State = dict[str, Any]
PREFIX = "bert.encoder.layer"


def add_value_outliers(state: State, layers: Sequence[int], channels: int, factor: float) -> None:
    """Multiply value channels by a factor and divide the columns that read them by it, in place.

    Args:
        state: tensors by parameter name.
        layers: encoder layers.
        channels: number of channels per layer, evenly spaced.
        factor: a power of two.
    """
    for layer in layers:
        value, output = (f"{PREFIX}.{layer}.attention.{part}" for part in ("self.value", "output.dense"))
        width = state[f"{value}.weight"].shape[0]
        chosen = np.linspace(0, width - 1, channels).astype(int)
        state[f"{value}.weight"][chosen] *= factor
        state[f"{value}.bias"][chosen] *= factor
        state[f"{output}.weight"][:, chosen] /= factor


def add_shift_outliers(state: State, layers: Sequence[int], channel: int, constant: float) -> None:
    """Shift a channel of the input of encoder layers and compensate every reader, in place."""
    for layer in layers:
        norm = f"{PREFIX}.{layer - 1}.output" if layer else "bert.embeddings"
        state[f"{norm}.LayerNorm.bias"][channel] += constant
        for part in ("query", "key", "value"):
            name = f"{PREFIX}.{layer}.attention.self.{part}"
            state[f"{name}.bias"] -= state[f"{name}.weight"][:, channel] * constant
        state[f"{PREFIX}.{layer}.attention.output.dense.bias"][channel] -= constant


def make_outlier_model(source: Path, target: Path, kinds: Sequence[str], *, factor: float, constant: float) -> None:
    """Copy a BERT checkpoint and add outliers."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("manifest.json", "quantization_ranges.json"))
    state = load_file(target / "model.safetensors")
    count = 1 + max(int(name.split(".")[3]) for name in state if name.startswith(PREFIX))
    if "value" in kinds:
        add_value_outliers(state, sorted({count // 4, 3 * count // 4}), channels=8, factor=factor)
    if "shift" in kinds:
        add_shift_outliers(state, sorted({count // 3, 2 * count // 3}), channel=7, constant=constant)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def largest_logit_change(source: Path, target: Path, task_name: str, data_dir: Path | None, rows: int = 64) -> float:
    """Largest difference between the FP32 logits of the two checkpoints on validation text."""
    import torch

    from sparse_deploy.config.schema import DataSection
    from sparse_deploy.data.features import encode_split, load_tokenizer
    from sparse_deploy.data.loading import load_split
    from sparse_deploy.data.tasks import get_task
    from sparse_deploy.modeling import load_finetuned

    task = get_task(task_name)
    split = task.validation_splits[""]
    text = load_split(task, split, data_dir, limit=rows)
    features = encode_split(task, text, load_tokenizer(source), DataSection(), name=split).features
    models = [load_finetuned(folder, task.kind).eval() for folder in (source, target)]
    worst = 0.0
    with torch.no_grad():
        for feature in features:
            inputs = {name: torch.from_numpy(np.asarray(values))[None] for name, values in feature.items()}
            first, second = (model(**inputs).logits for model in models)
            worst = max(worst, float((first - second).abs().max()))
    return worst


def rescue(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the model, export it with the search, and return the result."""
    from sparse_deploy.config.loader import recipe_from_mapping
    from sparse_deploy.stages.export import export_deployment

    kinds = ("value", "shift") if arguments.kind == "both" else (arguments.kind,)
    model = folder / "outliers"
    make_outlier_model(arguments.checkpoint, model, kinds, factor=arguments.factor, constant=arguments.constant)
    change = largest_logit_change(arguments.checkpoint, model, arguments.task, arguments.data_dir)
    accuracy = {"max_drop": arguments.max_drop, "confidence": arguments.confidence}
    recipe = recipe_from_mapping(
        {
            "name": "outlier-rescue",
            "task": arguments.task,
            "model": {"name_or_path": str(model)},
            "quantization": {"smoothing": 0.0, "accuracy": accuracy, "mode": arguments.mode},
            "export": {"openvino": False, "atol": 1e-3, "sparse": {"enabled": False}},
        },
        "outlier_rescue",
    )
    clock = {"start": 0.0, "cpu": 0.0}

    def progress(message: str) -> None:
        if not clock["start"] and message.startswith("INT8"):
            clock.update(start=time.monotonic(), cpu=_cpu_seconds())
        print(f"{time.monotonic() - (clock['start'] or time.monotonic()):6.0f} s  {message}", flush=True)

    manifest = export_deployment(
        str(model), recipe, folder / "deployment", data_dir=arguments.data_dir, progress=progress
    )
    return {
        "checkpoint": str(arguments.checkpoint),
        "kinds": list(kinds),
        "fp32_logit_change": change,
        "seconds": time.monotonic() - clock["start"],
        "cpu_seconds": _cpu_seconds() - clock["cpu"],
        **manifest.details["int8_search"],
    }


def table(found: dict[str, Any]) -> str:
    """The trials as Markdown; shares in points."""
    lines = ["| trial | calibration | FP32 operators | drop | at most | seconds |", "|---|---|---|---|---|---|"]
    for number, trial in enumerate(found["trials"], start=1):
        how = trial["calibration"]
        name = f"{how['observer']}, smoothing {how['smoothing']:g}" if how else "dynamic"
        figures = f"{100 * trial['drop']:.2f} | {100 * trial['high']:.2f} | {trial['seconds']:.0f}"
        lines.append(f"| {number} | {name} | {len(trial['fp32_operators'])} of {found['operators']} | {figures} |")
    return "\n".join(lines)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="fine-tuned BERT checkpoint folder")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--kind", choices=("value", "shift", "both"), default="both")
    parser.add_argument("--mode", choices=("static", "dynamic"), default="static")
    parser.add_argument("--factor", type=float, default=64.0, help="factor of the value channels")
    parser.add_argument("--constant", type=float, default=1024.0, help="constant added to the LayerNorm channel")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outlier-rescue-") as folder:
        found = rescue(arguments, Path(folder))
    print(f"\nFP32 logits changed by {found['fp32_logit_change']:.1e} at most (64 rows)\n\n{table(found)}\n")
    print(f"{found['verdict']} after {found['seconds']:.0f} s ({found['cpu_seconds']:.0f} s of CPU time); in FP32:")
    print("\n".join(f"  {name}" for name in found["fp32_operators"]) or "  none")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
