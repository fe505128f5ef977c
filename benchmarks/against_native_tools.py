# SPDX-License-Identifier: Apache-2.0
"""Compares the latencies of ``bench`` with those of the runtimes' own tools.

Times one model at one fixed shape with four tools in turns: bench's worker and a plain loop for ONNX Runtime, bench's
worker and ``benchmark_app`` for OpenVINO. Prints the medians, the ratio with its interval, and a verdict.

    python benchmarks/against_native_tools.py --seconds 5 --rounds 5
    python benchmarks/against_native_tools.py --deployment runs/sst2-deployment --shape 8x64 --json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.evaluation.requests import Requests
from sparse_deploy.evaluation.worker import MODULE as CELL_WORKER
from sparse_deploy.machine import describe_machine
from sparse_deploy.measurement.pairing import paired_ratio
from sparse_deploy.measurement.statistics import coefficient_of_variation, percentile
from sparse_deploy.measurement.worker_process import WorkerProcess, Workers
from sparse_deploy.runtimes.child_process import worker_environment

# The tools may differ in the measured parts: Python's call, output copies, number of warm-up requests.
TOLERANCE = 0.05
LEAST_REQUESTS = 10
PAIRS = {"onnxruntime": "bare loop", "openvino": "benchmark_app"}
BARE_LOOP = """
import json, sys, time
import numpy, onnxruntime
path, inputs, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
batch = dict(numpy.load(inputs))
for _ in range(5):
    session.run(None, batch)
times, deadline = [], time.perf_counter() + seconds
while time.perf_counter() < deadline or len(times) < 10:
    start = time.perf_counter()
    session.run(None, batch)
    times.append((time.perf_counter() - start) * 1e3)
