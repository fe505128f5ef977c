# SPDX-License-Identifier: Apache-2.0
"""Metrics as paired samples: the columns of a row, and the pseudo-example of the guard.

The pseudo-example of a metric:

* Two labels: of the four possible changed predictions, the one that changes the metric most. For F1 this is usually a
  missed positive row, for Matthews a row of the rarer class.
* Means of a value per row: a row (SQuAD: a question, alone in its paragraph) that falls from the best value to 0.
* Counts of all rows, and means over labels: of the existing predictions, the one whose loss changes the metric most.
* Correlations: a row of the sample whose prediction by the other model becomes the mean. It is the row with more
  influence than 95 % of the rows: a few rows far from the mean have most influence, so with a typical row too many
  samples with rare losses would pass. After INT8 nearly every prediction differs a little, and the bootstrap resamples
  these differences; the guard is needed for (almost) equal predictions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from sparse_deploy.errors import DataError
from sparse_deploy.gate.metric import Metric, PairedTest
from sparse_deploy.gate.resampling import RankedSample, Sample, SummedSample

FloatArray = npt.NDArray[np.float64]
Row = Mapping[str, Any]

# With fewer changed predictions the tails of a correlation's drop are not reliable.
_MANY_CHANGES = 50
# Share of the labels' standard deviation: FP32 runtimes differ by less, INT8 by more.
_SAME_PREDICTION = 1e-3


@dataclass(frozen=True)
class PairedMetric:
    """A sample, the numbers of its changes, and the same sample with a pseudo-example.

    Attributes:
        sample: the rows without a pseudo-example.
        with_worse, with_better: with one additional row that got worse, or better.
        guarded: whether ``with_worse`` and ``with_better`` are used.
        guard: description of the pseudo-example.
        units: description of the resampling units.
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
    metric: Metric, baseline: Sequence[Row], cell: Sequence[Row], clusters: Sequence[str] | None
) -> PairedMetric:
    """Make the paired sample of a metric from the rows.

    Args:
        metric: see :func:`~sparse_deploy.gate.bootstrap.compare_metric`.
        baseline: rows.
        cell: rows of the same examples by the cell.
        clusters: cluster of each row, or None.

    Raises:
        DataError: rows without the columns of the metric, or clusters for a metric without clusters.
    """
    _check_columns(metric, (*baseline, *cell))
    if metric.test is PairedTest.MEAN:
        return _means(metric, baseline, cell, clusters)
    if clusters is not None:
        raise DataError(f"{metric.name}: only means of a value per row are clustered; found clusters")
    match metric.test:
        case PairedTest.BINARY:
            return _labels(metric.name, baseline, cell)
        case PairedTest.MACRO:
            return _macro(baseline, cell)
        case PairedTest.COUNTS:
            return _counts(metric.name, baseline, cell)
        case PairedTest.CORRELATION:
            return _regression(metric.name, baseline, cell)
    raise DataError(f"{metric.name}: expected a metric for the bootstrap, found one with an exact test")


def _check_columns(metric: Metric, rows: Sequence[Row]) -> None:
    needed = {PairedTest.MEAN: (metric.name,), PairedTest.COUNTS: ("counts",)}.get(metric.test, ("label", "prediction"))
    missing = next((name for name in needed for row in rows if name not in row), None)
    if missing is not None:
        raise DataError(f"{metric.name}: expected rows with {' and '.join(needed)}, found one without {missing!r}")


def _means(
    metric: Metric, baseline: Sequence[Row], cell: Sequence[Row], clusters: Sequence[str] | None
) -> PairedMetric:
    name, best = metric.name, metric.best
    drops = np.array([before[name] - after[name] for before, after in zip(baseline, cell, strict=True)])
    changed = sum(before["prediction"] != after["prediction"] for before, after in zip(baseline, cell, strict=True))
    if clusters is None:
        summands = np.stack([drops, np.ones_like(drops)], axis=1)
    else:
        if len(clusters) != len(drops):
            raise DataError(f"{name}: expected a cluster per row, found {len(clusters)} for {len(drops)} rows")
        _, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
        summands = np.stack([np.bincount(cluster_of, weights=drops), np.bincount(cluster_of)], axis=1)
    return PairedMetric(
        sample=SummedSample(summands, _mean),
        with_worse=SummedSample(np.vstack([summands, [best, 1.0]]), _mean),
        with_better=SummedSample(np.vstack([summands, [-best, 1.0]]), _mean),
        guarded=True,
        guard=f"a {'question' if clusters is not None or best != 1.0 else 'row'} from {best:g} to 0",
        units=f"{len(summands):,} {'rows' if clusters is None else 'clusters of rows'}",
        changed=changed,
        worse=int(np.sum(drops > 0.0)),
        better=int(np.sum(drops < 0.0)),
        limit=best,
    )


