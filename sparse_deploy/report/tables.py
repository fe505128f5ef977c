# SPDX-License-Identifier: Apache-2.0
"""The tables of a report as plain text cells, for the command line, the Markdown and the HTML."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from sparse_deploy.gate.figures import SPARSITY_METRIC, metric_value
from sparse_deploy.report.verdict import gate_name, worst_first
from sparse_deploy.results import BenchReport, Cell, GateResult, Latency, Ratio, Throughput
from sparse_deploy.sparsity.statistics import TensorRecord

MISSING = "-"
UNSTABLE = "unstable"
_MEGABYTE = 1e6
_POINTS_OF_SHARES = 100.0


class Table(NamedTuple):
    """Headers and rows of text; the first column names the row."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary_rows(report: BenchReport) -> Table:
    """One row per cell: accuracy, speed, size and memory.

    Shares are in percent and differences in points, like SQuAD's metrics. MB are 10^6 bytes. A cell whose
    blocks spread too much shows ``unstable`` with the range of its blocks instead of a figure.
    """
    headers = (
        "cell", f"{report.primary_metric} %", "Δ points", "agreement %", "p50 ms", "p90 ms", "p99 ms", "examples/s",
        "in streams", "speed-up", "size MB", "zeros %", "load ms", "first ms", "RSS MB",
    )  # fmt: skip
    return Table(headers, tuple(_summary_row(report, cell) for cell in report.cells))


def stream_rows(report: BenchReport) -> Table:
    """Offline throughput with the throughput hint; no rows if it was not measured.

    The gain is relative to the same cell with the latency hint, spread is the blocks' coefficient of variation.
    """
    rows = [
        (
            cell.id,
            str(cell.streamed.streams),
            _throughput_text(cell.streamed, cell.stable),
            short_number(cell.streamed.tokens_per_second) if cell.stable else UNSTABLE,
            f"{100 * cell.streamed.cv:.1f}",
            ratio_text(cell.streamed.gain) if cell.stable else UNSTABLE,
        )
        for cell in report.cells
        if cell.streamed
    ]
    return Table(("cell", "streams", "examples/s", "tokens/s", "spread %", "over the latency hint"), tuple(rows))


def shape_rows(report: BenchReport) -> Table:
    """Latency of every fixed shape of every cell; no rows if none was measured."""
    rows = [
        (
            cell.id,
            f"{shape.batch} x {shape.tokens}",
            *_latency_texts(shape.latency, cell.stable),
            _ratio_cell(report, cell, shape.speedup),
        )
        for cell in report.cells
        for shape in cell.shapes
    ]
    return Table(("cell", "batch x tokens", "p50 ms", "p90 ms", "p99 ms", "speed-up"), tuple(rows))


def gate_rows(report: BenchReport) -> Table:
    """One row per goal and cell, missed goals first.

    Drops, their bounds and the allowed drop are in points if a paired test compared the cells; other goals show the
    measured figure and its bound in the metric's own unit.
    """
    headers = ("verdict", "cell", "goal", "measured", "drop", "bounds", "allowed", "rows changed")
    return Table(headers, tuple(_gate_row(report, gate) for gate in worst_first(report.gates)))


def reason_rows(report: BenchReport) -> Table:
    """The reasons of missed or inconclusive goals, a sentence each, missed goals first; no rows if all are met."""
    rows = [(_shown(gate), gate.explanation) for gate in worst_first(report.gates) if gate.verdict != "pass"]
    return Table(("verdict", "why"), tuple(rows))


def allowed_drop(gate: GateResult) -> float | None:
    """The allowed drop of the gate's metric below the baseline; None for other types of goals."""
    return None if gate.baseline is None or gate.bound is None else gate.baseline - gate.bound


def compared_with(report: BenchReport) -> str:
    """The baseline cell of drops: the run's own, a stored one, or one of another model."""
    if model := report.settings.get("baseline_model_cell"):
        return str(model)
    stored = report.settings.get("against_cell")
    return f"the stored {stored}" if stored else report.baseline


