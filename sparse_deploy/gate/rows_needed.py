# SPDX-License-Identifier: Apache-2.0
"""How many rows would decide an inconclusive gate, if the drop and the rate of changed predictions stay the same.

That is the number at which the bound of the same observed rates meets the margin; a new sample of that size has about
an even chance to decide.
"""

import math

from scipy import special

from sparse_deploy.gate.score_test import drop_exceeds_margin, set_error_for
from sparse_deploy.results import Evidence

# More rows are never labelled; a drop that needs them practically equals the margin.
MOST_ROWS = 10_000_000
# Largest number of rows for which the exact test checks the approximation.
_CHECKED_ROWS = 40_000
_STEP = 1.05


def rows_needed_for_accuracy(evidence: Evidence, *, margin: float, alpha: float) -> int | None:
    """Rows at which the exact test of :mod:`~sparse_deploy.gate.paired` would give a verdict.

    A normal approximation, raised in steps of 5 % until the test itself decides on the scaled counts.

    Args:
        evidence: an inconclusive one, its p-values not read.
        margin: largest allowed drop, as a share.
        alpha: error rate of the verdict; after a correction, divided by the factor of the correction.

    Returns:
        At least ``evidence.rows``; None when the drop is so close to the margin that no sensible number decides.
    """
    distance = margin - evidence.drop
    # The test takes its standard error at the margin, where at least that share of rows changes.
    share = max(evidence.changed / evidence.rows, abs(margin))
    spread = -float(special.ndtri(alpha)) * math.sqrt(max(share - margin**2, 0.0))
    if abs(distance) * math.sqrt(MOST_ROWS) <= spread or distance == 0.0:
        return None
    needed = max(float(evidence.rows), (spread / distance) ** 2)
    while needed <= _CHECKED_ROWS and not _decides(evidence, math.ceil(needed), margin, alpha):
        needed *= _STEP
    return _rounded(needed)


def rows_needed_for_metric(evidence: Evidence, *, margin: float, alpha: float) -> int | None:
    """Rows at which a bootstrap bound would meet the margin, by the rate at which intervals shrink.

    Args:
        evidence: an inconclusive one, its p-values not read.
        margin: largest allowed drop, in the metric's own unit.
        alpha: as for :func:`rows_needed_for_accuracy`.

    Returns:
        As :func:`rows_needed_for_accuracy`.
    """
    distance = margin - evidence.drop
    width = evidence.high - evidence.drop if distance > 0.0 else evidence.drop - evidence.low
    width *= float(special.ndtri(alpha) / special.ndtri(1.0 - evidence.confidence))
    # Where nothing changed, the width is that of the guard's one example, which shrinks like 1 / rows.
    power = 2.0 if evidence.changed else 1.0
    if abs(distance) * MOST_ROWS ** (1.0 / power) <= width * evidence.rows ** (1.0 / power):
        return None
    return _rounded(evidence.rows * max(1.0, (width / abs(distance)) ** power))


def _decides(evidence: Evidence, rows: int, margin: float, alpha: float) -> bool:
    worse, better = evidence.worse, evidence.better
    if evidence.drop > margin:
        worse, better, margin = better, worse, -margin
    # Against the verdict, so that whole counts don't make it easier than the observed rates.
    worse, better = math.ceil(worse * rows / evidence.rows), better * rows // evidence.rows
    error = set_error_for(evidence.confidence)
    return drop_exceeds_margin(worse, better, rows, margin, set_error=error) <= alpha


def _rounded(rows: float) -> int:
    """Up to two significant digits: it is an estimate."""
    unit = int(10 ** max(0, math.floor(math.log10(rows)) - 1))
    return math.ceil(rows / unit - 1e-6) * unit
