# SPDX-License-Identifier: Apache-2.0
"""Selects the paired test of a task metric, and checks that the rows of two cells can be paired."""

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
    """A task metric and its split: ``accuracy_mismatched`` is ``accuracy`` of the split ``mismatched``."""

    metric: str
    suffix: str


def split_metric(name: str, rows: Rows) -> SplitMetric:
    """Split the name of a metric into metric and split, by the splits that have rows."""
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
        cell: results of the same examples, in the same order.
        margin: largest allowed drop, in the metric's own unit.
        confidence: confidence of each one-sided bound.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        DataError: the examples differ.
    """
    if [row["id"] for row in baseline] != [row["id"] for row in cell]:
        raise DataError(f"{metric.name}: expected the same examples in the same order, found different ones")
    # One correct or wrong prediction per row: an exact test. Other metrics, and clustered ones: the bootstrap.
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
