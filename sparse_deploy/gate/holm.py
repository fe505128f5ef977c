# SPDX-License-Identifier: Apache-2.0
"""Correction of the p-values of several gates, which limits the chance of any false verdict."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values by Holm's step-down method (1979, Scandinavian Journal of Statistics 6, 65-70).

    Rejecting hypotheses with an adjusted p-value of at most ``alpha`` rejects any true hypothesis with probability at
    most ``alpha``, for any dependence of the tests: cells on the same examples may be corrected together.

    The "not within the margin" hypotheses of all gates are one family, the "within the margin" hypotheses another: this
    limits the chance of any false pass and the chance of any false fail, each to ``alpha``.

    Args:
        p_values: one per hypothesis, in any order.

    Returns:
        The adjusted p-values, in the order of the argument, each at least as large as before and at most 1.
    """
    found = np.asarray(p_values, dtype=np.float64)
    if not np.all((found >= 0.0) & (found <= 1.0)):
        raise ValueError(f"expected p-values between 0 and 1, found {list(p_values)}")
    order = np.argsort(found, kind="stable")
    stepped = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(stepped, 1.0)
    return tuple(float(p) for p in adjusted)