def sparsity_rows(report: BenchReport) -> Table:
    """Zeros by cell and by detected pattern; ``lost`` counts missing required zeros."""
    rows = []
    for cell in report.cells:
        by_pattern: dict[str, list[TensorRecord]] = defaultdict(list)
        for tensor in cell.sparsity.tensors if cell.sparsity else ():
            by_pattern[tensor.pattern].append(tensor)
        rows += [_pattern_row(cell, pattern, tensors) for pattern, tensors in sorted(by_pattern.items())]
    headers = ("cell", "pattern", "tensors", "weights", "required zeros", "stored zeros", "zeros %", "lost")
    return Table(headers, tuple(rows))


def reference_rows(report: BenchReport) -> Table:
    """Published and measured figures, in the unit of the source (percent if the source is above 1)."""
    baseline = report.cell(report.baseline)
    rows = []
    for reference in report.reference:
        for metric, published in reference.metrics.items():
            ours = _in_unit_of(report, metric, published, [baseline])
            every = _in_unit_of(report, metric, published, report.cells)
            rows.append(
                (
                    metric,
                    f"{published:g}",
                    f"{ours[0]:.4g}" if ours else MISSING,
                    f"{ours[0] - published:+.3g}" if ours else MISSING,
                    f"{min(every):.4g} to {max(every):.4g}" if every else MISSING,
                    reference.source,
                    reference.note,
                )
            )
    return Table(("metric", "published", "ours", "difference", "all cells", "source", "note"), tuple(rows))


def metric_rows(report: BenchReport) -> Table:
    """Every task metric of every cell, in its own unit."""
    names = tuple(dict.fromkeys(name for cell in report.cells for name in cell.metrics))
    rows = tuple(
        (cell.id, *(f"{cell.metrics[name]:.4f}" if name in cell.metrics else MISSING for name in names))
        for cell in report.cells
    )
    return Table(("cell", *names), rows)


def points(report: BenchReport, metric: str, value: float) -> float:
    """A metric in percent, by the unit in the report: shares times 100, SQuAD's unchanged."""
    name = metric
    while name not in report.points and "_" in name:  # accuracy_mismatched: the accuracy of another split
        name = name.rpartition("_")[0]
    return report.points.get(name, _POINTS_OF_SHARES) * value


def primary_points(report: BenchReport, cell: Cell) -> float | None:
    """The primary metric of a cell in percent; None if it was not measured."""
    value = metric_value(cell, report.primary_metric)
    return None if value is None else points(report, report.primary_metric, value)


def primary_difference(report: BenchReport, cell: Cell) -> float | None:
    """Points of the primary metric above (positive) or below the baseline; None for the baseline itself."""
    ours, baseline = primary_points(report, cell), primary_points(report, report.cell(report.baseline))
    if cell.id == report.baseline or ours is None or baseline is None:
        return None
    return ours - baseline


def signed_points(difference: float) -> str:
    """A difference in points with its sign; no sign if it rounds to ``0.00``."""
    text = f"{difference:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def ratio_is_stable(report: BenchReport, cell: Cell) -> bool:
    """Whether a ratio to the baseline may be printed: both cells must be stable."""
    return cell.stable and report.cell(report.baseline).stable


def ratio_text(ratio: Ratio | None) -> str:
    """A speed-up with its interval, such as ``2.53x [2.41, 2.66]``."""
    return MISSING if ratio is None else f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"


