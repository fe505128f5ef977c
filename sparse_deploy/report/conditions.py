# SPDX-License-Identifier: Apache-2.0
"""The state of the machine beside the figures: were other processes using the CPUs, how far are its cores apart."""

from collections.abc import Iterator
from typing import NamedTuple

from sparse_deploy.report.tables import Table
from sparse_deploy.results import BenchReport, Conditions


class Measured(NamedTuple):
    """One measurement of one cell."""

    cell: str
    what: str
    conditions: Conditions

    @property
    def is_doubtful(self) -> bool:
        """Whether disturbed blocks are part of its figures, because too few others ran."""
        return self.conditions.disturbed > 0 and self.conditions.counted == self.conditions.measured


def measurements(report: BenchReport) -> list[Measured]:
    """All measurements whose conditions are known, cell by cell."""
    return [Measured(cell, what, conditions) for cell, what, conditions in _all(report) if conditions is not None]


def condition_rows(report: BenchReport) -> Table:
    """A row per measurement: the label of its cores, and how many of its blocks count; no rows without timings."""
    rows = [
        (
            one.cell,
            one.what,
            one.conditions.cores,
            str(one.conditions.measured),
            str(one.conditions.disturbed),
            str(one.conditions.moved),
            f"{one.conditions.counted}{' (all)' if one.is_doubtful else ''}",
        )
        for one in measurements(report)
    ]
    return Table(("cell", "measurement", "cores", "blocks", "disturbed", "cores moved", "counted"), tuple(rows))


def machine_was_steady(report: BenchReport) -> bool:
    """Whether the figures were taken on near cores, or on cores of unknown distance, and without disturbed blocks."""
    return not any(one.is_doubtful or one.conditions.cores in ("far", "mixed") for one in measurements(report))


def machine_state(report: BenchReport) -> tuple[str, str] | None:
    """The state in a few words, and in sentences; None without timings, or in reports of earlier versions."""
    found = measurements(report)
    if not found:
        return None
    blocks = sum(one.conditions.measured for one in found)
    disturbed = sum(one.conditions.disturbed for one in found)
    moved = sum(one.conditions.moved for one in found)
    labels = [
        name for name in ("near", "far", "mixed", "unknown") if any(one.conditions.cores == name for one in found)
    ]
    cores = f"cores {' and '.join(labels)}" if labels != ["unknown"] else "distance of the cores unknown"
    answer = f"{f'{disturbed} of {blocks} blocks disturbed' if disturbed else 'undisturbed'}, {cores}"
    sentences = []
    if disturbed:
        sentences.append(f"Other processes used the CPUs during {disturbed} of {blocks} blocks.")
    if moved:
        sentences.append(f"During {moved} blocks the distance of the cores was another one, or changed.")
    if disturbed or moved:
        sentences.append("Such blocks don't count where enough others ran.")
    if doubtful := [f"{one.cell} ({one.what})" for one in found if one.is_doubtful]:
        sentences.append(f"Too few others ran for {', '.join(doubtful)}: all blocks count there.")
    sentences.append(_distance(labels, str(report.settings.get("core_labels", ""))))
    return answer, " ".join(sentences)


def _distance(labels: list[str], settings: str) -> str:
    if "far" in labels or "mixed" in labels:
        return (
            "Far: a cache line takes more than 80 ns from one core to another. Work that threads share then takes up "
            "to twice as long as on near cores; a virtual machine's cores move within minutes, so repeat the run."
        )
    if labels == ["unknown"]:
        return f"The distance of the cores was not measured{f': {settings}' if settings else ''}."
    return "Near: a cache line takes less than 80 ns from one core to another."


def _all(report: BenchReport) -> Iterator[tuple[str, str, Conditions | None]]:
    for cell in report.cells:
        if cell.latency:
            yield cell.id, "latency", cell.latency.conditions
        for shape in cell.shapes:
            yield cell.id, f"shape {shape.batch}x{shape.tokens}", shape.latency.conditions
        if cell.throughput:
            yield cell.id, "offline", cell.throughput.conditions
        if cell.streamed:
            yield cell.id, "streams", cell.streamed.conditions
