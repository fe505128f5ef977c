# SPDX-License-Identifier: Apache-2.0
"""The number of rows needed to decide an inconclusive gate, for the same drop and rate of changed predictions.

At this number the bound for the observed rates equals the margin; a new sample of this size has a chance of about one
half to decide.
"""

import math

from scipy import special

from sparse_deploy.gate.score_test import drop_exceeds_margin, set_error_for
from sparse_deploy.results import Evidence

# Larger numbers are not practical; such a drop practically equals the margin.
MOST_ROWS = 10_000_000
# Largest number of rows for which the exact test checks the approximation.
_CHECKED_ROWS = 40_000
_STEP = 1.05


def rows_needed_for_accuracy(evidence: Evidence, *, margin: float, alpha: float) -> int | None:
    """Number of rows at which the exact test of :mod:`~sparse_deploy.gate.paired` would give a verdict.

    A normal approximation, increased in steps of 5 % until the exact test decides on the scaled counts.

    Args:
        evidence: inconclusive evidence; its p-values are not used.
        margin: largest allowed drop, as a share.
        alpha: error rate of the verdict; after a correction, divided by the factor of the correction.

    Returns:
        At least ``evidence.rows``; None if the drop is too close to the margin for a practical number.
    """
    distance = margin - evidence.drop
    # The test computes the standard error at the margin, which requires at least that share of changed rows.
    share = max(evidence.changed / evidence.rows, abs(margin))
    spread = -float(special.ndtri(alpha)) * math.sqrt(max(share - margin**2, 0.0))
    if abs(distance) * math.sqrt(MOST_ROWS) <= spread or distance == 0.0:
        return None
    needed = max(float(evidence.rows), (spread / distance) ** 2)
    while needed <= _CHECKED_ROWS and not _decides(evidence, math.ceil(needed), margin, alpha):
        needed *= _STEP
    return _rounded(needed)


def rows_needed_for_metric(evidence: Evidence, *, margin: float, alpha: float) -> int | None:
    """Number of rows at which a bootstrap bound would equal the margin, by the rate at which intervals shrink.

    Args:
        evidence: inconclusive evidence; its p-values are not used.
        margin: largest allowed drop, in the metric's own unit.
        alpha: as for :func:`rows_needed_for_accuracy`.

    Returns:
        As for :func:`rows_needed_for_accuracy`.
    """
    distance = margin - evidence.drop
    width = evidence.high - evidence.drop if distance > 0.0 else evidence.drop - evidence.low
    width *= float(special.ndtri(alpha) / special.ndtri(1.0 - evidence.confidence))
    # Without changed predictions the width is that of the guard's one example, which shrinks like 1 / rows.
    power = 2.0 if evidence.changed else 1.0
    if abs(distance) * MOST_ROWS ** (1.0 / power) <= width * evidence.rows ** (1.0 / power):
        return None
    return _rounded(evidence.rows * max(1.0, (width / abs(distance)) ** power))


def _decides(evidence: Evidence, rows: int, margin: float, alpha: float) -> bool:
    worse, better = evidence.worse, evidence.better
    if evidence.drop > margin:
        worse, better, margin = better, worse, -margin
    # Round against the verdict, so that whole counts do not make it easier than the observed rates.
    worse, better = math.ceil(worse * rows / evidence.rows), better * rows // evidence.rows
    error = set_error_for(evidence.confidence)
    return drop_exceeds_margin(worse, better, rows, margin, set_error=error) <= alpha


def _rounded(rows: float) -> int:
    """Round up to two significant digits, because the number is an estimate."""
    unit = int(10 ** max(0, math.floor(math.log10(rows)) - 1))
    return math.ceil(rows / unit - 1e-6) * unit
