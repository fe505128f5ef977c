# SPDX-License-Identifier: Apache-2.0
"""A paired, clustered bootstrap that tests the drop of a metric that is not a share of rows against a margin.

If no prediction changed, the interval has no width, and a pass would not be justified. Therefore a verdict must also
hold with one pseudo-example added: for a pass an example that got worse, for a fail one that got better. The number
of its draws in a resample is about Poisson with mean 1, so without changed rows the bound is the rule of three
(3 / rows at 95 %), and with x changed rows it uses x + 1, like Clopper-Pearson's upper bound.
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
        metric: any metric whose test is not :attr:`PairedTest.CORRECT`.
        baseline: rows of a :class:`~sparse_deploy.data.encoded.SplitScore`.
        cell: rows of the same examples in the same order.
        margin: largest allowed drop, in the metric's own unit; negative if an improvement is required.
        confidence: confidence of each bound.
        resamples: number of bootstrap resamples; the smallest p-value is ``1 / (resamples + 1)``.
        seed: equal rows, resamples and seed give equal evidence.
        clusters: the resampling unit of each row, such as its SQuAD paragraph; default: single rows.

    Raises:
        DataError: no rows, rows of different examples, or rows without the columns of the metric.
    """
    if [row["id"] for row in baseline] != [row["id"] for row in cell] or not cell:
        raise DataError(
            f"{metric.name}: expected at least one example, and the same examples in the same order; found "
            f"{len(baseline)} rows of the baseline and {len(cell)} of the cell"
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
    """Distributions of the drop; a verdict must hold for all distributions of its side."""

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
    # The pseudo-example is the complete correction: BCa would correct twice.
    return Distribution(_draw(sample, resamples, rng), 0.0, 0.0, limit)


def _draw(sample: Sample, resamples: int, rng: np.random.Generator) -> Any:
    return np.sort(_steady(sample.resample(resamples, rng)))


def _steady(drops: Any) -> Any:
    # Rounded, so that equal drops compare as equal for any order of their summands.
    return np.round(drops, 10)


def _describe(paired: PairedMetric, resamples: int, seed: int) -> str:
    guard = f", guarded by one pseudo-example ({paired.guard})" if paired.guarded else ""
    return f"paired BCa bootstrap, {resamples:,} resamples of {paired.units}, seed {seed}{guard}"