times.sort()
print(json.dumps(times[(len(times) + 1) // 2 - 1]))
"""


def main() -> None:
    """Entry point."""
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="sparse-deploy-native-") as scratch:
        folder = options.deployment or build_model(Path(scratch) / "model", options.layers, options.hidden)
        medians = measure(folder.resolve(), options, Path(scratch))
    report = compare(medians)
    summary = {"shape": options.shape, "threads": options.threads, "machine": describe_machine().model_dump()}
    if options.json:
        print(json.dumps({**summary, "comparisons": report}, indent=1))
        return
    print(f"shape {options.shape[0]}x{options.shape[1]}, {options.threads} threads, {summary['machine']['cpu_model']}")
    print(f"{'runtime':<12} {'bench ms':>9} {'cv':>5}  {'native tool':<14} {'ms':>8} {'cv':>5}  bench / native")
    for row in report:
        ratio = row["ratio"]
        print(
            f"{row['runtime']:<12} {row['bench_ms']:>9.3f} {row['bench_cv']:>5.0%}  {row['tool']:<14} "
            f"{row['tool_ms']:>8.3f} {row['tool_cv']:>5.0%}  {ratio['value']:.3f} [{ratio['low']:.3f}, "
            f"{ratio['high']:.3f}] {row['verdict']}"
        )


def build_model(folder: Path, layers: int, hidden: int) -> Path:
    """A randomly initialised BERT classifier of the given size as checkpoint, ONNX and IR."""
    import openvino
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        attn_implementation="sdpa",
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)

    class Positional(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(**dict(zip(MODEL_INPUTS, inputs, strict=True))).logits
            return logits

    torch.onnx.export(
        Positional().eval(),
        tuple(torch.ones(2, 8, dtype=torch.int64) for _ in MODEL_INPUTS),
        folder / "model.onnx",
        dynamo=True,
        input_names=list(MODEL_INPUTS),
        output_names=["logits"],
        dynamic_shapes=(tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in MODEL_INPUTS),),
        external_data=False,
        verbose=False,
    )
    openvino.save_model(
        openvino.convert_model(folder / "model.onnx"), folder / "openvino_model.xml", compress_to_fp16=False
    )
    return folder


def measure(folder: Path, options: argparse.Namespace, scratch: Path) -> dict[tuple[str, str], list[float]]:
    """Median milliseconds per round, by (runtime, tool); the order is rotated in each round."""
    batch, tokens = options.shape
    ids = np.random.default_rng(0).integers(1000, 2000, size=(1, tokens))
    requests = Requests.from_features(
        [{"input_ids": ids[0], "attention_mask": np.ones(tokens), "token_type_ids": np.zeros(tokens)}]
    )
    requests.save(scratch / "requests.npz")
    np.savez(scratch / "inputs.npz", allow_pickle=False, **requests.shaped(batch, tokens))
    for name, array in requests.shaped(batch, tokens).items():
        np.save(scratch / f"{name}.npy", array)

    with Workers(CELL_WORKER, options.threads, scratch) as workers:
        tools: dict[tuple[str, str], Callable[[], float]] = {}
        for runtime, tool in PAIRS.items():
            worker = workers.start(runtime)
            worker.call(
                "open",
                runtime=runtime,
                precision="fp32",
                folder=str(folder),
                threads=options.threads,
                requests=str(scratch / "requests.npz"),
            )
            worker.call("shape", batch=batch, tokens=tokens, seconds=1.0, least=LEAST_REQUESTS)
            native = _bare_loop if tool == "bare loop" else _benchmark_app
            tools[runtime, "bench"] = partial(_median_of_bench, worker, options)
            tools[runtime, tool] = partial(native, folder, scratch, options)
        medians: dict[tuple[str, str], list[float]] = {key: [] for key in tools}
        keys = list(tools)
        for turn in range(options.rounds):
            for key in keys[turn % len(keys) :] + keys[: turn % len(keys)]:
                medians[key].append(tools[key]())
    return medians


def _median_of_bench(worker: WorkerProcess, options: argparse.Namespace) -> float:
    batch, tokens = options.shape
    found = worker.call("shape", batch=batch, tokens=tokens, seconds=options.seconds, least=LEAST_REQUESTS)
    return percentile(found["samples_ms"], 50)


def compare(medians: Mapping[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """One row per runtime: both tools' medians, their ratio with its interval, and whether the tools agree."""
    rows = []
    for runtime, tool in PAIRS.items():
        ours, theirs = medians[runtime, "bench"], medians[runtime, tool]
        ratio = paired_ratio(dict(enumerate(ours)), dict(enumerate(theirs)))
        assert ratio is not None  # both ran in every round
        agrees = ratio.low <= 1 + TOLERANCE and ratio.high >= 1 - TOLERANCE
        rows.append(
            {
                "runtime": runtime,
                "tool": tool,
                "bench_ms": percentile(ours, 50),
                "bench_cv": coefficient_of_variation(ours),
                "tool_ms": percentile(theirs, 50),
                "tool_cv": coefficient_of_variation(theirs),
                "ratio": ratio.model_dump(),
                "verdict": "agrees" if agrees else "differs",
            }
        )
    return rows


def _bare_loop(folder: Path, scratch: Path, options: argparse.Namespace) -> float:
    arguments = [str(folder / "model.onnx"), str(scratch / "inputs.npz"), str(options.threads), str(options.seconds)]
    return float(_output([sys.executable, "-c", BARE_LOOP, *arguments], options.threads))


def _benchmark_app(folder: Path, scratch: Path, options: argparse.Namespace) -> float:
    batch, tokens = options.shape
    _output(
        [
            str(Path(sys.executable).with_name("benchmark_app")),
            *("-m", str(folder / "openvino_model.xml"), "-d", "CPU", "-api", "sync"),
            # benchmark_app accepts a thread count only with hint none; the latency hint means one stream.
            *("-hint", "none", "-nstreams", "1"),
            *("-infer_precision", "f32", "-nthreads", str(options.threads), "-t", str(max(1, round(options.seconds)))),
            *("-i", ",".join(f"{name}:{scratch / name}.npy" for name in MODEL_INPUTS)),
            *("-data_shape", ",".join(f"{name}[{batch},{tokens}]" for name in MODEL_INPUTS)),
            *("-report_type", "no_counters", "-json_stats", "-report_folder", str(scratch)),
        ],
        options.threads,
    )
    report = json.loads((scratch / "benchmark_report.json").read_text(encoding="utf-8"))
    return float(report["execution_results"]["latency (ms)"])


def _output(command: list[str], threads: int) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env=worker_environment(threads), timeout=600, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deployment", type=Path, help="measure this folder instead of a random bert-base")
    parser.add_argument("--shape", default="1x128", help="BATCHxTOKENS")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured seconds per tool and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=describe_machine().usable_cpus)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768, help="a multiple of 64")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    batch, separator, tokens = options.shape.partition("x")
    if not (separator and batch.isdigit() and tokens.isdigit()):
        parser.error(f"--shape: expected BATCHxTOKENS such as 1x128, found {options.shape!r}")
    options.shape = (int(batch), int(tokens))
    return options


if __name__ == "__main__":
    main()
