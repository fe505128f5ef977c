# SPDX-License-Identifier: Apache-2.0
"""Paired samples of examples, and the drop of a metric in thousands of bootstrap resamples at once.

A resample is stored as the number of draws of each unit. Most metrics depend only on sums over units, so units with
equal summands are drawn together (a multinomial over a few kinds). Ranks need the counts of every row.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Number of counts drawn at once; they fit the cache.
_CHUNK = 200_000
# Number of groups of the jackknife; more groups do not change the acceleration noticeably.
_GROUPS = 500


class Sample(Protocol):
    """Units that are drawn with replacement; ``resample`` and ``jackknife`` give drops (baseline minus cell)."""

    def observed(self) -> float:
        """The drop of the sample itself."""

    def resample(self, resamples: int, rng: np.random.Generator) -> FloatArray:
        """The drop of each resample [resamples]."""

    def jackknife(self) -> tuple[FloatArray, FloatArray]:
        """The drop without one unit, per kind of unit, and the number of units of each kind (both [kinds])."""


@dataclass(frozen=True)
class SummedSample:
    """A metric that is a function of sums over units.

    Attributes:
        summands: summands of each unit [units, columns].
        drop_of: sums [..., columns] -> drop [...].
    """

    summands: FloatArray
    drop_of: Callable[[FloatArray], FloatArray]

    def observed(self) -> float:
        """See :class:`Sample`."""
        return float(self.drop_of(self.summands.sum(axis=0)))

    def resample(self, resamples: int, rng: np.random.Generator) -> FloatArray:
        """See :class:`Sample`."""
        kinds, times = self._kinds
        units = len(self.summands)
        if len(kinds) * 8 > units:  # a binomial draw costs about as much as eight uniform draws
            counts = _unit_counts(units, resamples, rng)
            return np.concatenate([self.drop_of(chunk @ self.summands) for chunk in counts])
        size = max(1, _CHUNK // len(kinds))
        chances = times / units
        return np.concatenate(
            [
                self.drop_of(rng.multinomial(units, chances, size=min(size, resamples - start)) @ kinds)
                for start in range(0, resamples, size)
            ]
        )

    def jackknife(self) -> tuple[FloatArray, FloatArray]:
        """See :class:`Sample`."""
        kinds, times = self._kinds
        return self.drop_of(self.summands.sum(axis=0) - kinds), times

    @functools.cached_property
    def _kinds(self) -> tuple[FloatArray, FloatArray]:
        # np.unique over rows gives the same result, but is much slower.
        ordered = self.summands[np.lexsort(self.summands.T)]
        first = np.flatnonzero(np.concatenate([[True], np.any(ordered[1:] != ordered[:-1], axis=1)]))
        return ordered[first], np.diff(np.append(first, len(ordered))).astype(np.float64)


@dataclass(frozen=True)
class RankedSample:
    """Spearman's correlation, exact in every resample, including ties.

    The rank of a value in a resample is the number of draws of smaller values plus half of its own draws: a cumulative
    sum over the sorted values.

    Attributes:
        labels, baseline, cell: values of each row [rows].
    """

    labels: FloatArray
    baseline: FloatArray
    cell: FloatArray

    def observed(self) -> float:
        """See :class:`Sample`."""
        return float(self._drops(np.ones((1, len(self.labels))))[0])

    def resample(self, resamples: int, rng: np.random.Generator) -> FloatArray:
        """See :class:`Sample`."""
        return np.concatenate([self._drops(counts) for counts in _unit_counts(len(self.labels), resamples, rng)])

    def jackknife(self) -> tuple[FloatArray, FloatArray]:
        """See :class:`Sample`; leaves out groups of rows if there are many rows."""
        rows = len(self.labels)
        groups = min(rows, _GROUPS)
        # A group has every groups-th row, because neighbouring examples in a file may be similar.
        counts = 1.0 - (np.arange(rows)[None, :] % groups == np.arange(groups)[:, None])
        return np.concatenate(
            [self._drops(part) for part in np.array_split(counts, 1 + counts.size // _CHUNK)]
        ), np.ones(groups)

    @functools.cached_property
    def _rankings(self) -> tuple["_Ranking", ...]:
        return tuple(_Ranking(values) for values in (self.labels, self.baseline, self.cell))

    def _drops(self, counts: FloatArray) -> FloatArray:
        labels, baseline, cell = (ranking.ranks(counts) for ranking in self._rankings)
        return _correlation(counts, labels, baseline) - _correlation(counts, labels, cell)


class _Ranking:
    def __init__(self, values: FloatArray) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        self._first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._group = np.empty(len(values), dtype=np.int64)
        self._group[self._order] = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))

    def ranks(self, counts: FloatArray) -> FloatArray:
        """Ranks minus their mean [resamples, rows]."""
        drawn = counts[:, self._order]
        if len(self._first) < drawn.shape[1]:
            drawn = np.add.reduceat(drawn, self._first, axis=1)
        ranks = np.cumsum(drawn, axis=1)
        ranks -= 0.5 * drawn
        # The mean of midranks is half the number of rows.
        ranks -= 0.5 * counts.sum(axis=1, keepdims=True)
        return np.take(ranks, self._group, axis=1)


def _correlation(counts: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    weighted = counts * second
    together = np.einsum("ij,ij->i", weighted, first)
    own = np.einsum("ij,ij->i", weighted, second) * np.einsum("ij,ij->i", counts, first * first)
    found = np.divide(together, np.sqrt(own), out=np.zeros_like(together), where=own > 0.0)
    return np.asarray(found, dtype=np.float64)


def _unit_counts(units: int, resamples: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Number of draws of each unit, in chunks of resamples [chunk, units]."""
    size = max(1, _CHUNK // units)
    for start in range(0, resamples, size):
        chunk = min(size, resamples - start)
        drawn = rng.integers(units, size=(chunk, units), dtype=np.int32) + np.arange(chunk)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=chunk * units).reshape(chunk, units).astype(np.float64)
