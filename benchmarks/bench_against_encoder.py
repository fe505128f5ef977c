# SPDX-License-Identifier: Apache-2.0
"""Compares the medians of ``sparse-deploy bench`` and ``encoder.py`` on the same files, shape and threads.

Both use the engine of ``sparse_deploy.measurement``; here each measures one built model, one after the other.

    python benchmarks/bench_against_encoder.py --cell minilm-u70-b1-s128
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from harness.bars import CELLS
from harness.cells import Cell, parse_cell
from harness.console import show_progress
from harness.measure import Bench, measure_cell
from harness.models import FP32_ONNX, QDQ_ONNX, SPARSE_ONNX, model_folder
from harness.rounds import Plan
from harness.served import write_deployment
from harness.sessions import OURS
from harness.sparse_model import ensure_sparse_model

from sparse_deploy.checkpoint import WEIGHTS_FILE
from sparse_deploy.errors import SparseDeployError
from sparse_deploy.machine import describe_machine
from sparse_deploy.measurement.machine_state import Probe
from sparse_deploy.results import Latency
from sparse_deploy.stages.bench import bench_deployment

CACHE = Path(__file__).resolve().parents[1] / "runs" / "encoder-models"
# The names of the same file and settings: encoder.py's runtime, and bench's cell.
SAME = {
    OURS: "sparse-int8",
    "ort_qdq_int8": "onnxruntime-int8",
    "ort_fp32": "onnxruntime-fp32",
    "pytorch_fp32": "pytorch-fp32",
}
FILES = (WEIGHTS_FILE, FP32_ONNX, QDQ_ONNX, SPARSE_ONNX)
RECIPE = {
    "name": "encoder",
    "task": "demo",
    "data": {"max_length": 64, "validation_samples": 64},
    "bench": {
        "runtimes": ["pytorch", "onnxruntime", "sparse"],
        "warmup_seconds": 2.0,
        "throughput_batch_size": 8,
        "hints": ["latency"],
    },
}


def main() -> None:
    """Entry point."""
    options = _parse()
    try:
        folder = model_folder(options.models, options.cell.model, options.cell.pattern, show_progress)
        ensure_sparse_model(folder, show_progress)
        encoder = measure_encoder(options.cell, folder, options)
        bench = measure_bench(options.cell, folder, options)
    except (SparseDeployError, RuntimeError, OSError) as error:
        raise SystemExit(f"bench_against_encoder.py: {' '.join(str(error).split())}") from error
    finally:
        show_progress("")
    rows = compare(encoder, bench)
    if options.json:
        machine = describe_machine().model_dump(mode="json")
        print(json.dumps({"cell": options.cell.name, "threads": options.threads, "machine": machine, "rows": rows}))
        return
    print(f"{options.cell.name}, {options.threads} threads, {describe_machine().cpu_model}")
    print(f"{'file':<18}{'encoder.py ms':>14} {'quartiles':<16}{'bench ms':>10} {'quartiles':<16}{'cores':<14}")
    for row in rows:
        quartiles = ["{:.2f} to {:.2f}".format(*row[key]) for key in ("encoder_quartiles", "bench_quartiles")]
        print(
            f"{row['file']:<18}{row['encoder_ms']:>14.2f} {quartiles[0]:<16}{row['bench_ms']:>10.2f} "
            f"{quartiles[1]:<16}{row['cores']:<14}{row['verdict']}"
        )


def measure_encoder(cell: Cell, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The record of ``encoder.py``; every runtime is measured in all rounds."""
    plan = Plan(options.rounds, first_rounds=2 * options.rounds + 1, seconds=options.seconds)
    bench = Bench(options.threads, tuple(SAME), plan, Probe(), show_progress, {})
    return measure_cell(bench, cell, folder)


def measure_bench(cell: Cell, folder: Path, options: argparse.Namespace) -> dict[str, Latency]:
    """The latency of the shape, by ``bench`` cell."""
    with tempfile.TemporaryDirectory(prefix="sparse-deploy-") as scratch:
        deployment = Path(scratch, "deployment")
        write_deployment(folder, deployment, FILES, RECIPE)
        report = bench_deployment(
            deployment,
            Path(scratch, "report"),
            overrides=(
                f"bench.blocks={options.rounds}",
                f"bench.block_seconds={options.seconds}",
                f"bench.threads={options.threads}",
                f"bench.shapes=[[{cell.batch}, {cell.sequence}]]",
            ),
            progress=lambda message, share: show_progress(message),
        )
    return {found.id: shape.latency for found in report.cells for shape in found.shapes}


def compare(encoder: Mapping[str, Any], bench: Mapping[str, Latency]) -> list[dict[str, Any]]:
    """A row per file: medians, quartiles of requests, and whether each median is within the other's quartiles."""
    rows = []
    for rival, cell in SAME.items():
        ms, latency = encoder[f"{rival}_ms"], bench.get(cell)
        if ms is None or latency is None:
            continue
        samples = sorted(latency.samples_ms)
        quartiles = [samples[len(samples) // 4], samples[3 * len(samples) // 4]]
        theirs = encoder["spread"].get(rival, [ms, ms])
        overlap = quartiles[0] <= theirs[1] and theirs[0] <= quartiles[1]
        rows.append(
            {
                "file": cell,
                "encoder_ms": ms,
                "encoder_quartiles": theirs,
                "bench_ms": round(median(latency.block_medians_ms), 3),
                "bench_quartiles": quartiles,
                "cores": f"{encoder['label']}, {latency.conditions.cores if latency.conditions else 'unknown'}",
                "verdict": "same" if overlap else "differs",
            }
        )
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="minilm-u70-b1-s128", help=f"such as {', '.join(list(CELLS)[:3])}")
    parser.add_argument("--threads", type=int, default=min(2, describe_machine().usable_cpus))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.4, help="seconds per block")
    parser.add_argument("--models", type=Path, default=CACHE, help="folder of the built models")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    try:
        options.cell = parse_cell(options.cell)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    main()
