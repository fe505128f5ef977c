# SPDX-License-Identifier: Apache-2.0
"""Parts of a realistic report: six cells of a 6-layer encoder at 70 % zeros, made from fixed random numbers."""

from typing import Any

import numpy as np

from sparse_deploy.config.schema import Goal
from sparse_deploy.gate.figures import metric_value
from sparse_deploy.results import (
    Cell,
    GateResult,
    Latency,
    Ratio,
    ShapeLatency,
    StreamedThroughput,
    Throughput,
)
from sparse_deploy.sparsity.statistics import SparsityRecord, TensorRecord

ROLES = {
    "attention.self.query": (384, 384),
    "attention.self.key": (384, 384),
    "attention.self.value": (384, 384),
    "attention.output.dense": (384, 384),
    "intermediate.dense": (1536, 384),
    "output.dense": (384, 1536),
}
# id: accuracy, agreement, p50 in ms, examples per second, bytes, resident bytes
CELLS = {
    "pytorch-fp32": (0.9048165137614679, None, 11.9, 141.0, 90_900_000, 612_000_000),
    "pytorch-int8": (0.9025229357798165, 0.9908, 9.4, 171.0, 90_900_000, 731_000_000),
    "onnxruntime-fp32": (0.9048165137614679, 1.0, 8.3, 188.0, 90_800_000, 301_000_000),
    "onnxruntime-int8": (0.9013761467889908, 0.9874, 4.1, 402.0, 23_100_000, 171_000_000),
    "openvino-fp32": (0.9048165137614679, 1.0, 7.6, 203.0, 90_800_000, 322_000_000),
    "openvino-int8": (0.9002293577981652, 0.9862, 3.6, 455.0, 23_400_000, 201_000_000),
}
GOALS = (
    Goal(metric="accuracy", type="max-degradation", value=0.005),
    Goal(metric="accuracy", type="threshold", value=0.895),
    Goal(metric="sparsity", type="threshold", value=0.69),
)


def make_record(layers: int = 6, share: float = 0.7, extra: float = 0.0) -> SparsityRecord:
    tensors = []
    for layer in range(layers):
        for number, (role, shape) in enumerate(ROLES.items()):
            own = min(0.99, share + 0.02 * (number - 2.5) + 0.01 * (layer - (layers - 1) / 2))
            required = int(own * shape[0] * shape[1])
            tensors.append(
                TensorRecord(
                    name=f"bert.encoder.layer.{layer}.{role}.weight",
                    shape=shape,
                    zeros=required + int(extra * shape[0] * shape[1]),
                    required_zeros=required,
                    pattern="unstructured",
                    mask_sha256=f"{layer:02d}{number:02d}" * 16,
                )
            )
    return SparsityRecord(tensors=tuple(tensors), model_parameters=22_700_000)


def make_latency(p50: float, seed: int, requests: int = 400, spread: float = 0.01) -> Latency:
    samples = p50 * np.random.default_rng(seed).lognormal(0.0, 0.25, requests)
    medians = p50 * (1 + spread * np.linspace(-1, 1, 5))
    p90, p95, p99 = np.percentile(samples, (90, 95, 99))
    return Latency(
        p50_ms=p50, p90_ms=p90, p95_ms=p95, p99_ms=p99, mean_ms=float(samples.mean()),
        cv=float(medians.std() / medians.mean()), requests=requests, block_medians_ms=tuple(medians),
        samples_ms=tuple(samples), rounds=tuple(range(len(medians))),
    )  # fmt: skip


def make_streamed(rate: float, streams: int = 2) -> StreamedThroughput:
    return StreamedThroughput(
        examples_per_second=rate, tokens_per_second=rate * 25, cv=0.013, batch_size=32,
        blocks=tuple(rate * np.array([0.98, 0.99, 1.0, 1.01, 1.02])), streams=streams,
        gain=Ratio(value=1.1, low=1.07, high=1.12, confidence=0.95),
    )  # fmt: skip


def make_cell(cell_id: str, seed: int, **changes: Any) -> Cell:
    accuracy, agreement, p50, rate, size, resident = CELLS[cell_id]
    runtime, precision = cell_id.split("-")
    speedup = CELLS["pytorch-fp32"][2] / p50
    ratio = (
        None if agreement is None else Ratio(value=speedup, low=speedup * 0.97, high=speedup * 1.04, confidence=0.95)
    )
    fields: dict[str, Any] = {
        "id": cell_id,
        "runtime": runtime,
        "precision": precision,
        "file": "model_int8.onnx" if precision == "int8" else "model.onnx",
        "version": "1.31.0",
        "metrics": {"loss": 0.31, "accuracy": accuracy},
        "agreement": agreement,
        "latency": make_latency(p50, seed),
        "throughput": Throughput(
            examples_per_second=rate, tokens_per_second=rate * 25, cv=0.01, batch_size=32,
            blocks=tuple(rate * np.array([0.98, 0.99, 1.0, 1.01, 1.02])),
        ),
        "streamed": make_streamed(rate + 45) if runtime == "openvino" else None,
        "shapes": (ShapeLatency(batch=1, tokens=128, latency=make_latency(p50 * 4, seed + 50), speedup=ratio),),
        "load_ms": 180.0 + 10 * seed,
        "first_inference_ms": p50 * 5,
        "file_bytes": size,
        "rss_bytes": resident,
        "sparsity": make_record(extra=0.02 if precision == "int8" else 0.0),
        "speedup": ratio,
    }  # fmt: skip
    return Cell(**(fields | changes))


def judged(goals: tuple[Goal, ...], cells: tuple[Cell, ...]) -> tuple[GateResult, ...]:
    """A result per goal and cell, computed from the figures without a statistical test."""
    results = []
    for goal in goals:
        relative = goal.type == "max-degradation"
        for cell in cells[1:] if relative else cells:
            value, reference = metric_value(cell, goal.metric), metric_value(cells[0], goal.metric)
            bound = reference - goal.value if relative else goal.value
            verdict, relation = ("pass", "reaches") if value >= bound else ("fail", "misses")
            results.append(
                GateResult(
                    goal=goal, cell=cell.id, value=value, baseline=reference if relative else None, bound=bound,
                    verdict=verdict, explanation=f"{goal.metric} {value:.4f} of {cell.id} {relation} {bound:.4f}.",
                )
            )  # fmt: skip
    return tuple(results)
