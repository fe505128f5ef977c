# SPDX-License-Identifier: Apache-2.0
"""The state of the machine during the measurements: CPU use by other processes, latency between cores."""

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
        """Whether the figures include disturbed blocks, because there were too few undisturbed ones."""
        return self.conditions.disturbed > 0 and self.conditions.counted == self.conditions.measured


def measurements(report: BenchReport) -> list[Measured]:
    """All measurements whose conditions are known, cell by cell."""
    return [Measured(cell, what, conditions) for cell, what, conditions in _all(report) if conditions is not None]


def condition_rows(report: BenchReport) -> Table:
    """A row per measurement: the label of the cores, and the number of blocks that count; no rows without timings."""
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
    """Whether the figures are from near cores (or cores of unknown distance), without disturbed blocks."""
    return not any(one.is_doubtful or one.conditions.cores in ("far", "mixed") for one in measurements(report))


def machine_state(report: BenchReport) -> tuple[str, str] | None:
    """The state as a short text and in sentences; None without timings, or in reports of earlier versions."""
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
        sentences.append(f"During {moved} blocks the cores had the other distance, or it changed.")
    if disturbed or moved:
        sentences.append("Such blocks do not count if there are enough others.")
    if doubtful := [f"{one.cell} ({one.what})" for one in found if one.is_doubtful]:
        sentences.append(f"There were too few others for {', '.join(doubtful)}, so all blocks count.")
    sentences.append(_distance(labels, str(report.settings.get("core_labels", ""))))
    return answer, " ".join(sentences)


def _distance(labels: list[str], settings: str) -> str:
    if "far" in labels or "mixed" in labels:
        return (
            "Far: a cache line takes more than 80 ns from one core to another. Work shared by threads then takes up "
            "to twice as long as on near cores; a virtual machine's cores change within minutes, so repeat the run."
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
