# SPDX-License-Identifier: Apache-2.0
"""Measuring modes of encoder.py: a cell on all runtimes, several numbers of threads, and sweeps over a shape."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.bars import Bar
from harness.cells import Cell
from harness.models import python_path
from harness.report import cell_record, summarize
from harness.rounds import Plan, Progress, run_rounds
from harness.sessions import OURS, environment
from harness.worker import MODULE
from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.measurement.machine_state import Probe
from sparse_deploy.measurement.worker_process import Workers

# The reference of all answers: PyTorch FP32, without fusion or quantization.
REFERENCE = "pytorch_fp32"


@dataclass(frozen=True)
class Bench:
    """Settings that all modes share.

    Attributes:
        threads: threads of every runtime.
        rivals: names of the runtimes to measure, including the candidate (``ours``).
        plan: number and length of blocks.
        probe: measures the state of the machine.
        progress: called with a message at each step.
        bars: required speed-up of cells, by name.
    """

    threads: int
    rivals: tuple[str, ...]
    plan: Plan
    probe: Probe
    progress: Progress
    bars: Mapping[str, Bar]


@contextmanager
def rival_workers(threads: int) -> Iterator[Workers]:
    """Worker processes, one per runtime (:mod:`harness.worker`); all end when the block ends."""
    with (
        tempfile.TemporaryDirectory(prefix="sparse-deploy-encoder-") as scratch,
        Workers(MODULE, threads, Path(scratch), variables=python_path()) as workers,
    ):
        yield workers


def measure_cell(bench: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
    """Time a cell on all runtimes.

    Args:
        bench: settings.
        cell: model, pattern and shape.
        folder: the model's files.

    Returns:
        See :func:`harness.report.cell_record`.
    """
    missing: dict[str, str] = {}
    variants: dict[str, dict[str, Any]] = {}
    start = time.monotonic()
    with rival_workers(bench.threads) as workers:
        for rival in bench.rivals:
            bench.progress(f"{cell.name}: opening {rival}")
            try:
                variants[rival] = _open(workers, rival, cell, folder, bench.threads)
            except RuntimeUnavailableError as error:
                missing[rival] = str(error)
                workers.stop(rival)
        errors = relative_errors({name: workers[name].call("answer")["outputs"] for name in variants})
        for name, distance in errors.items():
            variants[name]["relative_error"] = distance
        opened = {name: workers[name] for name in variants}
        blocks = run_rounds(opened, OURS, bench.plan, bench.probe, lambda text: bench.progress(f"{cell.name}: {text}"))
    record = cell_record(cell, blocks, variants, missing, bench.bars.get(cell.name))
    return {**record, "took_s": round(time.monotonic() - start)}


def measure_scaling(bench: Bench, cell: Cell, folder: Path, threads: Sequence[int]) -> dict[str, Any]:
    """Time each runtime with several numbers of threads.

    Returns:
        By runtime: milliseconds per number of threads, and the speed-up of the most threads over fewer.
    """
    result: dict[str, Any] = {"kind": "scaling", "cell": cell.name, "rivals": {}, "missing": {}}
    for rival in bench.rivals:
        with rival_workers(bench.threads) as workers:
            try:
                for count in threads:
                    bench.progress(f"{cell.name}: opening {rival} with {count} thread(s)")
                    process = workers.start(f"{rival}@{count}", count, environment(rival))
                    process.call("open", rival=rival, folder=str(folder), cell=cell.as_json(), threads=count)
            except RuntimeUnavailableError as error:
                result["missing"][rival] = str(error)
                continue
            opened = {f"{rival}@{count}": workers[f"{rival}@{count}"] for count in threads}
            # The candidate of the ratio is the session with the most threads.
            most = f"{rival}@{max(threads)}"
            plan = replace(bench.plan, first_rounds=bench.plan.most_rounds)
            blocks = run_rounds(opened, most, plan, bench.probe, bench.progress)
        figures = summarize(blocks, most)
        result["rivals"][rival] = {
            "milliseconds": {name.partition("@")[2]: ms for name, ms in figures["milliseconds"].items()},
            "speedup": figures.get("speedup"),
            "interval": figures.get("interval"),
            "rounds": figures.get("rounds"),
            "label": figures["label"],
        }
    return result


def sweep(bench: Bench, cells: Sequence[Cell], folder: Path, over: str) -> dict[str, Any]:
    """Time one model at many shapes.

    Args:
        bench: settings.
        cells: cells of one model, in ascending order of the swept dimension.
        folder: the model's files.
        over: ``sequence`` or ``batch``.

    Returns:
        A point per shape, with the milliseconds of all runtimes, and ``largest_step``: the largest increase of the
        sparse model's time per token between neighbouring points.
    """
    points: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    with rival_workers(bench.threads) as workers:
        for cell in cells:
            opened = {}
            for rival in (name for name in bench.rivals if name not in missing):
                bench.progress(f"{over} {getattr(cell, over)}: {rival}")
                try:
                    _open(workers, rival, cell, folder, bench.threads)
                    opened[rival] = workers[rival]
                except RuntimeUnavailableError as error:
                    missing[rival] = str(error)
            blocks = run_rounds(opened, OURS, bench.plan, bench.probe)
            figures = summarize(blocks)
            points.append(
                {
                    "batch": cell.batch,
                    "sequence": cell.sequence,
                    **{f"{name}_ms": ms for name, ms in figures["milliseconds"].items()},
                    "best_dense": figures.get("best_dense"),
                    "speedup_vs_best_dense": figures.get("speedup"),
                    "interval": figures.get("interval"),
                    "label": figures["label"],
                }
            )
    return {
        "kind": "sweep",
        "sweep": over,
        "model": f"{cells[0].model}-{cells[0].pattern}",
        "points": points,
        "largest_step": largest_step(points),
        "missing": missing,
    }


def largest_step(points: Sequence[Mapping[str, Any]], name: str = f"{OURS}_ms") -> float | None:
    """The largest factor by which the time per token increases between neighbouring points of one label.

    1 means that it never increases; 2 means that a shape takes twice the time per token of the next smaller one, as
    with padding to lanes.
    """
    costs = [
        (point["label"], point[name] / (point["batch"] * point["sequence"]))
        for point in points
        if point.get(name) is not None
    ]
    rises = [after / before for (one, before), (two, after) in pairwise(costs) if one == two]
    return round(max(rises), 3) if rises else None


def relative_errors(answers: Mapping[str, Sequence[Sequence[float]]], reference: str = REFERENCE) -> dict[str, float]:
    """Distance of each answer from the reference: norm of the difference divided by the norm; {} without reference."""
    if reference not in answers:
        return {}
    wanted = np.concatenate([np.asarray(output) for output in answers[reference]])
    return {
        name: round(float(np.linalg.norm(np.concatenate([np.asarray(o) for o in found]) - wanted) / norm), 5)
        for name, found in answers.items()
        if (norm := np.linalg.norm(wanted))
    }


def _open(workers: Workers, rival: str, cell: Cell, folder: Path, threads: int) -> dict[str, Any]:
    process = workers[rival] if rival in workers else workers.start(rival, variables=environment(rival))
    return process.call("open", rival=rival, folder=str(folder), cell=cell.as_json(), threads=threads)
