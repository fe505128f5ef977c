# SPDX-License-Identifier: Apache-2.0
"""Records of ``studies/accuracy.py``, and the tables made of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.report.report import load_report
from sparse_deploy.results import BenchReport, GateResult

# Column, deployment, cell.
COLUMNS = (
    ("ORT INT8 static", "static", "onnxruntime-int8"),
    ("OpenVINO INT8 static", "static", "openvino-int8"),
    ("ORT INT8 dynamic", "dynamic", "onnxruntime-int8"),
    ("PyTorch INT8 dynamic", "static", "pytorch-int8"),
    ("sparse in ORT", "static", "sparse-int8"),
    ("sparse in OpenVINO", "sparse", "openvino-sparse-int8"),
)
# The same operators in two runtimes; the remaining nodes are the runtime's own and round differently.
TWINS = ("sparse-int8", "openvino-sparse-int8")
_VERDICTS = {"pass": "pass", "fail": "**fail**", "inconclusive": "open"}
Record = Mapping[str, Any]


def record_of(deployment: Path, report_folder: Path) -> dict[str, Any]:
    """Collect the table's figures of one deployment and its report.

    Args:
        deployment: folder named ``TASK-MODEL-KIND``.
        report_folder: the report folder that ``bench`` wrote.
    """
    report = load_report(report_folder / "report.json")
    details = load_manifest(deployment, "deployment", verify=False).details
    task, model, kind = deployment.name.split("-")
    baseline = report.cell(report.baseline)
    return {
        "task": task,
        "model": model,
        "kind": kind,
        "zeros": baseline.sparsity.sparsity_of_prunable if baseline.sparsity else 0.0,
        "rows": report.examples,
        "fp32": {name: _largest_change(report, name) for name in baseline.metrics},
        "baseline": {name: value for name, value in baseline.metrics.items() if "loss" not in name},
        "search": details.get("int8_search"),
        "gates": [_gate(report, gate) for gate in report.gates if gate.evidence],
        "machine": report.machine.cpu_model,
        "versions": report.versions,
        **({"twins": twins(report_folder)} if kind == "sparse" else {}),
    }


def twins(report_folder: Path) -> dict[str, Any]:
    """Differences between the answers of the two sparse cells, over all splits.

    Returns:
        ``rows``; ``changed``, the number of different predictions; ``logits``, the largest difference of a logit; and
        ``gap``, the largest difference between the two best logits of a row whose prediction changed (not for SQuAD,
        whose logits are those of span ends).
    """
    folder = report_folder / "predictions"
    pairs = [
        (json.loads(one), json.loads(other))
        for path in sorted(folder.glob(f"{TWINS[0]}*.jsonl"))
        for one, other in zip(
            path.read_text(encoding="utf-8").splitlines(),
            (folder / path.name.replace(*TWINS, 1)).read_text(encoding="utf-8").splitlines(),
            strict=True,
        )
    ]
    scores = len(pairs[0][0].get("logits", ())) == 1
    changed = [one for one, other in pairs if not scores and one["prediction"] != other["prediction"]]
    differences = [
        abs(a - b) for one, other in pairs for a, b in zip(one.get("logits", ()), other.get("logits", ()), strict=True)
    ]
    best = [sorted(row["logits"])[-2:] for row in changed if "label" in row]
    return {
        "rows": len(pairs),
        "changed": len(changed),
        "logits": max(differences, default=None),
        "gap": max((high - low for low, high in best), default=None),
    }


def _largest_change(report: BenchReport, metric: str) -> float:
    """The change of a metric with the largest absolute value among the FP32 files of ONNX Runtime and OpenVINO."""
    before = report.cell(report.baseline).metrics[metric]
    changes = [cell.metrics[metric] - before for cell in report.cells if cell.precision == "fp32"]
    return 0.0 + max(changes, key=abs)


def _gate(report: BenchReport, gate: GateResult) -> dict[str, Any]:
    evidence = gate.evidence
    assert evidence is not None
    return {
        "cell": gate.cell,
        "metric": gate.goal.metric,
        "margin": gate.goal.value,
        "drop": evidence.drop,
        "high": evidence.high,
        "rows": evidence.rows,
        "changed": evidence.changed,
        "verdict": gate.verdict,
        "agreement": report.cell(gate.cell).agreement,
    }


def markdown(records: Sequence[Record], order: Sequence[str]) -> str:
    """The table: a row per task, model and metric; each cell has the change, its lower bound, and the verdict."""
    headers = (
        "task, metric",
        "zeros %",
        "rows",
        "PyTorch FP32",
        "FP32 elsewhere",
        *(column for column, _, _ in COLUMNS),
        "kept FP32",
    )
    lines = [f"| {' | '.join(headers)} |", "|---|" + "---:|" * (len(headers) - 1)]
    by_name = {(record["task"], record["model"], record["kind"]): record for record in records}
    for task in order:
        for model in ("dense", "u70"):
            kinds = {kind: record for (*of, kind), record in by_name.items() if of == [task, model]}
            if "static" in kinds:
                lines += _rows(kinds)
    return "\n".join(lines)


def twins_markdown(records: Sequence[Record], order: Sequence[str]) -> str:
    """The sparse operators in ONNX Runtime against the same operators in OpenVINO: a row per task and model."""
    found = [record for record in records if "twins" in record]
    found.sort(key=lambda record: (order.index(record["task"]), record["model"]))
    headers = ("task", "zeros %", "rows", "other predictions", "gap of their two best logits", "largest difference")
    lines = [f"| {' | '.join(headers)} |", "|---|" + "---:|" * (len(headers) - 1)]
    for record in found:
        pair = record["twins"]
        gap, logits = ("" if pair[name] is None else f"{pair[name]:.3f}" for name in ("gap", "logits"))
        figures = (record["task"], f"{100 * record['zeros']:.0f}", f"{pair['rows']:,}", str(pair["changed"]))
        lines.append(f"| {' | '.join((*figures, f'at most {gap}' if gap else '', logits))} |")
    return "\n".join(lines)


def _rows(kinds: Mapping[str, Record]) -> list[str]:
    static = kinds["static"]
    unit = 1.0 if static["task"] == "squad" else 100.0
    lines = []
    for metric in dict.fromkeys(gate["metric"] for gate in static["gates"]):
        cells = []
        for _, kind, cell in COLUMNS:
            gates = kinds[kind]["gates"] if kind in kinds else ()
            found = [gate for gate in gates if (gate["cell"], gate["metric"]) == (cell, metric)]
            cells.append(_verdict(found[0], unit) if found else "")
        figures = (
            f"{static['task']}, {metric.replace('_', ' ')}",
            f"{100 * static['zeros']:.0f}",
            f"{static['rows']:,}",
            f"{static['baseline'][metric] * unit:.2f}",
            f"{static['fp32'][metric] * unit:+.2f}",
        )
        lines.append(f"| {' | '.join((*figures, *cells, _kept(static['search'])))} |")
    return lines


def _verdict(gate: Record, unit: float) -> str:
    change, worst = 0.0 - gate["drop"] * unit, 0.0 - gate["high"] * unit  # 0.0 - x: no negative zero
    return f"{change:+.2f} (≥ {worst:+.2f}) {_VERDICTS[gate['verdict']]}"


def _kept(search: Record | None) -> str:
    return "" if not search else str(len(search["fp32_operators"]))
