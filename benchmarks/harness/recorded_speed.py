# SPDX-License-Identifier: Apache-2.0
"""Extracts the figures that ``sparse-deploy inspect`` quotes from records of whole encoders. Pure functions."""

import json
from collections.abc import Iterable

from harness.bars import CELLS
from harness.cells import parse_cell, parse_pattern
from harness.records import Record, is_forced
from harness.sessions import OURS, OWN_DENSE
from sparse_deploy.inspection.recorded_speed import RecordedSpeed
from sparse_deploy.sparsity.pattern import SparsityPattern

_ORT_INT8 = ("ort_qdq_int8", "ort_dynamic_int8")


def recorded_speeds_text(records: Iterable[Record]) -> str:
    """The content of ``recorded_speed.json``: an entry per cell and section, in the order of the tables."""
    order = {name: number for number, name in enumerate(CELLS)}
    cells = [record for record in records if record["kind"] == "cell" and record.get("speedup_vs_best_dense")]
    cells.sort(key=lambda record: (record["instruction_set"]["best"], is_forced(record), order.get(record["cell"], 99)))
    entries = [_entry(record).model_dump(mode="json") for record in cells]
    return json.dumps(entries, indent=1) + "\n"


def _entry(record: Record) -> RecordedSpeed:
    cell = parse_cell(record["cell"])
    pattern, share = parse_pattern(cell.pattern)
    dense = {name: record[f"{name}_ms"] for name in _ORT_INT8 if record.get(f"{name}_ms") is not None}
    times = {
        "ours": record[f"{OURS}_ms"],
        "own_dense": record.get(f"{OWN_DENSE}_ms"),
        "onnxruntime_int8": min(dense.values(), default=None),
        "openvino_int8": record.get("openvino_int8_ms"),
    }
    return RecordedSpeed(
        cpu=record["machine"]["cpu_model"],
        instruction_set=record["instruction_set"]["name"],
        forced=is_forced(record),
        model=cell.model,
        pattern=_kernels_name(pattern),
        zero_share=share,
        batch=cell.batch,
        tokens=cell.sequence,
        milliseconds={name: ms for name, ms in times.items() if ms is not None},
        best_dense="" if record["best_dense"] == OWN_DENSE else record["best_dense"],
        speedup=record["speedup_vs_best_dense"],
        interval=tuple(record["interval"]),
        command=record.get("command", "python benchmarks/encoder.py"),
        date=record["measured_at"][:10],
    )


def _kernels_name(pattern: SparsityPattern) -> str:
    """The kernels' name of a pattern."""
    text = str(pattern)
    return f"block_{text}" if "x" in text else text
