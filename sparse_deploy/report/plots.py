# SPDX-License-Identifier: Apache-2.0
"""The plots of a report, each as inline SVG; an empty text if there is nothing to plot."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from sparse_deploy.report.label_placement import place_labels
from sparse_deploy.report.svg import (
    FAINT,
    INK,
    OTHER_COLOUR,
    PAPER,
    RUNTIME_COLOURS,
    new_figure,
    plot_style,
    to_inline_svg,
)
from sparse_deploy.report.tables import UNSTABLE, points, primary_points, short_number
from sparse_deploy.results import BenchReport, Cell, StreamedThroughput, Throughput
from sparse_deploy.sparsity.statistics import SparsityRecord, TensorRecord

_MARKERS = {"fp32": "o", "int8": "D", "bf16": "s"}
_OTHER_MARKER = "^"
_WIDTH = 6.4
_ROW_HEIGHT = 0.36
_BARS_HEIGHT = 0.7  # share of a row

# Roles of an encoder layer's matrices, by the last parts of BERT's and DistilBERT's parameter names. The order
# matters: "attention.output.dense" also ends with "output.dense".
_ROLES = (
    ("query", r"(query|q_lin)"),
    ("key", r"(key|k_lin)"),
    ("value", r"(value|v_lin)"),
    ("attention output", r"attention\.(output\.dense|out_lin)"),
    ("intermediate", r"(intermediate\.dense|lin1)"),
    ("output", r"(output\.dense|lin2)"),
)
_LAYER = re.compile(r"\blayers?\.(\d+)\.")


def accuracy_against_latency(report: BenchReport) -> str:
    """Primary metric over p50 latency: a labelled point per cell, with the range of its block medians."""
    cells = [cell for cell in report.cells if cell.latency and _finite(primary_points(report, cell))]
    if not cells:
        return ""
    with plot_style():
        figure = new_figure(_WIDTH, 4.2)
        axes = figure.subplots()
        positions = [(cell.latency.p50_ms, primary_points(report, cell) or 0.0) for cell in cells if cell.latency]
        drawn = [_draw_point(axes, cell, *place) for cell, place in zip(cells, positions, strict=True)]
        drawn += _draw_bound(axes, report)
        _log_axis(axes, [x for x, _ in positions], padding=0.3)
        values = [y for _, y in positions]
        room = max(0.15, (0.2 if len(cells) <= 6 else 0.35) * (max(values) - min(values)))
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, min(values) - room), max(high, max(values) + room))
        axes.set_xlabel("p50 latency, ms per request (log scale; left is faster)")
        axes.set_ylabel(f"{report.primary_metric}, %")
        axes.grid(visible=True)
        _legend(figure, cells)
        labels = [(cell.id, *place) for cell, place in zip(cells, positions, strict=True)]
        place_labels(figure, axes, labels, avoid=drawn)
        return to_inline_svg(figure, "accuracy")


def latency_distributions(report: BenchReport) -> str:
    """Box per cell over the recorded requests: p25 to p75, whiskers p1 to p99, median; rows in the report's order."""
    cells = [cell for cell in report.cells if cell.latency and cell.latency.samples_ms]
    if not cells:
        return ""
    with plot_style():
        figure, axes = _row_figure(cells)
        ends: list[float] = []
        for row, cell in enumerate(cells):
            samples = np.asarray(cell.latency.samples_ms if cell.latency else ())
            low, q1, middle, q3, high = np.percentile(samples, (1, 25, 50, 75, 99))
            ends += [float(low), float(high)]
            box = {"whislo": low, "q1": q1, "med": middle, "q3": q3, "whishi": high, "fliers": []}
            _draw_box(axes, row, box, cell)
        _log_axis(axes, ends, padding=0.08)
        axes.set_xlabel("latency, ms per request (log scale): p1, p25, p50, p75, p99")
        axes.grid(visible=True, axis="x")
        return to_inline_svg(figure, "latency")


def throughput_bars(report: BenchReport) -> str:
    """Bar per cell: offline examples per second, with the range of the blocks; a second bar for streams."""
    cells = [cell for cell in report.cells if cell.throughput]
    if not cells:
        return ""
    with plot_style():
        figure, axes = _row_figure(cells)
        for row, cell in enumerate(cells):
            bars = [bar for bar in (cell.throughput, cell.streamed) if bar]
            height = _BARS_HEIGHT / len(bars)
            for number, throughput in enumerate(bars):
                _draw_rate(axes, row + (number - (len(bars) - 1) / 2) * height, height, cell, throughput)
        axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
        axes.set_xlabel("examples per second, batched by length; the line is the range of the blocks")
        axes.grid(visible=True, axis="x")
        return to_inline_svg(figure, "throughput")


def sparsity_by_layer(record: SparsityRecord | None) -> str:
    """Heat map of a file's zero shares: a row per matrix role, a column per encoder layer."""
    shares = {place: tensor.zero_share for tensor in (record.tensors if record else ()) if (place := _place(tensor))}
    if not shares:
        return ""
    roles = [role for role, _ in _ROLES if any(place[0] == role for place in shares)]
    layers = sorted({layer for _, layer in shares})
    grid = np.array([[100 * shares.get((role, layer), np.nan) for layer in layers] for role in roles])
    with plot_style():
        figure = new_figure(_WIDTH, 0.9 + _ROW_HEIGHT * len(roles))
        axes = figure.subplots()
        # High values of cividis are bright and low values dark in both page modes; label colours depend on the value.
        axes.pcolormesh(grid, vmin=0, vmax=100, cmap="cividis", edgecolors=PAPER, linewidth=1.5)
        _label_grid(axes, grid)
        axes.set_xticks(np.arange(len(layers)) + 0.5, [str(layer) for layer in layers])
        axes.set_yticks(np.arange(len(roles)) + 0.5, roles)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("encoder layer; figures are zeros in % of the matrix")
        return to_inline_svg(figure, "sparsity")


