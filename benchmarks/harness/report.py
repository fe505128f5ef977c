# SPDX-License-Identifier: Apache-2.0
"""The record of a measured cell, as ``--json`` prints it, and its line in the table of a terminal."""

import importlib.metadata
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from harness.bars import Bar
from harness.cells import Cell
from harness.rivals import Block, best_rival, by_rival, quartiles_ms, speedup
from harness.sessions import OURS, OURS_OPENVINO, OWN_DENSE, RIVALS
from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.kernels.loader import instruction_set
from sparse_deploy.machine import describe_machine
from sparse_deploy.measurement.pairing import clean_blocks, middle_ms

SCHEMA_VERSION = 1
_VERSIONED = ("sparse-deploy", "onnxruntime", "openvino", "torch", "transformers", "numpy")


def context(threads: int) -> dict[str, Any]:
    """The fields of every record: machine, instruction set, versions, command, threads, date."""
    machine, used = describe_machine().model_dump(mode="json"), used_instruction_set()
    if instructions_hidden():
        machine["cpu_model"] += " (AVX-512 hidden)"
        machine["flags"] = [flag for flag in machine["flags"] if not flag.startswith(("avx512", "avx_vnni", "amx"))]
        used["best"] = used["name"]
    return {
        "schema_version": SCHEMA_VERSION,
        "threads": threads,
        "machine": machine,
        "instruction_set": used,
        "command": shlex.join(["python", *sys.argv]),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def instructions_hidden() -> bool:
    """Whether ``tests/hidden_instructions.py`` started this process: every runtime then detects an AVX2-only CPU."""
    return "hidden.so" in os.environ.get("LD_PRELOAD", "")


def used_instruction_set() -> dict[str, str]:
    """``name`` of the set that the kernels use, and ``best``, the set that they use unless another is forced."""
    try:
        found = instruction_set()
    except RuntimeUnavailableError:
        return {"name": "none", "best": "none"}
    return {"name": found.name, "best": found.supported[0]}


def summarize(blocks: Sequence[Block], ours: str = OURS) -> dict[str, Any]:
    """The figures of a cell under the label with the most comparable rounds; other labels are under ``by_label``.

    Returns:
        ``label``, ``best_dense``, ``speedup_vs_best_dense``, its interval, and milliseconds and spread per runtime.
        Without clean blocks of the candidate, only the figures of the baselines.
    """
    labels = {name: _figures(by_rival(found), ours) for name, found in clean_blocks(blocks).items()}
    if not labels:
        return {"label": None, "milliseconds": {}, "spread": {}, "by_label": {}}
    # Most comparable rounds first; without the candidate, most blocks.
    chosen = max(labels, key=lambda name: (labels[name].get("rounds", 0), len(labels[name]["milliseconds"])))
    return {"label": chosen, **labels[chosen], "by_label": labels}


def cell_record(
    cell: Cell,
    blocks: Sequence[Block],
    variants: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, str],
    bar: Bar | None = None,
) -> dict[str, Any]:
    """One cell as one JSON object, without the context.

    Args:
        cell: the cell.
        blocks: all blocks of the cell.
        variants: by runtime, the worker's reply to ``open`` and the relative error of the answer.
        missing: by runtime, the reason why it was not measured.
        bar: required speed-up of the cell on this CPU; None if not set.
    """
    figures = summarize(blocks)
    figures.pop("milliseconds", None)
    by_label = figures.pop("by_label")
    shown = by_label.get(figures["label"], {"milliseconds": {}})["milliseconds"]
    # A runtime with one disturbed block only still gets a figure, marked as disturbed; no ratio uses it.
    disturbed = {
        name: round(min(median(block.result) for block in found), 3)
        for name, found in by_rival(blocks).items()
        if name not in shown and name not in (OURS, OURS_OPENVINO)
    }
    shown = {**shown, **disturbed}
    looks = [state for block in blocks for state in block.states if state.one_way_ns is not None]
    return {
        "kind": "cell",
        "cell": cell.name,
        **{f"{name}_ms": shown.get(name) for name in (OURS, OURS_OPENVINO, OWN_DENSE, *RIVALS)},
        "best_dense": figures.pop("best_dense", None),
        "speedup_vs_best_dense": figures.pop("speedup", None),
        **figures,
        **verdict(bar, by_label.get(figures["label"], {}).get("speedup")),
        "by_label": by_label,
        "core_to_core_ns": _range([look.one_way_ns or 0.0 for look in looks]),
        "blocks": {"measured": len(blocks), "compared": sum(len(f) for f in clean_blocks(blocks).values())},
        "variants": dict(variants),
        "disturbed": sorted(disturbed),
        "missing": dict(missing),
    }


def verdict(bar: Bar | None, value: float | None) -> dict[str, Any]:
    """``bar`` and whether it is ``reached`` (None without a bar or a value)."""
    if bar is None:
        return {}
    return {"bar": bar.must, "aim": bar.aim, "reached": None if value is None else value >= bar.must}


def cell_line(record: Mapping[str, Any]) -> str:
    """One line of text per cell, for a terminal."""
    ours = record["ours_ms"]
    rivals = {name: record[f"{name}_ms"] for name in (OWN_DENSE, *RIVALS) if record[f"{name}_ms"] is not None}
    text = f"{record['cell']:<24} {record['label'] or 'no clean block':<5}"
    if ours is not None and record.get("interval"):  # no interval: no round has clean blocks of both
        low, high = record["interval"]
        text += (
            f" sparse {ours:8.2f} ms  {record['speedup_vs_best_dense']:.2f}x [{low:.2f}, {high:.2f}] over "
            f"{record['best_dense']}"
        )
    if record.get("reached") is not None:
        text += f"  bar {record['bar']}: {'reached' if record['reached'] else 'missed'}"
    if inside := record.get(OURS_OPENVINO):
        text += (
            f"\n    inside OpenVINO {record[f'{OURS_OPENVINO}_ms']:8.2f} ms  {inside['speedup']:.2f}x "
            f"[{inside['interval'][0]:.2f}, {inside['interval'][1]:.2f}]"
        )
    others = "  ".join(f"{name} {ms:.2f}" for name, ms in sorted(rivals.items(), key=lambda item: item[1]))
    return f"{text}\n    {others}"


def _figures(blocks: Mapping[str, Sequence[Block]], ours: str) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    best = best_rival(blocks, ours)
    ratio = speedup(blocks.get(ours, ()), blocks[best]) if best is not None else None
    if best is not None:
        figures["best_dense"] = best
    if ratio is not None:
        figures |= ratio.as_json()
    inside = speedup(blocks.get(OURS_OPENVINO, ()), blocks[best]) if best is not None and ours == OURS else None
    if inside is not None:
        figures[OURS_OPENVINO] = inside.as_json()
    return {
        **figures,
        "milliseconds": {name: round(middle_ms(found), 3) for name, found in blocks.items()},
        "spread": {name: [round(value, 3) for value in quartiles_ms(found)] for name, found in blocks.items()},
    }


def _range(values: Sequence[float]) -> list[float] | None:
    return [round(min(values), 1), round(max(values), 1)] if values else None
