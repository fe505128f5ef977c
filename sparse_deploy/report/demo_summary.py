# SPDX-License-Identifier: Apache-2.0
"""The results of the demo in a few lines: zeros, accuracy, latency per runtime, and the gain by the zeros."""

import math
from collections.abc import Sequence

from sparse_deploy.measurement.pairing import paired_ratio
from sparse_deploy.report.tables import short_number
from sparse_deploy.results import BenchReport, Cell, GateResult
from sparse_deploy.sparsity.statistics import SparsityRecord

_NAMES = {
    "pytorch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "sparse": "sparse operators in ONNX Runtime",
    "openvino-sparse": "sparse operators in OpenVINO",
}
_SPARSE = ("sparse", "openvino-sparse")


def demo_lines(report: BenchReport, pruned: SparsityRecord, texts: int, seconds: float) -> list[str]:
    """The summary.

    Args:
        report: report of ``bench`` against the dense model.
        pruned: zeros of the pruned checkpoint.
        texts: number of unlabelled texts used for pruning.
        seconds: duration of the pruning.

    Returns:
        Lines for a terminal; all figures were measured in this run.
    """
    return [
        f"{report.machine.cpu_model}, {report.settings['threads']} threads",
        "",
        f"Pruned    {pruned.sparsity_of_prunable:.1%} of the encoder's weights are zero: chosen with {texts} "
        f"unlabelled texts in {seconds:.0f} s, without training",
        *_accuracy(report),
        *_latency(report),
        *_skipped(report),
    ]


def _accuracy(report: BenchReport) -> list[str]:
    dense = report.settings.get("baseline_model_metrics", {}).get(report.primary_metric)
    sparse = next((cell for cell in report.cells if cell.runtime in _SPARSE), None)
    if dense is None or sparse is None:
        return []
    line = (
        f"Accuracy  dense, PyTorch FP32: {dense:.2%}; sparse, INT8: {sparse.metrics[report.primary_metric]:.2%} "
        f"({report.examples} held-out texts)"
    )
    gates = [gate for gate in report.gates if gate.cell == sparse.id and gate.goal.metric == report.primary_metric]
    others = [gate for gate in report.gates if gate not in gates and not gate.informational]
    missed = sum(gate.verdict != "pass" for gate in others)
    rest = (
        [f"          {missed} of the {len(others)} checks of other files did not pass; see the report"]
        if missed
        else []
    )
    return [line, *(f"          {_verdict(report, gate)}" for gate in gates), *rest]


def _verdict(report: BenchReport, gate: GateResult) -> str:
    if gate.evidence is None:
        return f"gate: {gate.verdict}. {gate.explanation}"
    points, found = report.points.get(gate.goal.metric, 100.0), gate.evidence
    return (
        f"gate, a drop of at most {points * gate.goal.value:g} points: {gate.verdict} (drop {points * found.drop:.2f}, "
        f"{found.confidence:.0%} bounds {points * found.low:.2f} to {points * found.high:.2f})"
    )


def _latency(report: BenchReport) -> list[str]:
    timed = [cell for cell in report.cells if cell.latency]
    if not timed:
        return []
    tokens = report.lengths.p50
    width = max(len(_name(cell)) for cell in timed)
    lines = [f"Latency   median of single texts, {tokens} tokens at the median; all runtimes in turns, same texts"]
    for cell in sorted(timed, key=_p50, reverse=True):
        remark = "" if cell.stable else "  unstable: other work ran on the CPU"
        lines.append(f"          {_name(cell):{width}}  {short_number(_p50(cell)):>6} ms{remark}")
    return [*lines, *_gain(timed)]


def _skipped(report: BenchReport) -> list[str]:
    """Cells that could not run on this machine, without cells of files that the recipe does not write."""
    skipped = {
        cell: reason for cell, reason in report.settings.get("skipped_cells", {}).items() if "has no" not in reason
    }
    return [f"Skipped   {cell}: {reason}" for cell, reason in skipped.items()]


def _gain(timed: Sequence[Cell]) -> list[str]:
    sparse = min((cell for cell in timed if cell.runtime in _SPARSE), key=_p50, default=None)
    dense = min((cell for cell in timed if cell.runtime not in _SPARSE), key=_p50, default=None)
    if sparse is None or dense is None:
        return []
    above, below = _by_round(dense), _by_round(sparse)
    ratio = paired_ratio(above, below)
    rest = "The other runtimes do not skip zeros: with them, a pruned model is as slow as a dense one."
    if ratio is None:
        return ["", f"No round has undisturbed blocks of both {_name(sparse)} and {_name(dense)}: run it again.", rest]
    times = ratio.value if ratio.high >= 1 else 1 / ratio.value
    if ratio.low > 1:
        answer = (
            f"The sparse model is faster on this CPU: {times:.2f} times as fast as {_name(dense)}, "
            f"the fastest dense runtime"
        )
    elif ratio.high < 1:
        answer = (
            f"The sparse model is slower on this CPU for such short texts: {_name(dense)} is {times:.2f} times as fast"
        )
    else:
        answer = f"No difference on this CPU for such short texts: {times:.2f} times as fast as {_name(dense)}"
    rounds = len(above.keys() & below.keys())
    spread = f" ({ratio.low:.2f} to {ratio.high:.2f}, {ratio.confidence:.0%} interval over {rounds} rounds)"
    unstable = [_name(cell) for cell in (sparse, dense) if not cell.stable]
    doubt = f" The times of {' and '.join(unstable)} were unstable: use a quieter machine." if unstable else ""
    return ["", f"{answer}{spread}.{doubt}", rest]


def _by_round(cell: Cell) -> dict[int, float]:
    """Milliseconds of a cell by the round of the block; the blocks of a round run one after the other."""
    return dict(zip(cell.latency.rounds, cell.latency.block_medians_ms, strict=False)) if cell.latency else {}


def _p50(cell: Cell) -> float:
    return cell.latency.p50_ms if cell.latency else math.inf


def _name(cell: Cell) -> str:
    return f"{_NAMES.get(cell.runtime, cell.runtime)}, {cell.precision.upper()}"
