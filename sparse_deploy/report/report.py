# SPDX-License-Identifier: Apache-2.0
"""Write a report as JSON, Markdown and HTML, and read its JSON back."""

from pathlib import Path

from sparse_deploy.artifacts import read_json_file, write_text_atomically
from sparse_deploy.errors import ArtifactError
from sparse_deploy.report.markdown import render_markdown
from sparse_deploy.report.page import render_page
from sparse_deploy.results import BenchReport, Cell

JSON_NAME, MARKDOWN_NAME, HTML_NAME = "report.json", "report.md", "report.html"

# Enough for an accurate p1 and p99 in a plot; a full run has hundreds of thousands of requests.
MAX_SAMPLES = 2000


def write_report(report: BenchReport, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``, each atomically, the JSON last.

    The JSON has at most :data:`MAX_SAMPLES` evenly spaced latency samples per cell and none of fixed shapes; all
    percentiles are those of the full run.

    Args:
        report: the report.
        folder: created if missing; files of an earlier report are replaced.

    Raises:
        ArtifactError: the folder or a file can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{folder}: can't make the report folder: {error}. Choose another --report.") from error
    thin = thin_samples(report)
    write_text_atomically(folder / HTML_NAME, render_page(thin))
    write_text_atomically(folder / MARKDOWN_NAME, render_markdown(thin))
    write_text_atomically(folder / JSON_NAME, thin.model_dump_json(indent=1) + "\n")


def load_report(path: Path) -> BenchReport:
    """Read ``report.json``.

    Args:
        path: the file, or its folder.

    Raises:
        ArtifactError: the file is missing, not a report, of another version, or its baseline is not one of its cells.
    """
    file = path / JSON_NAME if path.is_dir() else path
    report = read_json_file(file, BenchReport, "report", _REMEDY)
    if report.baseline not in {cell.id for cell in report.cells}:
        raise ArtifactError(f"{file}: the baseline {report.baseline!r} is not among the report's cells. {_REMEDY}")
    return report


_REMEDY = "Make one with: sparse-deploy bench DEPLOYMENT --report DIR"


def thin_samples(report: BenchReport) -> BenchReport:
    """The report with at most :data:`MAX_SAMPLES` latency samples per cell, evenly spaced in time."""
    return report.model_copy(update={"cells": tuple(_thin_cell(cell) for cell in report.cells)})


def _thin_cell(cell: Cell) -> Cell:
    shapes = tuple(
        shape.model_copy(update={"latency": shape.latency.model_copy(update={"samples_ms": ()})})
        for shape in cell.shapes
    )
    latency = cell.latency
    if latency is not None:
        count = len(latency.samples_ms)
        kept = min(count, MAX_SAMPLES)
        samples = tuple(round(latency.samples_ms[i * count // kept], 4) for i in range(kept))
        latency = latency.model_copy(update={"samples_ms": samples})
    return cell.model_copy(update={"latency": latency, "shapes": shapes})
