# SPDX-License-Identifier: Apache-2.0
"""The paired test and the unit of a metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class PairedTest(StrEnum):
    """The test of a drop of a metric, and the columns that it needs."""

    CORRECT = "correct"  # one correct or wrong prediction per row (``correct``): an exact test
    MEAN = "mean"  # the mean of a value per row; its column has the metric's name
    BINARY = "binary"  # two labels (``label`` and ``prediction``, 0 or 1)
    MACRO = "macro"  # the mean F1 over labels (``label`` and ``prediction``: an id, or a list of ids)
    COUNTS = "counts"  # from true positives, false positives and false negatives of all rows (``counts``)
    CORRELATION = "correlation"  # correlation of ``label`` and ``prediction``, real numbers


@dataclass(frozen=True)
class Metric:
    """A metric that is better when higher.

    Attributes:
        name: name in reports and goals.
        test: see :class:`PairedTest`.
        best: the highest value, which defines the unit: 1 for shares and correlations, 100 for SQuAD's.
    """

    name: str
    test: PairedTest
    best: float = 1.0

    @property
    def points(self) -> float:
        """Points per unit of the metric: a difference of ``1 / points`` is one point."""
        return 100.0 / self.best


def by_name(*metrics: Metric) -> Mapping[str, Metric]:
    """Metrics by their names."""
    return {metric.name: metric for metric in metrics}
