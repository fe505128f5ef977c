# SPDX-License-Identifier: Apache-2.0
"""The timing of a benchmark: interleaved blocks by the recipe's settings, and the cells' figures."""

from collections.abc import Callable, Sequence
from statistics import median

from sparse_deploy.config.schema import Recipe
from sparse_deploy.evaluation.latency import Samples, ThroughputBlock, TimedRun, TimingPlan, Timings, time_rivals
from sparse_deploy.evaluation.requests import Requests
from sparse_deploy.measurement.pairing import Counted, ratio_over_rounds
from sparse_deploy.measurement.statistics import block_rate, instability, summarize_latency, summarize_throughput
from sparse_deploy.measurement.worker_process import Workers
from sparse_deploy.results import Cell, Latency, Ratio, ShapeLatency, StreamedThroughput, Throughput
from sparse_deploy.runtimes import get_runtime

Progress = Callable[[str, float], None]
SEED = 0


def time_cells(
    workers: Workers, cells: Sequence[Cell], requests: Requests, recipe: Recipe, progress: Progress
) -> TimedRun:
    """Time opened cells on the same requests; ``progress`` gets a message and a share between 0 and 1.

    Raises:
        WorkerError: a worker ended or hung.
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
        latency = _latency(raw.latency)
        throughput = _throughput(raw.throughput, recipe.bench.throughput_batch_size)
        streamed = _streamed(raw, recipe.bench.throughput_batch_size)
        shapes = tuple(
            ShapeLatency(
                batch=batch,
                tokens=tokens,
                latency=_latency(blocks),
                speedup=None if is_baseline else _speedup(baseline.shapes[batch, tokens], blocks),
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
                    "speedup": None if is_baseline else _speedup(baseline.latency, raw.latency),
                    "throughput_gain": None if is_baseline else _gain(baseline.throughput, raw.throughput),
                    "stable": not reason,
                    "instability": reason,
                }
            )
        )
    return finished


def _is_streamed(cell: Cell, recipe: Recipe) -> bool:
    return "throughput" in recipe.bench.hints and "throughput" in get_runtime(cell.runtime).hints


def _latency(counted: Counted[Samples]) -> Latency:
    return summarize_latency(counted.results, counted.conditions, [block.turn for block in counted.blocks])


def _throughput(counted: Counted[ThroughputBlock], batch_size: int) -> Throughput:
    return summarize_throughput(counted.results, batch_size, counted.conditions)


def _streamed(raw: Timings, batch_size: int) -> StreamedThroughput | None:
    if raw.streamed is None:
        return None
    return StreamedThroughput(
        **_throughput(raw.streamed, batch_size).model_dump(),
        streams=raw.streams,
        gain=_gain(raw.throughput, raw.streamed),
    )


def _speedup(baseline: Counted[Samples], cell: Counted[Samples]) -> Ratio:
    """Speed-up: the baseline's median latency divided by the cell's."""
    return ratio_over_rounds(baseline, cell, median, seed=SEED)


def _gain(baseline: Counted[ThroughputBlock], cell: Counted[ThroughputBlock]) -> Ratio:
    """Throughput gain: the cell's examples per second divided by the baseline's."""
    return ratio_over_rounds(cell, baseline, block_rate, seed=SEED)
