# SPDX-License-Identifier: Apache-2.0
"""The results of a sweep, read from its cells and written as JSON and as a Markdown table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sparse_deploy.artifacts import write_text_atomically
from sparse_deploy.gate.figures import SPARSITY_METRIC, metric_value
from sparse_deploy.report.markdown import escape_markdown, table_lines
from sparse_deploy.report.report import load_report
from sparse_deploy.report.tables import MISSING, Table, short_number
from sparse_deploy.results import BenchReport, Cell, Figures
from sparse_deploy.sweep.cell import Job, Outcome, worst_exit_code

JSON_NAME, MARKDOWN_NAME = "summary.json", "summary.md"
Verdict = Literal["pass", "fail", "inconclusive"]
_WORST_FIRST: tuple[Verdict, ...] = ("fail", "inconclusive", "pass")
_MEGABYTE = 1e6


class Measured(Figures):
    """One runtime and precision of a sweep's cell.

    Attributes:
        id: id in the cell's report.
        file_bytes: size of the model file.
        zeros: share of the prunable weights.
        metrics: task metrics, and the loss.
        verdicts: the worst verdict of the goals on each metric; ``sparsity`` is the verdict on the zeros.
        p50_ms, examples_per_second: figures, if latency was measured.
        stable: false if these figures are not comparable.
    """

    id: str
    file_bytes: int
    zeros: float | None
    metrics: dict[str, float]
    verdicts: dict[str, Verdict]
    p50_ms: float | None
    examples_per_second: float | None
    stable: bool


class SweptCell(Figures):
    """A cell of the sweep.

    Attributes:
        key: key of its folder.
        folder: relative to the folder of the sweep.
        status, exit_code, message: see :class:`sparse_deploy.sweep.cell.Outcome`.
        measured: empty for a failed cell.
    """

    key: str
    folder: str
    settings: dict[str, Any]
    status: Literal["finished", "failed"]
    exit_code: int
    message: str
    measured: tuple[Measured, ...]


class SweepSummary(Figures):
    """``summary.json``. It has no dates: equal jobs give equal files, with any engine.

    Attributes:
        exit_code: exit code of the command: the worst of the cells, see
            :func:`sparse_deploy.sweep.cell.worst_exit_code`.
        varied: the settings in which cells differ.
    """

    schema_version: Literal[1] = 1
    name: str
    exit_code: int
    varied: tuple[str, ...]
    cells: tuple[SweptCell, ...]


def summarize(name: str, varied: Sequence[str], outcomes: Sequence[tuple[Job, Outcome]], output: Path) -> SweepSummary:
    """Read the reports of all cells.

    Args:
        name: name of the sweep.
        varied: settings in the columns of the table.
        outcomes: outcomes of all cells, in the order of the sweep.
        output: folder of the sweep.

    Raises:
        ArtifactError: a report is missing or damaged.
    """
    cells = tuple(_swept(job, outcome, output) for job, outcome in outcomes)
    codes = [cell.exit_code for cell in cells]
    return SweepSummary(name=name, exit_code=worst_exit_code(codes), varied=tuple(varied), cells=cells)


def write_summary(summary: SweepSummary, output: Path) -> None:
    """Write ``summary.json`` and ``summary.md``, each atomically."""
    lines = [f"# {escape_markdown(summary.name)}", "", *table_lines(summary_table(summary)), ""]
    lines += [f"* {escape_markdown(line)}" for line in notes(summary)]
    write_text_atomically(output / MARKDOWN_NAME, "\n".join(lines) + "\n")
    write_text_atomically(output / JSON_NAME, summary.model_dump_json(indent=1) + "\n")


def summary_table(summary: SweepSummary) -> Table:
    """One row per cell, runtime and precision. MB are 10^6 bytes; a metric with goals has a verdict."""
    measured = [one for cell in summary.cells for one in cell.measured]
    metrics = tuple(dict.fromkeys(name for one in measured for name in one.metrics if not name.startswith("loss")))
    timed = any(one.p50_ms is not None for one in measured)
    headers = ("cell", *summary.varied, "measured", "size MB", "zeros %", *metrics)
    headers += ("p50 ms", "examples/s") if timed else ()
    rows = []
    for cell in summary.cells:
        settings = tuple(_text(cell.settings.get(key)) for key in summary.varied)
        if not cell.measured:
            empty = (MISSING,) * (len(headers) - len(settings) - 2)
            rows.append((cell.key[:12], *settings, f"failed, exit code {cell.exit_code}", *empty))
        for one in cell.measured:
            figures = (short_number(one.file_bytes / _MEGABYTE), _zeros(one), *(_metric(one, name) for name in metrics))
            times = (_time(one, one.p50_ms), _time(one, one.examples_per_second)) if timed else ()
            rows.append((cell.key[:12], *settings, one.id, *figures, *times))
    return Table(headers, tuple(rows))


def notes(summary: SweepSummary) -> list[str]:
    """The messages of the cells whose exit code is not 0."""
    return [f"{cell.key[:12]}: exit code {cell.exit_code}: {cell.message}" for cell in summary.cells if cell.exit_code]


def _swept(job: Job, outcome: Outcome, output: Path) -> SweptCell:
    finished = outcome.status == "finished"
    report = load_report(job.folder / "report") if finished else None
    return SweptCell(
        key=job.key,
        folder=job.folder.relative_to(output).as_posix(),
        settings=job.settings,
        status=outcome.status,
        exit_code=outcome.exit_code,
        message=outcome.message,
        measured=tuple(_measured(report, cell) for cell in report.cells) if report else (),
    )


def _measured(report: BenchReport, cell: Cell) -> Measured:
    return Measured(
        id=cell.id,
        file_bytes=cell.file_bytes,
        zeros=metric_value(cell, SPARSITY_METRIC),
        metrics=cell.metrics,
        verdicts=_verdicts(report, cell.id),
        p50_ms=cell.latency.p50_ms if cell.latency else None,
        examples_per_second=cell.throughput.examples_per_second if cell.throughput else None,
        stable=cell.stable,
    )


def _verdicts(report: BenchReport, cell: str) -> dict[str, Verdict]:
    found: dict[str, Verdict] = {}
    for gate in report.gates:
        if gate.cell == cell and not gate.informational:
            metric = gate.goal.metric
            found[metric] = min(found.get(metric, "pass"), gate.verdict, key=_WORST_FIRST.index)
    return found


def _zeros(one: Measured) -> str:
    share = MISSING if one.zeros is None else f"{100 * one.zeros:.2f}"
    verdict = one.verdicts.get(SPARSITY_METRIC, "pass")
    return share if verdict == "pass" else f"{share} {verdict}"


def _metric(one: Measured, name: str) -> str:
    if name not in one.metrics:
        return MISSING
    return f"{one.metrics[name]:.4f} {one.verdicts.get(name, '')}".rstrip()


def _time(one: Measured, value: float | None) -> str:
    return short_number(value) if one.stable or value is None else "unstable"


def _text(value: object) -> str:
    return value if isinstance(value, str) else MISSING if value is None else json.dumps(value)
