# SPDX-License-Identifier: Apache-2.0
"""Is the accuracy of a cell within a margin of the baseline's, both having answered the same examples?"""

import numpy as np
import numpy.typing as npt
from scipy import special

from sparse_deploy.errors import ConfigError, DataError
from sparse_deploy.gate.rows_needed import rows_needed_for_accuracy
from sparse_deploy.gate.score_test import drop_bound, drop_exceeds_margin, set_error_for
from sparse_deploy.results import Evidence

BoolArray = npt.NDArray[np.bool_]


def compare_correct(baseline: BoolArray, cell: BoolArray, *, margin: float, confidence: float) -> Evidence:
    """Test an accuracy for a drop, by rows that only one of the two answers right.

    Exact at any size: under the hypothesis that a verdict denies, it is given with probability ``1 - confidence`` at
    most. Bounds and p-values come from the same test, so ``high <= margin`` exactly when ``p_pass`` is small enough,
    and ``low > margin`` exactly when ``p_fail`` is.

    Args:
        baseline: whether each row was answered right [rows].
        cell: the same of the cell, in the same order [rows].
        margin: largest drop that is allowed, as a share; negative when an improvement is demanded.
        confidence: of each bound.

    Raises:
        DataError: no rows, or not the same number of them.
        ConfigError: a margin that every or no model meets.
    """
    if len(baseline) != len(cell) or not len(cell):
        raise DataError(
            f"expected the same rows from both, and at least one; found {len(baseline)} of the baseline and "
            f"{len(cell)} of the cell"
        )
    if not -1.0 < margin < 1.0:
        raise ConfigError(
            f"expected a margin between -1 and 1, since accuracy is a share of rows; found {margin:g}; a point is 0.01"
        )
    rows = len(cell)
    worse, better = int(np.sum(baseline & ~cell)), int(np.sum(cell & ~baseline))
    return evidence_of_counts(worse, better, rows, margin=margin, confidence=confidence)


def evidence_of_counts(worse: int, better: int, rows: int, *, margin: float, confidence: float) -> Evidence:
    """Result of :func:`compare_correct` for the numbers of rows that only one of the two predicts correctly."""
    alpha, set_error = 1.0 - confidence, set_error_for(confidence)
    p_pass = drop_exceeds_margin(worse, better, rows, margin, set_error=set_error)
    p_fail = drop_exceeds_margin(better, worse, rows, -margin, set_error=set_error)
    evidence = Evidence(
        drop=(worse - better) / rows,
        low=-drop_bound(better, worse, rows, -margin, alpha=alpha, set_error=set_error),
        high=drop_bound(worse, better, rows, margin, alpha=alpha, set_error=set_error),
        confidence=confidence,
        p_pass=p_pass,
        p_fail=p_fail,
        rows=rows,
        changed=worse + better,
        worse=worse,
        better=better,
        method=(
            "exact unconditional test of Tango's score and its inversion; exact McNemar p of no change "
            f"{exact_mcnemar(worse, better):.3g}"
        ),
    )
    if min(p_pass, p_fail) <= alpha:
        return evidence
    needed = rows_needed_for_accuracy(evidence, margin=margin, alpha=alpha)
    return evidence.model_copy(update={"rows_needed": needed})


def exact_mcnemar(worse: int, better: int) -> float:
    """Two-sided p-value of "both answer equally well": a sign test on the rows that changed (McNemar 1947)."""
    fewer, changed = min(worse, better), worse + better
    return min(1.0, 2.0 * float(special.bdtr(fewer, changed, 0.5))) if changed else 1.0
