# SPDX-License-Identifier: Apache-2.0
"""From raw blocks to figures: percentiles, spread between blocks, and ratios with an interval. Pure functions.

Percentiles are nearest-rank: the smallest sample that at least p percent of all samples don't exceed. So a reported
latency is one that was measured. OpenVINO's benchmark_app does the same; MLPerf's LoadGen takes ``sorted[floor(n*p)]``
and perf_analyzer ``sorted[round(p*(n-1))]``, which differ from it by one rank at most. None of them interpolates.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.results import Latency, Ratio, Throughput

UNSTABLE_CV = 0.10
CONFIDENCE = 0.95
RESAMPLES = 1000

FloatArray = NDArray[np.float64]
Statistic = Callable[[Sequence[int]], float]


def percentile(samples: Sequence[float] | FloatArray | NDArray[np.int64], percent: float) -> float:
    """Nearest-rank percentile.

    Args:
        samples: at least one, in any order.
        percent: above 0, at most 100.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    return float(ordered[_rank(len(ordered), percent)])


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Sample standard deviation over mean; 0 for a single value."""
    return stdev(values) / fmean(values) if len(values) > 1 else 0.0


def summarize_latency(blocks: Sequence[Sequence[float]]) -> Latency:
    """Figures of interleaved blocks.

    Args:
        blocks: milliseconds per request, one sequence per block.
    """
    pooled = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])
    medians = tuple(percentile(block, 50) for block in blocks)
    return Latency(
        p50_ms=percentile(pooled, 50),
        p90_ms=percentile(pooled, 90),
        p95_ms=percentile(pooled, 95),
        p99_ms=percentile(pooled, 99),
        mean_ms=float(pooled.mean()),
        cv=coefficient_of_variation(medians),
        requests=len(pooled),
        block_medians_ms=medians,
        samples_ms=tuple(round(float(ms), 4) for ms in pooled),
    )


def summarize_throughput(blocks: Sequence[tuple[int, int, float]], batch_size: int) -> Throughput:
    """Figures of interleaved offline blocks.

    Args:
        blocks: examples, tokens and seconds of each block.
        batch_size: examples per batch.
    """
    seconds = sum(block[2] for block in blocks)
    rates = tuple(examples / elapsed for examples, _, elapsed in blocks)
    return Throughput(
        examples_per_second=sum(block[0] for block in blocks) / seconds,
        tokens_per_second=sum(block[1] for block in blocks) / seconds,
        cv=coefficient_of_variation(rates),
        batch_size=batch_size,
        blocks=rates,
    )


def latency_ratio(baseline: Sequence[Sequence[float]], rival: Sequence[Sequence[float]], *, seed: int) -> Ratio:
    """How many times lower a rival's p50 is than the baseline's: above 1 means faster.

    The interval is a percentile bootstrap over paired blocks: block i of both ran next to each other, so both are
    drawn together, which cancels what slowed the machine down at that time. Requests inside a block are not
    resampled: they are not independent of each other.

    Args:
        baseline: milliseconds per request, one sequence per block.
        rival: as many blocks.
        seed: of the resampling.
    """
    before = [np.asarray(block, dtype=np.float64) for block in baseline]
    after = [np.asarray(block, dtype=np.float64) for block in rival]

    def statistic(drawn: Sequence[int]) -> float:
        return _pooled_p50([before[i] for i in drawn]) / _pooled_p50([after[i] for i in drawn])

    return _bootstrap(statistic, len(before), len(after), seed)


def throughput_ratio(
    baseline: Sequence[tuple[int, int, float]], rival: Sequence[tuple[int, int, float]], *, seed: int
) -> Ratio:
    """How many times more examples per second a rival answers; interval as for :func:`latency_ratio`.

    Args:
        baseline: examples, tokens and seconds of each block.
        rival: as many blocks.
        seed: of the resampling.
    """

    def rate(blocks: Sequence[tuple[int, int, float]], drawn: Sequence[int]) -> float:
        return sum(blocks[i][0] for i in drawn) / sum(blocks[i][2] for i in drawn)

    return _bootstrap(lambda drawn: rate(rival, drawn) / rate(baseline, drawn), len(baseline), len(rival), seed)


def instability(name: str, cv: float) -> str:
    """Why a figure is not to be trusted; empty when it is.

    Args:
        name: what was measured.
        cv: coefficient of variation of its blocks.
    """
    if cv <= UNSTABLE_CV:
        return ""
    return f"{name} differs by {cv:.0%} between blocks (limit {UNSTABLE_CV:.0%})"


def _rank(count: int, percent: float) -> int:
    if not 0 < percent <= 100 or count < 1:
        raise ValueError(f"expected samples and a percentage above 0 and up to 100, found {count} and {percent}")
    # round() guards against 0.07 * 100 = 7.000000000000001, which would climb a rank.
    return max(0, math.ceil(round(count * percent / 100, 9)) - 1)


def _pooled_p50(blocks: Sequence[FloatArray]) -> float:
    pooled = np.concatenate(blocks)
    rank = _rank(len(pooled), 50)
    return float(np.partition(pooled, rank)[rank])


def _bootstrap(statistic: Statistic, count: int, rival_count: int, seed: int) -> Ratio:
    if count != rival_count or count < 1:
        raise ValueError(f"blocks must be paired; found {count} and {rival_count}")
    draws = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    estimates = [statistic([int(i) for i in drawn]) for drawn in draws]
    tail = (1 - CONFIDENCE) / 2 * 100
    return Ratio(
        value=statistic(range(count)),
        low=percentile(estimates, tail),
        high=percentile(estimates, 100 - tail),
        confidence=CONFIDENCE,
    )