def _draw_point(axes: Axes, cell: Cell, x: float, y: float) -> Artist:
    """Marker and block range of a cell; returns the range's line, so that labels can avoid it."""
    colour = _colour(cell)
    axes.plot(
        x, y, _MARKERS.get(cell.precision, _OTHER_MARKER), markersize=8, color=colour, zorder=3,
        markerfacecolor=colour if cell.stable else PAPER, markeredgewidth=1.6,
    )  # fmt: skip
    medians = (cell.latency.block_medians_ms if cell.latency else ()) or (x,)
    return axes.hlines(y, min(x, *medians), max(x, *medians), color=colour, linewidth=1.6, zorder=2)


def _draw_bound(axes: Axes, report: BenchReport) -> list[Artist]:
    """Line at the strictest bound on the primary metric; returns the area that labels should avoid."""
    gates = [gate for gate in report.gates if gate.goal.metric == report.primary_metric]
    bounds = [gate.bound for gate in gates if gate.bound is not None and math.isfinite(gate.bound)]
    if not bounds:
        return []
    height = points(report, report.primary_metric, max(bounds))
    line = axes.axhline(height, color=FAINT, linestyle=(0, (4, 3)), linewidth=1.1, zorder=1)
    note = axes.annotate(
        f"goal: at least {height:.2f}", (1, height), xycoords=("axes fraction", "data"), xytext=(-2, 3),
        textcoords="offset points", ha="right", va="bottom", color=FAINT, fontsize=8.5,
    )  # fmt: skip
    return [line, note]


def _draw_rate(axes: Axes, y: float, height: float, cell: Cell, throughput: Throughput) -> None:
    rate, blocks = throughput.examples_per_second, throughput.blocks or (throughput.examples_per_second,)
    axes.barh(y, rate, height=0.9 * height, color=_colour(cell), alpha=1.0 if cell.stable else 0.35, linewidth=0)
    axes.hlines(y, min(blocks), max(blocks), color=INK, linewidth=1.4)
    text = short_number(rate) if cell.stable else UNSTABLE
    if isinstance(throughput, StreamedThroughput):
        text += f", {throughput.streams} stream{'s' if throughput.streams > 1 else ''}"
    axes.annotate(
        text, (max(rate, *blocks), y), xytext=(6, 0), textcoords="offset points", va="center", color=INK,
        fontsize=min(9.5, 24 * height),
    )  # fmt: skip


def _draw_box(axes: Axes, row: int, box: dict[str, Any], cell: Cell) -> None:
    colour = _colour(cell)
    line = {"color": colour, "linewidth": 1.4}
    axes.bxp(
        [box], positions=[row], orientation="horizontal", widths=0.56, showfliers=False, patch_artist=True,
        boxprops={"facecolor": colour, "edgecolor": colour, "alpha": 1.0 if cell.stable else 0.35},
        medianprops={"color": PAPER, "linewidth": 2}, whiskerprops=line, capprops=line, manage_ticks=False,
    )  # fmt: skip


def _row_figure(cells: Sequence[Cell]) -> tuple[Figure, Axes]:
    figure = new_figure(_WIDTH, 0.75 + _ROW_HEIGHT * len(cells))
    axes = figure.subplots()
    axes.set_ylim(len(cells) - 0.45, -0.55)
    axes.set_yticks(range(len(cells)), [cell.id for cell in cells])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _log_axis(axes: Axes, values: Sequence[float], padding: float) -> None:
    """Logarithmic x axis from the data, with ticks at 1, 2 and 5 times powers of ten, written as plain numbers."""
    low, high = min(values), max(values)
    margin = max(padding * math.log10(high / low), 0.06)
    low, high = low / 10**margin, high * 10**margin
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = high / low
    steps = (1, 2, 5) if span > 12 else (1, 2, 3, 5, 7) if span > 4 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    axes.xaxis.set_major_locator(FixedLocator([step * 10.0**power for power in powers for step in steps]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))


def _legend(figure: Figure, cells: Sequence[Cell]) -> None:
    runtimes = dict.fromkeys(cell.runtime for cell in cells)
    precisions = dict.fromkeys(cell.precision for cell in cells)
    handles = [
        Line2D([], [], color=RUNTIME_COLOURS.get(runtime, OTHER_COLOUR), linewidth=5, label=runtime)
        for runtime in runtimes
    ] + [
        Line2D([], [], color=FAINT, linestyle="", marker=_MARKERS.get(precision, _OTHER_MARKER), label=precision)
        for precision in precisions
    ]
    if any(not cell.stable for cell in cells):
        handles.append(Line2D([], [], color=FAINT, linestyle="", marker="o", markerfacecolor=PAPER, label=UNSTABLE))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles),
        handlelength=1.2,
        columnspacing=1.0,
        handletextpad=0.5,
        fontsize=8.5,
    )


def _label_grid(axes: Axes, grid: NDArray[np.float64]) -> None:
    size = 8.5 if grid.shape[1] <= 12 else 6.5
    for row, column in np.argwhere(~np.isnan(grid)):
        value = grid[row, column]
        axes.text(
            column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=size,
            color="black" if value > 55 else "white",
        )  # fmt: skip


def _place(tensor: TensorRecord) -> tuple[str, int] | None:
    layer = _LAYER.search(tensor.name)
    if layer is None:
        return None
    for role, ending in _ROLES:
        if re.search(rf"\b{ending}\.weight$", tensor.name):
            return role, int(layer[1])
    return None


def _colour(cell: Cell) -> str:
    return RUNTIME_COLOURS.get(cell.runtime, OTHER_COLOUR)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
