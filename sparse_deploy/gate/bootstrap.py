# SPDX-License-Identifier: Apache-2.0
"""Is a metric that is no plain share of rows within a margin of the baseline's? A paired, clustered bootstrap.

If no prediction changed, the interval has no width, and a pass would claim too much. Therefore a verdict
must also hold with one pseudo-example added: for a pass one that got worse, for a fail one that got better. Among
as many resamples its number is about Poisson with mean 1, so with no changed row the bound is the rule of three
(3 / rows at 95 %), and with x changed rows the x + 1 of Clopper-Pearson's upper bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_deploy.errors import DataError
from sparse_deploy.gate.bca import Distribution, acceleration_of, bias_of
from sparse_deploy.gate.metric import Metric
from sparse_deploy.gate.metric_samples import PairedMetric, paired_metric
from sparse_deploy.gate.resampling import Sample
from sparse_deploy.gate.rows_needed import rows_needed_for_metric
from sparse_deploy.results import Evidence

Row = Mapping[str, Any]


def compare_metric(
    metric: Metric,
    baseline: Sequence[Row],
    cell: Sequence[Row],
    *,
    margin: float,
    confidence: float,
    resamples: int,
    seed: int,
    clusters: Sequence[str] | None = None,
) -> Evidence:
    """Test a metric for a drop by resampling examples, or clusters of them, with both answers together.

    Args:
        metric: any but one of :attr:`PairedTest.CORRECT`.
        baseline: rows of :class:`~sparse_deploy.data.encoded.SplitScore`.
        cell: rows of the same examples in the same order.
        margin: largest allowed drop, in the metric's own unit; negative when an improvement is demanded.
        confidence: of each bound.
        resamples: of the bootstrap; no p-value is below ``1 / (resamples + 1)``.
        seed: the same rows, resamples and seed give the same evidence.
        clusters: per row the unit of drawing, such as its SQuAD paragraph; single rows when omitted.

    Raises:
        DataError: no rows, rows of different examples, or rows that this metric can't be computed from.
    """
    if [row["id"] for row in baseline] != [row["id"] for row in cell] or not cell:
        raise DataError(
            f"{metric.name}: expected the same examples in the same order from both, and at least one; found "
            f"{len(baseline)} of the baseline and {len(cell)} of the cell"
        )
    paired = paired_metric(metric, baseline, cell, clusters)
    alpha = 1.0 - confidence
    bounds = _Bounds.of(paired, resamples, seed)
    evidence = Evidence(
        drop=paired.sample.observed(),
        low=min(part.low(alpha) for part in bounds.lower),
        high=max(part.high(alpha) for part in bounds.upper),
        confidence=confidence,
        p_pass=max(part.p_exceeds(margin) for part in bounds.upper),
        p_fail=max(part.p_within(margin) for part in bounds.lower),
        rows=len(cell),
        changed=paired.changed,
        worse=paired.worse,
        better=paired.better,
        method=_describe(paired, resamples, seed),
    )
    if min(evidence.p_pass, evidence.p_fail) <= alpha:
        return evidence
    needed = rows_needed_for_metric(evidence, margin=margin, alpha=alpha)
    return evidence.model_copy(update={"rows_needed": needed})


@dataclass(frozen=True)
class _Bounds:
    """Distributions of the drop; a verdict needs all of its side."""

    upper: tuple[Distribution, ...]
    lower: tuple[Distribution, ...]

    @classmethod
    def of(cls, paired: PairedMetric, resamples: int, seed: int) -> "_Bounds":
        plain, worse, better = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3))
        both = _bca(paired.sample, resamples, plain, paired.limit)
        if not paired.guarded:
            return cls((both,), (both,))
        return cls(
            (both, _percentile(paired.with_worse, resamples, worse, paired.limit)),
            (both, _percentile(paired.with_better, resamples, better, paired.limit)),
        )


def _bca(sample: Sample, resamples: int, rng: np.random.Generator, limit: float) -> Distribution:
    draws = _draw(sample, resamples, rng)
    left_out, times = sample.jackknife()
    return Distribution(draws, bias_of(draws, _steady(sample.observed())), acceleration_of(left_out, times), limit)


def _percentile(sample: Sample, resamples: int, rng: np.random.Generator, limit: float) -> Distribution:
    # Its pseudo-example is the whole correction: BCa on top of it would count it twice.
    return Distribution(_draw(sample, resamples, rng), 0.0, 0.0, limit)


def _draw(sample: Sample, resamples: int, rng: np.random.Generator) -> Any:
    return np.sort(_steady(sample.resample(resamples, rng)))


def _steady(drops: Any) -> Any:
    # Equal drops must compare as equal, for any order of their summands.
    return np.round(drops, 10)


def _describe(paired: PairedMetric, resamples: int, seed: int) -> str:
    guard = f", guarded by one pseudo-example ({paired.guard})" if paired.guarded else ""
    return f"paired BCa bootstrap, {resamples:,} resamples of {paired.units}, seed {seed}{guard}"
