# SPDX-License-Identifier: Apache-2.0
"""The exact paired test of an accuracy's drop against a margin, on the same examples."""

import numpy as np
import numpy.typing as npt
from scipy import special

from sparse_deploy.errors import ConfigError, DataError
from sparse_deploy.gate.rows_needed import rows_needed_for_accuracy
from sparse_deploy.gate.score_test import drop_bound, drop_exceeds_margin, set_error_for
from sparse_deploy.results import Evidence

BoolArray = npt.NDArray[np.bool_]


def compare_correct(baseline: BoolArray, cell: BoolArray, *, margin: float, confidence: float) -> Evidence:
    """Test an accuracy for a drop, by the rows that only one of the two predicts correctly.

    Exact at any size: a false pass, and a false fail, each have probability ``1 - confidence`` at most. Bounds and
    p-values come from the same test, so ``high <= margin`` exactly if ``p_pass`` is small enough, and ``low > margin``
    exactly if ``p_fail`` is.

    Args:
        baseline: whether the baseline's prediction of each row is correct [rows].
        cell: the same for the cell, in the same order [rows].
        margin: largest allowed drop, as a share; negative if an improvement is required.
        confidence: confidence of each bound.

    Raises:
        DataError: no rows, or different numbers of rows.
        ConfigError: a margin that every model or no model meets.
    """
    if len(baseline) != len(cell) or not len(cell):
        raise DataError(
            f"expected at least one row, and the same rows of both; found {len(baseline)} rows of the baseline and "
            f"{len(cell)} of the cell"
        )
    if not -1.0 < margin < 1.0:
        raise ConfigError(
            f"expected a margin between -1 and 1, since accuracy is a share of rows (a point is 0.01); found {margin:g}"
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
    """Two-sided p-value of "both are equally accurate": a sign test on the changed rows (McNemar 1947)."""
    fewer, changed = min(worse, better), worse + better
    return min(1.0, 2.0 * float(special.bdtr(fewer, changed, 0.5))) if changed else 1.0
