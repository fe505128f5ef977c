# SPDX-License-Identifier: Apache-2.0
"""The exact test of accuracies: the probability of a paired result at least as good if the true drop equals a margin.

Of ``rows`` rows, ``worse`` are correct only in the baseline and ``better`` only in the cell. The counts are
multinomial; with drop d and changed share s the two probabilities are (s + d) / 2 and (s - d) / 2.

* Order of the outcomes: the score statistic of Tango (1998), Statistics in Medicine 17, 891-908.
* P-value: the largest probability of an outcome at least as extreme over the unknown s (Sidik 2003, Statistics in
  Medicine 22, 265-278), where s is confined to its own confidence set and that set's error added (Berger and Boos
  1994, JASA 89, 1012-1016).

The interval conditional on the changed rows (Clopper-Pearson on worse / (worse + better), times their share) is not
used, because it treats the number of changed rows as a constant. With 872 rows, 8 worse and 0 better, its upper bound
is below 1 point, although at a true drop of 1 point almost every second sample has 8 or fewer worse rows.

The p-value is valid for every drop above the margin, not only at the margin: with s fixed, a larger drop increases the
share of worse rows among the changed rows, the statistic increases with this share, and the set for s does not depend
on it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

FloatArray = npt.NDArray[np.float64]
Excess = Callable[[float], float]

# Outcomes with less total probability than this are not summed; the probability is added to the p-value.
_TRIMMED = 1e-7
# Equal statistics may differ by rounding; a tie counts as extreme.
_TIE = 1e-9
# Nuisance values are at most this many 1 / sqrt(rows) apart, about a third of the standard error of its estimate.
_GRID_STEP = 0.12


def drop_exceeds_margin(worse: int, better: int, rows: int, margin: float, *, set_error: float) -> float:
    """P-value of "the drop is at least ``margin``"; a small p-value shows that the drop is smaller.

    The p-value of "the drop is at most ``margin``" is that of the exchanged counts at ``-margin``.

    Args:
        worse: rows that only the baseline predicts correctly.
        better: rows that only the cell predicts correctly.
        rows: number of all rows, at least 1.
        margin: share of rows, between -1 and 1 exclusive.
        set_error: error of the confidence set for the changed share, a part of the p-value.
    """
    low, high = changed_share_set(worse + better, rows, set_error)
    # A drop of d needs a share of changed rows of at least d; better rows are at most all of the changed rows.
    low = max(low, margin)
    if high < low:
        return min(1.0, set_error + _TRIMMED)
    region = _Region(worse, better, rows, margin, low, high)
    shares = _grid(low, high, margin, rows)
    largest = 0.0
    for _ in range(2):
        tails = region.probability(shares)
        best = int(np.argmax(tails))
        largest = max(largest, float(tails[best]))
        shares = np.linspace(shares[max(best - 1, 0)], shares[min(best + 1, len(shares) - 1)], 9)
    return min(1.0, largest + set_error + _TRIMMED)


def drop_bound(worse: int, better: int, rows: int, margin: float, *, alpha: float, set_error: float) -> float:
    """Upper bound on the drop at confidence ``1 - alpha``: the test of :func:`drop_exceeds_margin`, inverted.

    The bound is at most ``margin`` exactly when the p-value there is at most ``alpha``. The lower bound is the
    negative upper bound of the exchanged counts at ``-margin``.
    """

    @functools.cache
    def excess(drop: float) -> float:
        # On the normal scale a p-value is almost linear in the drop, so few steps are needed.
        p = drop_exceeds_margin(worse, better, rows, drop, set_error=set_error)
        return float(special.ndtri(min(p, 1.0 - 1e-12)) - special.ndtri(alpha))

    estimate = (worse - better) / rows
    end = 1.0 - 1e-9
    at_margin = excess(margin)
    inside = estimate if at_margin <= 0.0 else max(margin, estimate)
    outside = margin if at_margin <= 0.0 else end
    if inside >= outside:
        return margin if at_margin <= 0.0 else 1.0
    guess = _score_bound(worse, better, rows, alpha)
    inside, outside = _narrow(excess, inside, outside, guess, 0.1 * (guess - estimate))
    if excess(inside) <= 0.0 or excess(outside) > 0.0:
        return inside if excess(inside) <= 0.0 else 1.0
    tolerance = max(1e-9, 1e-3 * (outside - inside))
    root = float(optimize.brentq(excess, inside, outside, xtol=tolerance)) + tolerance
    return min(root, margin) if at_margin <= 0.0 else min(1.0, max(root, math.nextafter(margin, 1.0)))


def score(worse: Any, better: Any, rows: int, margin: float) -> FloatArray:
    """Tango's statistic: (observed drop - ``margin``) / its standard error if the true drop is ``margin``.

    Args:
        worse: counts, any shape.
        better: counts, same shape.
        rows: all rows.
        margin: the drop under test.
    """
    changed, difference = np.add(worse, better, dtype=np.float64), np.subtract(worse, better, dtype=np.float64)
    # Maximum likelihood of the changed share s at that drop d: rows s^2 - (m + D d) s + D d - (rows - m) d^2 = 0.
    linear = changed + difference * margin
    constant = difference * margin - (rows - changed) * margin**2
    share = (linear + np.sqrt(np.maximum(linear**2 - 4.0 * rows * constant, 0.0))) / (2.0 * rows)
    variance = rows * np.maximum(np.maximum(share, abs(margin)) - margin**2, 0.0)
    distance = difference - rows * margin
    # Without variance there are no changed rows and none are expected: no evidence.
    statistic = np.divide(distance, np.sqrt(variance), out=np.zeros_like(distance), where=variance > 0.0)
    return np.asarray(statistic, dtype=np.float64)


def set_error_for(confidence: float) -> float:
    """Error of the confidence set for the changed share: small enough to hardly affect the p-value of a verdict.

    It is small against ``1 - confidence`` divided by the number of gates that are corrected together.
    """
    return (1.0 - confidence) / 500.0


def changed_share_set(changed: int, rows: int, error: float) -> tuple[float, float]:
    """Clopper-Pearson interval of the changed share, with an error probability of at most ``error``."""
    low = float(special.betaincinv(changed, rows - changed + 1, error / 2)) if changed else 0.0
    high = float(special.betaincinv(changed + 1, rows - changed, 1 - error / 2)) if changed < rows else 1.0
    return low, high


def _grid(low: float, high: float, margin: float, rows: int) -> FloatArray:
    """Changed shares from low to high, denser near 0 and near ``abs(margin)``, where small changes matter."""

    def spaced(first: float, last: float, origin: float) -> FloatArray:
        # s = origin + (1 - origin) sin(t)^2: the standard error of t is about 1 / sqrt(rows) for any s.
        angles = np.arcsin(np.sqrt(np.clip((np.array([first, last]) - origin) / (1.0 - origin), 0.0, 1.0)))
        points = min(400, 3 + math.ceil(float(np.ptp(angles)) * math.sqrt(rows) / _GRID_STEP))
        return np.clip(origin + (1.0 - origin) * np.sin(np.linspace(angles[0], angles[1], points)) ** 2, first, last)

    least = abs(margin)
    # At a margin below 0, with fewer changed rows than the margin, the worst case is that all of them are better.
    below = spaced(low, min(least, high), 0.0) if low < least else np.empty(0)
    above = spaced(max(low, least), high, least) if high >= least else np.empty(0)
    return np.concatenate([below, above])


class _Region:
    """The outcomes with a statistic as low as the observed one, as the largest ``worse`` per number of changed rows."""

    def __init__(self, worse: int, better: int, rows: int, margin: float, low: float, high: float) -> None:
        self._rows, self._margin = rows, margin
        first = max(0, math.floor(rows * low - _deviation(rows, low)))
        last = min(rows, math.ceil(rows * high + _deviation(rows, high)))
        self._changed = np.arange(first, last + 1, dtype=np.float64)
        limit = float(score(worse, better, rows, margin)) + _TIE
        self._critical = self._largest_worse(limit)
        self._log_ways = (
            special.gammaln(rows + 1) - special.gammaln(self._changed + 1) - special.gammaln(rows - self._changed + 1)
        )

    def _largest_worse(self, limit: float) -> FloatArray:
        """-1 if no split of the changed rows is in the region. The statistic increases with ``worse``."""
        inside, outside = np.full_like(self._changed, -1.0), self._changed + 1.0
        while np.any(outside - inside > 1.0):
            middle = np.floor((inside + outside) / 2.0)
            # If both ends are already adjacent, the middle is ``inside`` and nothing changes.
            belongs = (middle < 0.0) | (score(middle, self._changed - middle, self._rows, self._margin) <= limit)
            inside, outside = np.where(belongs, middle, inside), np.where(belongs, outside, middle)
        return inside

    def probability(self, shares: FloatArray) -> FloatArray:
        """Probability of the region, for each changed share."""
        column = shares[:, None]
        log_mass = (
            self._log_ways + special.xlogy(self._changed, column) + special.xlog1py(self._rows - self._changed, -column)
        )
        mass = np.exp(log_mass)
        split = np.clip(0.5 + self._margin / (2.0 * np.maximum(column, 1e-300)), 0.0, 1.0)
        matters = (mass > 1e-12) & (self._critical >= 0.0)
        whole = matters & (self._critical >= self._changed)
        partly = matters & ~whole
        below = whole.astype(np.float64)
        changed, critical = (np.broadcast_to(row, mass.shape)[partly] for row in (self._changed, self._critical))
        below[partly] = special.betainc(
            changed - critical, critical + 1.0, 1.0 - np.broadcast_to(split, mass.shape)[partly]
        )
        return np.asarray((mass * below).sum(axis=1), dtype=np.float64)


def _deviation(rows: int, share: float) -> float:
    # Bernstein's inequality: a binomial count leaves mean +- this with probability _TRIMMED at most.
    log = math.log(2.0 / _TRIMMED)
    return log / 3.0 + math.sqrt(log**2 / 9.0 + 2.0 * log * rows * share * (1.0 - share))


def _score_bound(worse: int, better: int, rows: int, alpha: float) -> float:
    """Tango's asymptotic upper bound, the starting value."""
    estimate, end = (worse - better) / rows, 1.0 - 1e-9
    z = float(special.ndtri(alpha))

    def excess(drop: float) -> float:
        return float(score(worse, better, rows, drop)) - z

    if estimate >= end or excess(end) > 0.0:
        return end
    return float(optimize.brentq(excess, max(estimate, -end), end))


def _narrow(excess: Excess, inside: float, outside: float, guess: float, step: float) -> tuple[float, float]:
    """A narrower bracket near the guess; ``inside`` is a bound that is too small, ``outside`` a sufficient one."""
    left, right, step = guess - step, guess + step, max(step, 1e-7)
    while inside < left and excess(left) <= 0.0:
        right, left, step = left, left - 2.0 * step, 2.0 * step
    if left > inside:
        inside = left
    while right < outside and excess(right) > 0.0:
        inside, right, step = right, right + 2.0 * step, 2.0 * step
    return inside, min(right, outside)
