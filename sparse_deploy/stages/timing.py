# SPDX-License-Identifier: Apache-2.0
"""The timing of a benchmark: from the recipe to interleaved blocks, and from those to the figures of the cells."""

from collections.abc import Callable, Sequence

from sparse_deploy.config.schema import Recipe
from sparse_deploy.evaluation.latency import TimedRun, TimingPlan, Timings, time_rivals
from sparse_deploy.evaluation.requests import Requests
from sparse_deploy.evaluation.statistics import (
    instability,
    latency_ratio,
    summarize_latency,
    summarize_throughput,
    throughput_ratio,
)
from sparse_deploy.evaluation.supervisor import Workers
from sparse_deploy.results import Cell, ShapeLatency, StreamedThroughput
from sparse_deploy.runtimes import get_runtime

Progress = Callable[[str, float], None]
SEED = 0


def time_cells(
    workers: Workers, cells: Sequence[Cell], requests: Requests, recipe: Recipe, progress: Progress
) -> TimedRun:
    """Time opened cells on the same requests; ``progress`` gets a message and a share between 0 and 1.

    Raises:
        WorkerError: a worker died or hung.
    """
    plan = TimingPlan(
        blocks=recipe.bench.blocks,
        block_seconds=recipe.bench.block_seconds,
        warmup_seconds=recipe.bench.warmup_seconds,
        batch_size=recipe.bench.throughput_batch_size,
        shapes=recipe.bench.shapes,
        seed=SEED,
        streamed=frozenset(cell.id for cell in cells if _is_streamed(cell, recipe)),
    )
    return time_rivals({cell.id: workers[cell.id] for cell in cells}, requests, plan, progress)


def timed_cells(cells: Sequence[Cell], timed: TimedRun, recipe: Recipe) -> list[Cell]:
    """The cells with their latency, throughput and ratios to the first one, the baseline."""
    baseline = timed.cells[cells[0].id]
    finished = []
    for cell in cells:
        raw = timed.cells[cell.id]
        is_baseline = raw is baseline
        latency = summarize_latency(raw.latency)
        throughput = summarize_throughput(raw.throughput, recipe.bench.throughput_batch_size)
        streamed = _streamed(raw, recipe.bench.throughput_batch_size)
        shapes = tuple(
            ShapeLatency(
                batch=batch,
                tokens=tokens,
                latency=summarize_latency(blocks),
                speedup=None if is_baseline else latency_ratio(baseline.shapes[batch, tokens], blocks, seed=SEED),
            )
            for (batch, tokens), blocks in raw.shapes.items()
        )
        doubts = [
            instability("latency", latency.cv),
            instability("throughput", throughput.cv),
            instability("throughput in streams", streamed.cv) if streamed else "",
            *(instability(f"latency of shape {s.batch}x{s.tokens}", s.latency.cv) for s in shapes),
        ]
        reason = "; ".join(doubt for doubt in doubts if doubt)
        finished.append(
            cell.model_copy(
                update={
                    "latency": latency,
                    "throughput": throughput,
                    "streamed": streamed,
                    "shapes": shapes,
                    "rss_bytes": raw.rss_bytes,
                    "speedup": None if is_baseline else latency_ratio(baseline.latency, raw.latency, seed=SEED),
                    "throughput_gain": (
                        None if is_baseline else throughput_ratio(baseline.throughput, raw.throughput, seed=SEED)
                    ),
                    "stable": not reason,
                    "instability": reason,
                }
            )
        )
    return finished


def _is_streamed(cell: Cell, recipe: Recipe) -> bool:
    return "throughput" in recipe.bench.hints and "throughput" in get_runtime(cell.runtime).hints


def _streamed(raw: Timings, batch_size: int) -> StreamedThroughput | None:
    if not raw.streamed:
        return None
    return StreamedThroughput(
        **summarize_throughput(raw.streamed, batch_size).model_dump(),
        streams=raw.streams,
        gain=throughput_ratio(raw.throughput, raw.streamed, seed=SEED),
    )