def short_number(value: float | None) -> str:
    """About three significant digits without an exponent."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _summary_row(report: BenchReport, cell: Cell) -> tuple[str, ...]:
    primary, difference = primary_points(report, cell), primary_difference(report, cell)
    zeros = metric_value(cell, SPARSITY_METRIC)
    return (
        cell.id,
        _decimals(primary),
        "baseline" if cell.id == report.baseline else MISSING if difference is None else signed_points(difference),
        _decimals(None if cell.agreement is None else 100 * cell.agreement),
        *_latency_texts(cell.latency, cell.stable),
        _throughput_text(cell.throughput, cell.stable),
        _throughput_text(cell.streamed, cell.stable),
        _ratio_cell(report, cell, cell.speedup),
        short_number(cell.file_bytes / _MEGABYTE),
        _decimals(None if zeros is None else 100 * zeros),
        short_number(cell.load_ms),
        short_number(cell.first_inference_ms),
        short_number(None if cell.rss_bytes is None else cell.rss_bytes / _MEGABYTE),
    )


def _gate_row(report: BenchReport, gate: GateResult) -> tuple[str, ...]:
    measured = MISSING if gate.value is None else f"{gate.value:.5g}"
    return (_shown(gate), gate.cell, gate_name(gate), measured, *_evidence_texts(report, gate))


def _shown(gate: GateResult) -> str:
    return f"{gate.verdict} (informs)" if gate.informational else gate.verdict


def _evidence_texts(report: BenchReport, gate: GateResult) -> tuple[str, str, str, str]:
    evidence, allowed = gate.evidence, allowed_drop(gate)
    if evidence is None:
        sign = "≤" if gate.goal.type == "at-most" else "≥"
        return MISSING, MISSING, MISSING if gate.bound is None else f"{sign} {gate.bound:.5g}", MISSING
    low, high = (signed_points(points(report, gate.goal.metric, bound)) for bound in (evidence.low, evidence.high))
    # Without labels a changed prediction is neither better nor worse.
    direction = "" if report.settings.get("without_labels") else f" ({evidence.worse} worse, {evidence.better} better)"
    return (
        signed_points(points(report, gate.goal.metric, evidence.drop)),
        f"{low} to {high} at {100 * evidence.confidence:g} %",
        MISSING if allowed is None else f"≤ {points(report, gate.goal.metric, allowed):.2f}",
        f"{evidence.changed} of {evidence.rows}{direction}",
    )


def _latency_texts(latency: Latency | None, stable: bool) -> tuple[str, str, str]:
    if latency is None:
        return (MISSING,) * 3
    if not stable:
        return (_unstable_range(latency.block_medians_ms), UNSTABLE, UNSTABLE)
    return (short_number(latency.p50_ms), short_number(latency.p90_ms), short_number(latency.p99_ms))


def _throughput_text(throughput: Throughput | None, stable: bool) -> str:
    if throughput is None:
        return MISSING
    return short_number(throughput.examples_per_second) if stable else _unstable_range(throughput.blocks)


def _unstable_range(blocks: Sequence[float]) -> str:
    return f"{UNSTABLE} {short_number(min(blocks))} to {short_number(max(blocks))}" if blocks else UNSTABLE


def _ratio_cell(report: BenchReport, cell: Cell, ratio: Ratio | None) -> str:
    if cell.id == report.baseline:
        return "baseline"
    if ratio is not None and not ratio_is_stable(report, cell):
        return UNSTABLE
    return ratio_text(ratio)


def _pattern_row(cell: Cell, pattern: str, tensors: Sequence[TensorRecord]) -> tuple[str, ...]:
    weights, zeros = sum(t.numel for t in tensors), sum(t.zeros for t in tensors)
    return (
        cell.id,
        pattern,
        str(len(tensors)),
        f"{weights:,}",
        f"{sum(t.required_zeros for t in tensors):,}",
        f"{zeros:,}",
        _decimals(100 * zeros / weights if weights else None),
        f"{sum(max(0, t.required_zeros - t.zeros) for t in tensors):,}",
    )


def _in_unit_of(report: BenchReport, metric: str, published: float, cells: Sequence[Cell]) -> list[float]:
    values = [value for cell in cells if (value := metric_value(cell, metric)) is not None]
    return [points(report, metric, value) for value in values] if abs(published) > 1 else values


def _decimals(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