def _counts(metric: str, baseline: Sequence[Row], cell: Sequence[Row]) -> PairedMetric:
    """F1, precision or recall from the counts of every row: of entities, or of several labels."""
    before, after = (np.array([row["counts"] for row in rows], dtype=np.float64) for rows in (baseline, cell))
    summands = np.column_stack([before, after])
    score = _COUNT_METRICS[metric.removeprefix("micro_")]

    def drop_of(sums: FloatArray) -> FloatArray:
        return score(sums[..., :3]) - score(sums[..., 3:])

    # A hit that the other model misses and predicts at a wrong position: the largest loss of one prediction.
    hit, missed = [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]
    drops = np.array([score(b) - score(a) for b, a in zip(before, after, strict=True)])
    changed = [b["prediction"] != a["prediction"] for b, a in zip(baseline, cell, strict=True)]
    return PairedMetric(
        sample=SummedSample(summands, drop_of),
        with_worse=SummedSample(np.vstack([summands, hit + missed]), drop_of),
        with_better=SummedSample(np.vstack([summands, missed + hit]), drop_of),
        guarded=True,
        guard="a row whose only correct prediction is lost",
        units=f"{len(summands):,} rows",
        changed=int(np.sum(changed)),
        worse=int(np.sum(drops > 0.0)),
        better=int(np.sum(drops < 0.0)),
        limit=1.0,
    )


def _macro(baseline: Sequence[Row], cell: Sequence[Row]) -> PairedMetric:
    """The mean F1 of all labels in the rows; a label that a resample lacks counts as 0 there, for both models."""
    labels, before, after = (
        [_ids(row[name]) for row in rows]
        for rows, name in ((cell, "label"), (baseline, "prediction"), (cell, "prediction"))
    )
    named = sorted(set().union(*labels))
    actual, first, second = (_indicator(rows, named) for rows in (labels, before, after))
    summands = np.concatenate([_label_counts(actual, first), _label_counts(actual, second)], axis=1)
    width = len(named)

    def drop_of(sums: FloatArray) -> FloatArray:
        return _macro_f1(sums[..., : 3 * width], width) - _macro_f1(sums[..., 3 * width :], width)

    # A prediction of one label changed to another label: of all such changes, the one that changes the metric most.
    one = np.eye(width)
    turned = [
        np.concatenate([_label_counts(one[[a]], one[[a]]), _label_counts(one[[a]], one[[b]])], axis=1)[0]
        for a in range(width)
        for b in range(width)
        if a != b
    ] or [np.zeros(6 * width)]
    worst = turned[int(np.argmax(drop_of(summands.sum(axis=0) + np.array(turned))))]
    better = np.concatenate([worst[3 * width :], worst[: 3 * width]])
    rights = [[side == label for side, label in zip(sides, labels, strict=True)] for sides in (before, after)]
    return PairedMetric(
        sample=SummedSample(summands, drop_of),
        with_worse=SummedSample(np.vstack([summands, worst]), drop_of),
        with_better=SummedSample(np.vstack([summands, better]), drop_of),
        guarded=True,
        guard="a correct prediction of the label with most weight that becomes wrong",
        units=f"{len(summands):,} rows",
        changed=sum(a != b for a, b in zip(before, after, strict=True)),
        worse=sum(a and not b for a, b in zip(*rights, strict=True)),
        better=sum(b and not a for a, b in zip(*rights, strict=True)),
        limit=1.0,
    )


def _ids(value: Any) -> set[int]:
    return {int(one) for one in value} if isinstance(value, list | tuple) else {int(value)}


def _indicator(rows: Sequence[set[int]], named: Sequence[int]) -> FloatArray:
    return np.array([[float(one in row) for one in named] for row in rows])


def _label_counts(actual: FloatArray, predicted: FloatArray) -> FloatArray:
    """True positives, false positives and false negatives per label, ``[rows, 3 * labels]``."""
    return np.concatenate([actual * predicted, (1 - actual) * predicted, actual * (1 - predicted)], axis=1)


