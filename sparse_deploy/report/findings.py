# SPDX-License-Identifier: Apache-2.0
"""The most important findings: goals met, zeros kept, the fastest cell, stability of the figures."""

from typing import Literal, NamedTuple

from sparse_deploy.report.conditions import machine_state, machine_was_steady
from sparse_deploy.report.tables import (
    primary_difference,
    primary_points,
    ratio_is_stable,
    ratio_text,
    short_number,
    signed_points,
)
from sparse_deploy.report.verdict import worst_first
from sparse_deploy.results import BenchReport, Cell
from sparse_deploy.sparsity.pattern import DENSE

_SPARSE_RUNTIMES = ("sparse", "openvino-sparse")
Tone = Literal["good", "bad", "warn", "neutral"]


class Finding(NamedTuple):
    """One finding.

    Attributes:
        question: the subject, one to three words.
        answer: the verdict.
        detail: one sentence of evidence.
        tone: colour of the finding on a page.
    """

    question: str
    answer: str
    detail: str
    tone: Tone


def headline(report: BenchReport) -> tuple[Finding, ...]:
    """The findings of a report, in reading order."""
    found = (_fastest(report), _gates(report), zeros_kept(report), _stability(report))
    state = machine_state(report)
    if state is None:
        return found
    return (*found, Finding("Machine", *state, "good" if machine_was_steady(report) else "warn"))


def zeros_kept(report: BenchReport) -> Finding:
    """Whether each recorded file stores at least the required zeros, under the same masks as the baseline."""
    recorded = [cell for cell in report.cells if cell.sparsity and cell.sparsity.tensors]
    if not recorded:
        return Finding("Zeros", "not recorded", "No cell has a sparsity record.", "neutral")
    losses = {cell.id: count for cell in recorded if (count := _tensors_that_lost_zeros(report, cell))}
    if losses:
        where = ", ".join(f"{cell_id} ({count} tensors)" for cell_id, count in losses.items())
        return Finding("Zeros", "LOST", f"Required zeros were lost, or masks differ from the baseline: {where}.", "bad")
    first = recorded[0].sparsity
    if first is None or all(tensor.pattern == str(DENSE) for tensor in first.tensors):
        return Finding("Zeros", "dense model", "The recipe requires no zeros.", "neutral")
    required = sum(tensor.required_zeros for tensor in first.tensors)
    patterns = ", ".join(sorted({tensor.pattern for tensor in first.tensors}))
    weights = sum(tensor.numel for tensor in first.tensors)
    where = "all cells" if len(recorded) == len(report.cells) else f"{len(recorded)} of {len(report.cells)} cells"
    return Finding(
        "Zeros",
        f"kept in {where}",
        f"{required:,} required zeros ({100 * required / weights:.1f} % of the prunable weights; {patterns}).",
        "good" if len(recorded) == len(report.cells) else "warn",
    )


def slower_sparse_file(report: BenchReport) -> str | None:
    """A line of text if a dense cell is faster than every cell of the sparse file, else None.

    Only stable cells count.
    """
    timed = {cell.id: cell.latency.p50_ms for cell in report.cells if cell.latency and cell.stable}
    sparse = {cell.id for cell in report.cells if cell.runtime in _SPARSE_RUNTIMES} & timed.keys()
    dense = timed.keys() - sparse
    if not sparse or not dense:
        return None
    best, fastest_dense = (min(cells, key=lambda cell: timed[cell]) for cells in (sparse, dense))
    if timed[best] <= timed[fastest_dense]:
        return None
    return (
        f"the sparse file is not the fastest on this CPU: {fastest_dense} takes {short_number(timed[fastest_dense])} "
        f"ms, {best} {short_number(timed[best])} ms; use {fastest_dense}, or serve --runtime auto, which measures both"
    )


def _fastest(report: BenchReport) -> Finding:
    timed = sorted(
        (cell for cell in report.cells if cell.latency and cell.stable),
        key=lambda cell: cell.latency.p50_ms if cell.latency else 0.0,
    )
    if not timed:
        return Finding("Fastest", "no verdict", "No cell has a stable latency.", "warn")
    missing = {gate.cell for gate in report.gates if gate.verdict != "pass" and not gate.informational}
    detail = _describe(report, timed[0])
    if timed[0].id not in missing:
        return Finding("Fastest", timed[0].id, detail, "good" if report.gates else "neutral")
    meeting = [cell for cell in timed if cell.id not in missing]
    other = f"{meeting[0].id}: {_describe(report, meeting[0])}" if meeting else "none."
    return Finding(
        "Fastest", timed[0].id, f"{detail} It misses a goal; the fastest cell that meets all: {other}", "warn"
    )


def _describe(report: BenchReport, cell: Cell) -> str:
    parts = [f"p50 {short_number(cell.latency.p50_ms if cell.latency else None)} ms"]
    if cell.speedup and cell.id != report.baseline and ratio_is_stable(report, cell):
        parts.append(f"{ratio_text(cell.speedup)} over {report.baseline}")
    primary, difference = primary_points(report, cell), primary_difference(report, cell)
    if primary is not None:
        apart = "" if difference is None else f" ({signed_points(difference)} points)"
        parts.append(f"{report.primary_metric} {primary:.2f} %{apart}")
    return ", ".join(parts) + "."


def _gates(report: BenchReport) -> Finding:
    gates = [gate for gate in worst_first(report.gates) if not gate.informational]
    if not gates:
        return Finding("Goals", "none set", "The recipe has no goals.", "neutral")
    failed = [gate for gate in gates if gate.verdict == "fail"]
    open_ones = [gate for gate in gates if gate.verdict == "inconclusive"]
    if failed:
        more = f" {len(failed) - 1} more below." if len(failed) > 1 else ""
        answer = f"{len(failed)} of {len(gates)} FAILED"
        return Finding("Goals", answer, failed[0].explanation + more, "bad")
    if open_ones:
        answer = f"{len(open_ones)} of {len(gates)} inconclusive"
        return Finding("Goals", answer, open_ones[0].explanation, "warn")
    cells = len({gate.cell for gate in gates})
    return Finding("Goals", "all passed", f"{len(gates)} checks on {cells} cells.", "good")


def _stability(report: BenchReport) -> Finding:
    timed = [cell for cell in report.cells if cell.latency or cell.throughput]
    unsteady = [cell for cell in timed if not cell.stable]
    if not timed:
        return Finding("Numbers", "no timings", "Nothing was timed.", "neutral")
    if unsteady:
        why = "; ".join(f"{cell.id}: {cell.instability or 'blocks spread too much'}" for cell in unsteady)
        return Finding("Numbers", f"{len(unsteady)} of {len(timed)} cells unstable", f"{why}.", "warn")
    spread = max(cell.latency.cv if cell.latency else 0.0 for cell in timed)
    detail = (
        f"Blocks of every cell agree: the medians spread by at most {100 * spread:.1f} % (coefficient of variation)."
    )
    return Finding("Numbers", "stable", detail, "good")


def _tensors_that_lost_zeros(report: BenchReport, cell: Cell) -> int:
    baseline = report.cell(report.baseline).sparsity
    masks = {tensor.name: tensor.mask_sha256 for tensor in baseline.tensors} if baseline else {}
    own = {tensor.name for tensor in cell.sparsity.tensors} if cell.sparsity else set()
    lost = sum(
        tensor.zeros < tensor.required_zeros or masks.get(tensor.name, tensor.mask_sha256) != tensor.mask_sha256
        for tensor in (cell.sparsity.tensors if cell.sparsity else ())
    )
    return lost + len(masks.keys() - own)
