# SPDX-License-Identifier: Apache-2.0
"""The sections of a report in reading order: the same titles, tables and facts for Markdown and HTML."""

import shlex
from collections.abc import Mapping
from typing import NamedTuple

from sparse_deploy.report.conditions import condition_rows
from sparse_deploy.report.tables import (
    MISSING,
    Table,
    compared_with,
    gate_rows,
    metric_rows,
    reason_rows,
    reference_rows,
    shape_rows,
    sparsity_rows,
    stream_rows,
    summary_rows,
)
from sparse_deploy.results import BenchReport

_TIMING_PLOTS = ("accuracy", "latency", "throughput")


class Section(NamedTuple):
    """A titled table.

    Attributes:
        note: explanation of the table.
        plots: names of the plots below the table.
        style: CSS class of the table on a page.
    """

    title: str
    note: str
    table: Table
    plots: tuple[str, ...] = ()
    style: str = ""


def sections(report: BenchReport) -> tuple[Section, ...]:
    """All sections with content."""
    found = (
        Section("Cells", _summary_note(report), summary_rows(report), _TIMING_PLOTS, "dense"),
        Section(
            "Streams",
            "Offline throughput with the throughput hint: the runtime splits its threads into streams that compute a "
            "batch each. The batches are those of the latency hint, in separate blocks of the same rounds. Spread: "
            "coefficient of variation of the blocks; in brackets the bootstrap interval over rounds.",
            stream_rows(report),
            style="dense",
        ),
        Section("Goals", _gates_note(report), gate_rows(report), ("gates",), "goals"),
        Section("Goals missed or inconclusive", "", reason_rows(report)),
        Section(
            "Fixed shapes",
            "Latency of one request with exactly this number of rows and tokens.",
            shape_rows(report),
            style="dense",
        ),
        Section(
            "State of the machine",
            "Cells are timed in blocks, all cells in each round. Measured between any two blocks: the time of a cache "
            "line from one core to another (near: less than 80 ns, far: more), the multiplication rate of both cores "
            "together, and the CPU time of other processes. Disturbed: other processes used the CPUs. Cores moved: "
            "the cores had the other distance, or it changed. Blocks of both kinds do not count and are replaced by "
            "additional rounds, at most half of the planned number; all blocks count if fewer than two remain.",
            condition_rows(report),
            style="dense",
        ),
        Section(
            "Zeros",
            "Required zeros are those of the source checkpoint. INT8 rounding may add zeros; none may be lost. "
            "Export checks them position by position; this table counts them per tensor.",
            sparsity_rows(report),
            ("sparsity",),
            "dense",
        ),
        Section(
            "Published figures",
            f"The compared cell is {report.baseline}; the unit is that of the source.",
            reference_rows(report),
        ),
        Section(
            "All metrics", "Shares are 0 to 1; SQuAD's metrics are in percent.", metric_rows(report), style="dense"
        ),
        Section("Model files", "", _file_rows(report)),
        Section("Settings", "", _fact_table("setting", report.settings)),
        Section("Versions", "", _fact_table("package", report.versions)),
    )
    return tuple(section for section in found if section.table.rows)


def measured_line(report: BenchReport) -> str:
    """The measured model and data, in one sentence."""
    lengths = report.lengths
    return (
        f"{report.examples:,} validation examples of {report.task} on {report.deployment}; token lengths "
        f"{lengths.minimum} to {lengths.maximum}, mean {lengths.mean:.1f}, p50 {lengths.p50}, p90 {lengths.p90}, "
        f"p99 {lengths.p99}."
    )


def machine_line(report: BenchReport) -> str:
    """The machine in one sentence: CPU, flags, CPUs, threads, memory."""
    machine = report.machine
    quota = "no quota" if machine.quota_cpus is None else f"quota {machine.quota_cpus:g} CPUs"
    threads = f", {report.settings['threads']} threads used" if "threads" in report.settings else ""
    flags = " ".join(machine.flags) or "none of the relevant flags"
    remark = f" {report.settings['thread_remark']}." if report.settings.get("thread_remark") else ""
    return (
        f"{machine.cpu_model}; {flags}; {machine.visible_cpus} CPUs visible, {quota}{threads}; "
        f"{machine.memory_bytes / 2**30:.1f} GiB memory; Linux {machine.kernel}; Python {machine.python}.{remark}"
    )


def reproduce_command(report: BenchReport) -> str:
    """The command line that repeats the measurement, quoted for a shell."""
    return f"sparse-deploy bench {shlex.quote(_one_line(report.deployment))} --report report"


def _summary_note(report: BenchReport) -> str:
    unlabelled = report.settings.get("without_labels")
    return (
        f"Latency: one request at a time, real token lengths. Speed-up: median latency of {report.baseline} divided by "
        f"that of the cell, the median over rounds, with its bootstrap interval. Agreement: same prediction as "
        f"{compared_with(report)}. In streams: examples/s with the throughput hint. MB is 10^6 bytes. A cell marked "
        f"unstable shows the range of its blocks instead of a figure."
        f"{f' Without labels: {unlabelled}.' if unlabelled else ''}"
    )


def _gates_note(report: BenchReport) -> str:
    flat = "Compared without rounding; a tie passes."
    if not any(gate.evidence for gate in report.gates):
        return flat
    return (
        f"Drop: points of a cell below {compared_with(report)} on the same examples. Its bounds are "
        f"one-sided. A cell passes if the upper bound is within the allowed drop and fails if the lower bound is above "
        f"it; otherwise it is inconclusive. If goals are corrected together, the corrected p-values decide. Goals "
        f"without a drop compare the measured figure. {flat}"
    )


def _file_rows(report: BenchReport) -> Table:
    rows = [
        (cell.id, cell.file or MISSING, cell.version or MISSING, cell.note or MISSING, cell.instability or MISSING)
        for cell in report.cells
        if cell.note or cell.instability or cell.file
    ]
    return Table(("cell", "file", "runtime version", "note", "instability"), tuple(rows))


def _fact_table(kind: str, facts: Mapping[str, object]) -> Table:
    return Table((kind, "value"), tuple((str(name), _one_line(str(value))) for name, value in facts.items()))


def _one_line(text: str) -> str:
    return " ".join(text.split())
