# SPDX-License-Identifier: Apache-2.0
"""Figures that compare the answers of two models to the same examples, without a statistical test."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]


def agreement(baseline: Rows, cell: Rows) -> float | None:
    """Share of the examples of all splits with equal predictions.

    Args:
        baseline: per-example results by the split's suffix.
        cell: results of the same splits and examples.

    Returns:
        0 to 1; None for a regression, whose real numbers are hardly ever equal.
    """
    pairs = [
        (before["prediction"], after["prediction"])
        for suffix, rows in baseline.items()
        for before, after in zip(rows, cell[suffix], strict=True)
    ]
    if not pairs or any(isinstance(before, float) for before, _ in pairs):
        return None
    return sum(bool(before == after) for before, after in pairs) / len(pairs)


def logit_difference(baseline: Rows, cell: Rows) -> float | None:
    """Largest absolute difference of any logit of any example.

    Args:
        baseline: per-example results by the split's suffix.
        cell: results of the same splits and examples.

    Returns:
        The difference; None if one of them has no logits, or a different number of logits.
    """
    largest = []
    for suffix, rows in baseline.items():
        sides = [[row.get("logits") for row in side] for side in (rows, cell[suffix])]
        if any(logits is None for side in sides for logits in side):
            return None
        before, after = (np.asarray(side, dtype=np.float64) for side in sides)
        if before.shape != after.shape or not before.size:
            return None
        largest.append(np.abs(before - after).max())
    return float(np.max(largest)) if largest else None  # unlike max(), this propagates NaN
