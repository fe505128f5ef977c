# SPDX-License-Identifier: Apache-2.0
"""Forest plot of the gates: each drop with its one-sided bounds, and the allowed drop."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparse_deploy.report.svg import FAINT, INK, PAPER, VERDICT_COLOURS, new_figure, plot_style, to_inline_svg
from sparse_deploy.report.tables import allowed_drop, compared_with, points
from sparse_deploy.results import BenchReport, GateResult

_WIDTH = 6.4
_ROW_HEIGHT = 0.34
# The shape also shows the verdict, for colour-blind readers.
_MARKERS = {"pass": "o", "fail": "X", "inconclusive": "D"}


def drops_by_gate(report: BenchReport) -> str:
    """A row per gate with evidence, in the report's order, as inline SVG; empty if no gate has evidence."""
    gates = [gate for gate in report.gates if _is_drawable(gate)]
    if not gates:
        return ""
    with plot_style():
        figure = new_figure(_WIDTH, 1.15 + _ROW_HEIGHT * len(gates))
        axes = figure.subplots()
        for row, gate in enumerate(gates):
            _draw_gate(axes, row, gate, report)
        axes.axvline(0, color=FAINT, linewidth=0.9, zorder=1)
        axes.set_ylim(len(gates) - 0.45, -0.55)
        axes.set_yticks(range(len(gates)), [_label(gate, gates) for gate in gates])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.06)
        axes.set_xlabel(f"points below {compared_with(report)} (right is worse)")
        axes.grid(visible=True, axis="x")
        _legend(figure, gates)
        return to_inline_svg(figure, "gates")


def _draw_gate(axes: Axes, row: int, gate: GateResult, report: BenchReport) -> None:
    if gate.evidence is None:
        return
    colour = VERDICT_COLOURS[gate.verdict]
    drop, low, high = (
        points(report, gate.goal.metric, value) for value in (gate.evidence.drop, gate.evidence.low, gate.evidence.high)
    )
    axes.hlines(row, low, high, color=colour, linewidth=2, zorder=2)
    axes.vlines((low, high), row - 0.13, row + 0.13, color=colour, linewidth=2, zorder=2)
    hollow = gate.verdict == "inconclusive"
    axes.plot(
        drop, row, _MARKERS[gate.verdict], color=colour, markersize=7.5, markerfacecolor=PAPER if hollow else colour,
        markeredgewidth=1.4, zorder=3,
    )  # fmt: skip
    allowed = allowed_drop(gate)
    if allowed is not None and math.isfinite(allowed):
        margin = points(report, gate.goal.metric, allowed)
        axes.vlines(margin, row - 0.5, row + 0.5, color=INK, linewidth=1.6, linestyle=(0, (3, 2)), zorder=2)


def _label(gate: GateResult, gates: list[GateResult]) -> str:
    return gate.cell if len({other.goal for other in gates}) == 1 else f"{gate.cell}  {gate.goal.metric}"


def _legend(figure: Figure, gates: list[GateResult]) -> None:
    verdicts = {gate.verdict for gate in gates}
    handles = [
        Line2D([], [], color=colour, linewidth=2, marker=_MARKERS[verdict], markersize=6.5, label=verdict,
               markerfacecolor=PAPER if verdict == "inconclusive" else colour)
        for verdict, colour in VERDICT_COLOURS.items()
        if verdict in verdicts
    ]  # fmt: skip
    handles.append(Line2D([], [], color=INK, linewidth=1.6, linestyle=(0, (3, 2)), label="allowed"))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.2, fontsize=8.5)


def _is_drawable(gate: GateResult) -> bool:
    found = gate.evidence
    return found is not None and all(math.isfinite(value) for value in (found.drop, found.low, found.high))
