# SPDX-License-Identifier: Apache-2.0
"""Plots of records: latencies of whole encoders, and the cost of an inference against its shape."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.cells import parse_cell
from harness.sessions import OURS, RIVALS
from sparse_deploy.report.svg import FAINT, OTHER_COLOUR, RUNTIME_COLOURS, new_figure, plot_style

_COLOURS = {
    OURS: RUNTIME_COLOURS["sparse"],
    "openvino": RUNTIME_COLOURS["openvino"],
    "ort": RUNTIME_COLOURS["onnxruntime"],
    "pytorch": RUNTIME_COLOURS["pytorch"],
}
_RIVAL_NAMES = {
    "openvino_int8": "OpenVINO INT8",
    "ort_qdq_int8": "ONNX Runtime INT8",
    "ort_dynamic_int8": "ONNX Runtime dynamic INT8",
    "openvino_bf16": "OpenVINO BF16",
}
_DASHES = {"fp32": (0, (1, 1.5)), "bf16": (0, (4, 2))}
_SIZE = (9.0, 3.6)
_MOST_TICKS = 8
_MODEL_NAMES = {
    "base": "BERT-base",
    "large": "BERT-large",
    "minilm": "MiniLM",
    "distilroberta": "DistilRoBERTa",
    "debertav3small": "DeBERTa-v3-small",
    "modernbert": "ModernBERT-base",
}
_PATTERN_NAMES = {
    "u70": "70 % unstructured",
    "u90": "90 % unstructured",
    "12": "1:2",
    "b80_4x1": "80 % in 4x1 blocks",
    "b80_1x4": "80 % in 1x4 blocks",
}


def plot_encoders(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a pair of bars per cell of batch 1: the fastest dense runtime, with speed 1, and the sparse model.

    Args:
        records: records of kind ``cell`` from one machine; the bars are labelled with the milliseconds.
        path: an SVG file.
    """
    drawn = [record for record in records if parse_cell(record["cell"]).batch == 1 and record["best_dense"]]
    drawn.sort(key=lambda record: record["speedup_vs_best_dense"])
    with plot_style():
        figure = new_figure(9.0, 0.9 + 0.52 * len(drawn))
        axes = figure.subplots()
        for row, record in enumerate(drawn):
            dense_ms, gain = record[f"{record['best_dense']}_ms"], record["speedup_vs_best_dense"]
            dense_name = _RIVAL_NAMES.get(record["best_dense"], record["best_dense"])
            bars = (
                (row - 0.2, 1.0, FAINT, f"{dense_ms:.3g} ms, {dense_name}"),
                (
                    row + 0.2,
                    gain,
                    RUNTIME_COLOURS["sparse"],
                    f"{record['ours_ms']:.3g} ms, sparse: {gain:.1f} times as fast",
                ),
            )
            for place, length, colour, text in bars:
                axes.barh(place, length, height=0.36, color=colour)
                axes.text(length + 0.04, place, text, va="center", fontsize=8.5)
        axes.set_yticks(range(len(drawn)), [_cell_title(record["cell"]) for record in drawn])
        axes.set_xlim(0, 1.6 * max(record["speedup_vs_best_dense"] for record in drawn))
        axes.set_xlabel("speed of one request relative to the fastest dense runtime of the same run")
        machine = records[0]["machine"]
        figure.suptitle(f"{machine['cpu_model']}, {machine['visible_cpus']} CPUs, batch 1", fontsize=10)
        _save(figure, path)


def plot_sweep(record: Mapping[str, Any], path: Path) -> None:
    """Draw a sweep: milliseconds per inference, and microseconds per token, which shows steps.

    Args:
        record: record of kind ``sweep``.
        path: output file; its suffix (``.svg``, ``.png``) is the format.
    """
    over, points = record["sweep"], record["points"]
    names = [name for name in (OURS, *RIVALS) if any(point.get(f"{name}_ms") is not None for point in points)]
    with plot_style():
        figure = new_figure(*_SIZE)
        whole, per_token = figure.subplots(1, 2)
        for name in names:
            drawn = [point for point in points if point.get(f"{name}_ms") is not None]
            x = [point[over] for point in drawn]
            ms = [point[f"{name}_ms"] for point in drawn]
            tokens = [point["batch"] * point["sequence"] for point in drawn]
            _line(whole, name, x, ms)
            _line(per_token, name, x, [1e3 * value / count for value, count in zip(ms, tokens, strict=True)])
        whole.set_yscale("log")
        whole.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        whole.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        whole.set_ylabel("ms per inference")
        per_token.set_ylabel("µs per token")
        per_token.set_ylim(bottom=0)
        for axes in (whole, per_token):
            _shape_axis(axes, over, [point[over] for point in points])
        if names:
            per_token.legend()
        figure.suptitle(_title(record), fontsize=10)
        _save(figure, path)


def _cell_title(name: str) -> str:
    cell = parse_cell(name)
    pattern = _PATTERN_NAMES.get(cell.pattern, cell.pattern)
    return f"{_MODEL_NAMES.get(cell.model, cell.model)}, {pattern}, {cell.sequence} tokens"


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a date in the file, equal data give equal files.
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=150, facecolor="white", metadata=metadata)


def _line(axes: Axes, name: str, x: Sequence[float], y: Sequence[float]) -> None:
    family, _, precision = name.partition("_")
    axes.plot(
        x,
        y,
        label=name.replace("_", " "),
        color=_COLOURS.get(family, OTHER_COLOUR),
        linestyle=_DASHES.get(precision, "-"),
        marker="o",
        markersize=3,
        linewidth=2 if name == OURS else 1.2,
    )


def _shape_axis(axes: Axes, over: str, values: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    ticks = [value for value in values if value & (value - 1) == 0] or list(values)[:_MOST_TICKS]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("tokens per sequence" if over == "sequence" else "sequences per batch")
    axes.grid(visible=True)


def _title(record: Mapping[str, Any]) -> str:
    first = record["points"][0]
    fixed = f"batch {first['batch']}" if record["sweep"] == "sequence" else f"sequence {first['sequence']}"
    return f"{record['model']}, {fixed}, {record['threads']} threads"