def _macro_f1(sums: FloatArray, labels: int) -> FloatArray:
    tp, fp, fn = (sums[..., part * labels : (part + 1) * labels] for part in range(3))
    return np.asarray(_ratio(2.0 * tp, 2.0 * tp + fp + fn).mean(axis=-1))


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
        guard=f"a prediction {kinds[worst][0]} that becomes wrong",
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
        guard="a prediction replaced by the mean",
        units=f"{len(labels):,} rows",
        changed=int(changed.sum()),
        worse=int(np.sum(changed & (nearer < 0.0))),
        better=int(np.sum(changed & (nearer > 0.0))),
        limit=2.0,
    )


def _weighty_row(labels: FloatArray, answers: FloatArray) -> int:
    """The row whose answer, replaced by the mean, lowers the correlation more than for 95 % of rows."""
    x, y = (_standardized(values[None, :])[0] for values in (labels, answers))
    # Influence function of a correlation r at (x, y), minus its value at (x, 0): x y - r y^2 / 2.
    effects = x * y - 0.5 * np.mean(x * y) * y * y
    return int(np.argsort(effects, kind="stable")[int(0.95 * len(x))])


def _standardized(columns: FloatArray) -> FloatArray:
    spreads = columns.std(axis=1, keepdims=True)
    return np.asarray((columns - columns.mean(axis=1, keepdims=True)) / np.where(spreads > 0.0, spreads, 1.0))


def _pearson_sample(columns: FloatArray) -> Sample:
    # Centred and scaled, so that sums of squares are accurate.
    x, y, z = _standardized(columns)
    return SummedSample(np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z], axis=1), _pearson_drop)


def _spearman_sample(columns: FloatArray) -> Sample:
    return RankedSample(*(stats.rankdata(column) for column in columns))


def _pearson_drop(sums: FloatArray) -> FloatArray:
    count, x, y, z, xx, yy, zz, xy, xz = np.moveaxis(sums, -1, 0)

    def correlation(second: FloatArray, squares: FloatArray, products: FloatArray) -> FloatArray:
        own = (count * xx - x * x) * (count * squares - second * second)
        # A constant has no correlation; the score is 0.
        small = own <= 1e-18 * count**4
        return np.where(small, 0.0, (count * products - x * second) / np.sqrt(np.where(small, 1.0, own)))

    return correlation(y, yy, xy) - correlation(z, zz, xz)


def _mean(sums: FloatArray) -> FloatArray:
    return _ratio(sums[..., 0], sums[..., 1])


def _confusion(labels: npt.NDArray[Any], predictions: npt.NDArray[Any]) -> FloatArray:
    """True positives, false positives, false negatives, true negatives, per row [rows, 4]."""
    positive, predicted = labels == 1, predictions == 1
    return np.stack(
        [positive & predicted, ~positive & predicted, positive & ~predicted, ~positive & ~predicted], axis=1
    ).astype(np.float64)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=whole != 0.0)


def _matthews(sums: FloatArray) -> FloatArray:
    tp, fp, fn, tn = np.moveaxis(sums, -1, 0)
    return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


# Metrics of true positives, false positives and false negatives [..., 3].
_COUNT_METRICS: Final[Mapping[str, Callable[[FloatArray], FloatArray]]] = {
    "f1": lambda sums: _ratio(2.0 * sums[..., 0], 2.0 * sums[..., 0] + sums[..., 1] + sums[..., 2]),
    "precision": lambda sums: _ratio(sums[..., 0], sums[..., 0] + sums[..., 1]),
    "recall": lambda sums: _ratio(sums[..., 0], sums[..., 0] + sums[..., 2]),
}

# Zero if the denominator is zero, as in the tasks' metrics.
_LABEL_METRICS: Final[Mapping[str, Callable[[FloatArray], FloatArray]]] = {
    "f1": lambda sums: _ratio(2.0 * sums[..., 0], 2.0 * sums[..., 0] + sums[..., 1] + sums[..., 2]),
    "precision": lambda sums: _ratio(sums[..., 0], sums[..., 0] + sums[..., 1]),
    "recall": lambda sums: _ratio(sums[..., 0], sums[..., 0] + sums[..., 2]),
    "matthews": _matthews,
}
