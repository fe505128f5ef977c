# SPDX-License-Identifier: Apache-2.0
"""Figures of raw blocks: percentiles and spread between blocks. Pure functions.

Percentiles are nearest-rank: the smallest sample that at least p percent of all samples do not exceed. So a reported
latency is a measured one. OpenVINO's benchmark_app does the same; MLPerf's LoadGen takes ``sorted[floor(n*p)]`` and
perf_analyzer ``sorted[round(p*(n-1))]``, which differ by at most one rank. None of them interpolates.
"""

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.results import Conditions, Latency, Throughput

UNSTABLE_CV = 0.10

FloatArray = NDArray[np.float64]


def percentile(samples: Sequence[float] | FloatArray | NDArray[np.int64], percent: float) -> float:
    """Nearest-rank percentile.

    Args:
        samples: at least one sample, in any order.
        percent: percentage above 0, at most 100.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    return float(ordered[_rank(len(ordered), percent)])


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Sample standard deviation over mean; 0 for a single value."""
    return stdev(values) / fmean(values) if len(values) > 1 else 0.0


def summarize_latency(
    blocks: Sequence[Sequence[float]], conditions: Conditions | None = None, rounds: Sequence[int] = ()
) -> Latency:
    """Figures of interleaved blocks.

    Args:
        blocks: milliseconds per request, one sequence per block.
        conditions: conditions of the blocks.
        rounds: the round of each block.
    """
    pooled = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])
    medians = tuple(median(block) for block in blocks)
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
        rounds=tuple(rounds),
        conditions=conditions,
    )


def summarize_throughput(
    blocks: Sequence[tuple[int, int, float]], batch_size: int, conditions: Conditions | None = None
) -> Throughput:
    """Figures of interleaved offline blocks.

    Args:
        blocks: examples, tokens and seconds of each block.
        batch_size: examples per batch.
        conditions: conditions of the blocks.
    """
    seconds = sum(block[2] for block in blocks)
    rates = tuple(block_rate(block) for block in blocks)
    return Throughput(
        examples_per_second=sum(block[0] for block in blocks) / seconds,
        tokens_per_second=sum(block[1] for block in blocks) / seconds,
        cv=coefficient_of_variation(rates),
        batch_size=batch_size,
        blocks=rates,
        conditions=conditions,
    )


def block_rate(block: tuple[int, int, float]) -> float:
    """Examples per second of an offline block: examples, tokens, seconds."""
    examples, _, seconds = block
    return examples / seconds


def instability(name: str, cv: float) -> str:
    """The reason why a figure is unreliable; empty if it is reliable.

    Args:
        name: name of the figure.
        cv: coefficient of variation of the blocks.
    """
    if cv <= UNSTABLE_CV:
        return ""
    return f"{name} differs by {cv:.0%} between blocks (limit {UNSTABLE_CV:.0%})"


def _rank(count: int, percent: float) -> int:
    if not 0 < percent <= 100 or count < 1:
        raise ValueError(f"expected samples and a percentage above 0 and up to 100, found {count} and {percent}")
    # round() prevents that 0.07 * 100 = 7.000000000000001 gives the next rank.
    return max(0, math.ceil(round(count * percent / 100, 9)) - 1)
