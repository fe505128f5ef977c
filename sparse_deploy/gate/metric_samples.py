# SPDX-License-Identifier: Apache-2.0
"""Metrics as paired samples: what of a row counts, and which pseudo-example stands for what was not seen.

* Two labels: the changed answer, of the four that exist, whose addition moves the metric most. For F1 that is mostly
  a positive row no longer found, for Matthews one of the rarer class.
* SQuAD: a question, alone in its paragraph, that falls from 100 to 0.
* Correlations: a row of the sample that the other model answers with the mean: all that was known of it is lost. It is
  the row that matters more than 95 % of the others do: with a typical one instead, rare losses among 1,500 rows
  passed in 7 to 12 % of samples, since a few far from the mean do most of the harm. After INT8 nearly every prediction
  differs a little, and that scatter is what the bootstrap resamples; the guard is for (almost) the same answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from sparse_deploy.errors import DataError
from sparse_deploy.gate.resampling import RankedSample, Sample, SummedSample

FloatArray = npt.NDArray[np.float64]
Row = Mapping[str, Any]

# Fewer changed predictions than this leave the tails of a correlation's drop to chance.
_MANY_CHANGES = 50
# Of the labels' standard deviation: FP32 runtimes differ by less, INT8 by more.
_SAME_PREDICTION = 1e-3


@dataclass(frozen=True)
class PairedMetric:
    """A sample, what changed in it, and the same sample with a pseudo-example.

    Attributes:
        sample: the rows as they are.
        with_worse, with_better: with one more row that got worse, or better.
        guarded: whether these count.
        guard: the pseudo-example in words.
        units: what is drawn, in words.
        changed, worse, better: numbers of rows, as in :class:`~sparse_deploy.results.Evidence`.
        limit: the largest possible drop.
    """

    sample: Sample
    with_worse: Sample
    with_better: Sample
    guarded: bool
    guard: str
    units: str
    changed: int
    worse: int
    better: int
    limit: float


def paired_metric(
    metric: str, baseline: Sequence[Row], cell: Sequence[Row], clusters: Sequence[str] | None
) -> PairedMetric:
    """Read the rows for a metric.

    Args:
        metric: see :func:`~sparse_deploy.gate.bootstrap.compare_metric`.
        baseline: rows.
        cell: rows of the same examples.
        clusters: per row, or None.

    Raises:
        DataError: rows without what the metric needs, or clusters for a metric that has none.
    """
    if metric in ("exact_match", "f1") and metric in cell[0]:
        return _squad(metric, baseline, cell, clusters)
    if clusters is not None:
        raise DataError(f"{metric}: only SQuAD's metrics are clustered; found clusters for rows without {metric!r}")
    if metric in _LABEL_METRICS:
        return _labels(metric, baseline, cell)
    if metric in ("pearson", "spearman"):
        return _regression(metric, baseline, cell)
    raise DataError(
        f"{metric}: no paired test for that metric; there is one for {', '.join(sorted(_LABEL_METRICS))}, pearson, "
        "spearman, and exact_match and f1 of SQuAD"
    )


def _squad(metric: str, baseline: Sequence[Row], cell: Sequence[Row], clusters: Sequence[str] | None) -> PairedMetric:
    drops = np.array([before[metric] - after[metric] for before, after in zip(baseline, cell, strict=True)])
    changed = sum(before["prediction"] != after["prediction"] for before, after in zip(baseline, cell, strict=True))
    if clusters is None:
        summands = np.stack([drops, np.ones_like(drops)], axis=1)
    else:
        if len(clusters) != len(drops):
            raise DataError(f"{metric}: expected a cluster per row, found {len(clusters)} for {len(drops)} rows")
        _, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
        summands = np.stack([np.bincount(cluster_of, weights=drops), np.bincount(cluster_of)], axis=1)
    extreme = np.array([100.0, 1.0])
    return PairedMetric(
        sample=SummedSample(summands, _mean),
        with_worse=SummedSample(np.vstack([summands, extreme]), _mean),
        with_better=SummedSample(np.vstack([summands, [-100.0, 1.0]]), _mean),
        guarded=True,
        guard="a question from 100 to 0",
        units=f"{len(summands):,} {'rows' if clusters is None else 'clusters of rows'}",
        changed=changed,
        worse=int(np.sum(drops > 0.0)),
        better=int(np.sum(drops < 0.0)),
        limit=100.0,
    )


def _labels(metric: str, baseline: Sequence[Row], cell: Sequence[Row]) -> PairedMetric:
    labels, before, after = (
        np.array([row[name] for row in rows])
        for rows, name in ((cell, "label"), (baseline, "prediction"), (cell, "prediction"))
    )
    found = set(np.unique(np.concatenate([labels, before, after])).tolist())
    if not found <= {0, 1}:
        raise DataError(f"{metric}: expected the two labels 0 and 1, found {sorted(found)}; use accuracy")
    value = _LABEL_METRICS[metric]

    def drop_of(sums: FloatArray) -> FloatArray:
        return value(sums[..., :4]) - value(sums[..., 4:])

    summands = np.hstack([_confusion(labels, before), _confusion(labels, after)])
    kinds = np.array([(0, 0, 1), (0, 1, 0), (1, 0, 1), (1, 1, 0)])
    changes = np.hstack([_confusion(kinds[:, 0], kinds[:, 1]), _confusion(kinds[:, 0], kinds[:, 2])])
    effects = drop_of(summands.sum(axis=0) + changes)
    worst, best = int(np.argmax(effects)), int(np.argmin(effects))
    return PairedMetric(
        sample=SummedSample(summands, drop_of),
        with_worse=SummedSample(np.vstack([summands, changes[worst]]), drop_of),
        with_better=SummedSample(np.vstack([summands, changes[best]]), drop_of),
        guarded=True,
        guard=f"an answer {kinds[worst][0]} turned wrong",
        units=f"{len(labels):,} rows",
        changed=int(np.sum(before != after)),
        worse=int(np.sum((before == labels) & (after != labels))),
        better=int(np.sum((before != labels) & (after == labels))),
        limit=2.0 if metric == "matthews" else 1.0,
    )


def _regression(metric: str, baseline: Sequence[Row], cell: Sequence[Row]) -> PairedMetric:
    labels, before, after = (
        np.array([row[name] for row in rows], dtype=np.float64)
        for rows, name in ((cell, "label"), (baseline, "prediction"), (cell, "prediction"))
    )
    if not (np.isfinite(labels).all() and np.isfinite(before).all() and np.isfinite(after).all()):
        raise DataError(f"{metric}: expected finite labels and predictions, found NaN or infinity")
    columns = np.stack([labels, before, after])
    changed = np.abs(before - after) > _SAME_PREDICTION * labels.std()
    nearer = (before - labels) ** 2 - (after - labels) ** 2
    make, scale = (_pearson_sample, np.asarray) if metric == "pearson" else (_spearman_sample, stats.rankdata)
    worst, best = (_weighty_row(scale(labels), scale(answers)) for answers in (before, after))
    lost = [labels[worst], before[worst], after.mean()], [labels[best], before.mean(), after[best]]
    return PairedMetric(
        sample=make(columns),
        with_worse=make(np.column_stack([columns, lost[0]])),
        with_better=make(np.column_stack([columns, lost[1]])),
        guarded=int(changed.sum()) < min(_MANY_CHANGES, len(labels)),
        guard="an answer lost to the mean",
        units=f"{len(labels):,} rows",
        changed=int(changed.sum()),
        worse=int(np.sum(changed & (nearer < 0.0))),
        better=int(np.sum(changed & (nearer > 0.0))),
        limit=2.0,
    )


def _weighty_row(labels: FloatArray, answers: FloatArray) -> int:
    """The row whose answer, replaced by the mean, lowers the correlation more than for 95 % of rows."""
    x, y = (_standardized(values[None, :])[0] for values in (labels, answers))
    # Influence function of a correlation r at (x, y), less that at (x, 0): x y - r y^2 / 2.
    effects = x * y - 0.5 * np.mean(x * y) * y * y
    return int(np.argsort(effects, kind="stable")[int(0.95 * len(x))])


def _standardized(columns: FloatArray) -> FloatArray:
    spreads = columns.std(axis=1, keepdims=True)
    return np.asarray((columns - columns.mean(axis=1, keepdims=True)) / np.where(spreads > 0.0, spreads, 1.0))


def _pearson_sample(columns: FloatArray) -> Sample:
    # Centred and scaled, so that sums of squares keep their digits.
    x, y, z = _standardized(columns)
    return SummedSample(np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z], axis=1), _pearson_drop)


def _spearman_sample(columns: FloatArray) -> Sample:
    return RankedSample(*(stats.rankdata(column) for column in columns))


def _pearson_drop(sums: FloatArray) -> FloatArray:
    count, x, y, z, xx, yy, zz, xy, xz = np.moveaxis(sums, -1, 0)

    def correlation(second: FloatArray, squares: FloatArray, products: FloatArray) -> FloatArray:
        own = (count * xx - x * x) * (count * squares - second * second)
        # A constant has no correlation; as a score that is 0.
        small = own <= 1e-18 * count**4
        return np.where(small, 0.0, (count * products - x * second) / np.sqrt(np.where(small, 1.0, own)))

    return correlation(y, yy, xy) - correlation(z, zz, xz)


def _mean(sums: FloatArray) -> FloatArray:
    return _ratio(sums[..., 0], sums[..., 1])


def _confusion(labels: npt.NDArray[Any], predictions: npt.NDArray[Any]) -> FloatArray:
    """True positives, false positives, false negatives, true negatives, per row [rows, 4]."""
    positive, said = labels == 1, predictions == 1
    return np.stack([positive & said, ~positive & said, positive & ~said, ~positive & ~said], axis=1).astype(np.float64)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=whole != 0.0)


def _matthews(sums: FloatArray) -> FloatArray:
    tp, fp, fn, tn = np.moveaxis(sums, -1, 0)
    return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


# Zero where nothing is to be divided by, as data/metrics.py has it.
_LABEL_METRICS: Final[Mapping[str, Callable[[FloatArray], FloatArray]]] = {
    "f1": lambda sums: _ratio(2.0 * sums[..., 0], 2.0 * sums[..., 0] + sums[..., 1] + sums[..., 2]),
    "precision": lambda sums: _ratio(sums[..., 0], sums[..., 0] + sums[..., 1]),
    "recall": lambda sums: _ratio(sums[..., 0], sums[..., 0] + sums[..., 2]),
    "matthews": _matthews,
}
