# SPDX-License-Identifier: Apache-2.0
"""Which paired test belongs to which task metric, and whether the rows of two cells can be paired at all."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparse_deploy.errors import DataError
from sparse_deploy.gate.bootstrap import compare_metric
from sparse_deploy.gate.companions import Row, Rows
from sparse_deploy.gate.metric import Metric, PairedTest
from sparse_deploy.gate.paired import compare_correct
from sparse_deploy.results import Evidence


class SplitMetric(NamedTuple):
    """A task metric taken apart: ``accuracy_mismatched`` is ``accuracy`` of the split ``mismatched``."""

    metric: str
    suffix: str


def split_metric(name: str, rows: Rows) -> SplitMetric:
    """Take the name of a metric apart, by the splits that there are rows of."""
    suffix = next((suffix for suffix in rows if suffix and name.endswith(f"_{suffix}")), "")
    return SplitMetric(name.removesuffix(f"_{suffix}") if suffix else name, suffix)


def compare_rows(
    metric: Metric,
    baseline: Sequence[Row],
    cell: Sequence[Row],
    *,
    margin: float,
    confidence: float,
    resamples: int,
    seed: int,
) -> Evidence:
    """Test whether a metric drops by more than a margin.

    Args:
        metric: a metric of the task.
        baseline: per-example results of one split.
        cell: of the same examples, in the same order.
        margin: largest allowed drop, in the metric's own unit.
        confidence: of each one-sided bound.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: the two have other examples.
    """
    if [row["id"] for row in baseline] != [row["id"] for row in cell]:
        raise DataError(f"{metric.name}: expected the same examples from both, in the same order; found others")
    # One right or wrong per row: an exact test. All else is a function of all rows, or clustered: the bootstrap.
    if metric.test is PairedTest.CORRECT:
        before, after = (np.array([bool(row["correct"]) for row in rows]) for rows in (baseline, cell))
        return compare_correct(before, after, margin=margin, confidence=confidence)
    paragraphs = [row["paragraph"] for row in cell] if "paragraph" in cell[0] else None
    return compare_metric(
        metric,
        baseline,
        cell,
        margin=margin,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        clusters=paragraphs,
    )
