# SPDX-License-Identifier: Apache-2.0
"""Metrics of labels for several kinds of tasks, as functions of rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# The positive label of F1, precision and recall: the data's second label.
POSITIVE_LABEL = 1


def counts_of(label: set[Any], prediction: set[Any]) -> list[int]:
    """True positives, false positives and false negatives of one row."""
    return [len(label & prediction), len(prediction - label), len(label - prediction)]


def summed(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """The sum of the rows' ``counts``."""
    tp, fp, fn = np.sum([row["counts"] for row in rows], axis=0)
    return int(tp), int(fp), int(fn)


def precision_recall_f1(tp: float, fp: float, fn: float) -> tuple[float, float, float]:
    """F1, precision or recall from counts; 0 if the denominator is 0."""
    return (
        tp / (tp + fp) if tp + fp else 0.0,
        tp / (tp + fn) if tp + fn else 0.0,
        2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
    )


def macro_f1(labels: Sequence[set[int]], predictions: Sequence[set[int]]) -> float:
    """The mean F1 of all labels in the rows."""
    named = sorted(set().union(*labels))
    scores = []
    for one in named:
        there = np.array([one in label for label in labels])
        said = np.array([one in prediction for prediction in predictions])
        scores.append(
            precision_recall_f1(int((there & said).sum()), int((~there & said).sum()), int((there & ~said).sum()))[2]
        )
    return float(np.mean(scores)) if scores else 0.0
