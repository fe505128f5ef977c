# SPDX-License-Identifier: Apache-2.0
"""Bounds and p-values from bootstrap draws: bias-corrected and accelerated (Efron 1987, JASA 82, 171-185).

The bound at level 1 - alpha is the quantile of the draws at Phi(z0 + y / (1 - a y)) with y = z0 + Phi^-1(1 - alpha).
Solving it for alpha gives a p-value in closed form, so bound and p-value always agree.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]

# A p-value that equals alpha up to rounding is not above it.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Distribution:
    """Bootstrap draws of a drop, sorted.

    Attributes:
        draws: at least one, ascending.
        bias: z0; if ``acceleration`` is also 0, the result is that of the percentile bootstrap.
        acceleration: a.
        limit: the largest possible absolute drop.
        tie: draws within this distance of a margin count as equal to it.
    """

    draws: FloatArray
    bias: float
    acceleration: float
    limit: float
    tie: float = 1e-9

    def p_exceeds(self, margin: float) -> float:
        """P-value of "the drop is larger than ``margin``"."""
        return self._p_value(self._within(margin), self.bias, self.acceleration)

    def p_within(self, margin: float) -> float:
        """P-value of "the drop is at most ``margin``"."""
        return self._p_value(len(self.draws) - self._within(margin), -self.bias, -self.acceleration)

    def high(self, alpha: float) -> float:
        """Upper bound: the smallest draw at which :meth:`p_exceeds` is at most ``alpha``, else ``limit``."""
        rank = self._rank(alpha, self.bias, self.acceleration)
        return float(self.draws[rank - 1]) if rank <= len(self.draws) else self.limit

    def low(self, alpha: float) -> float:
        """Lower bound, by the same rule as :meth:`high`."""
        rank = self._rank(alpha, -self.bias, -self.acceleration)
        return float(self.draws[-rank]) if rank <= len(self.draws) else -self.limit

    def _within(self, margin: float) -> int:
        return int(np.searchsorted(self.draws, margin + self.tie, side="right"))

    def _p_value(self, inside: int, bias: float, acceleration: float) -> float:
        if inside == 0:
            return 1.0
        # n + 1, as in a permutation test: an outcome that was not drawn must not get probability 0.
        shifted = float(special.ndtri(inside / (len(self.draws) + 1))) - bias
        stretch = 1.0 + acceleration * shifted
        if stretch <= 0.0:
            return 1.0 if shifted < 0.0 else 1.0 / (len(self.draws) + 1)
        return float(special.ndtr(bias - shifted / stretch)) * (1.0 - _ROUNDING)

    def _rank(self, alpha: float, bias: float, acceleration: float) -> int:
        shifted = bias - float(special.ndtri(alpha))
        stretch = 1.0 - acceleration * shifted
        if stretch <= 0.0:
            return len(self.draws) + 1
        level = float(special.ndtr(bias + shifted / stretch))
        rank = max(1, math.ceil(level * (len(self.draws) + 1)) - 1)
        while rank <= len(self.draws) and self._p_value(rank, bias, acceleration) > alpha:
            rank += 1  # the rounding errors of the formula and its inverse differ
        return rank


def bias_of(draws: FloatArray, observed: float) -> float:
    """z0: from the share of draws below the observed value; ties count half."""
    below = (np.count_nonzero(draws < observed) + np.count_nonzero(draws <= observed)) / (2 * len(draws))
    least = 0.5 / len(draws)
    return float(special.ndtri(min(max(below, least), 1.0 - least)))


def acceleration_of(left_out: FloatArray, times: FloatArray) -> float:
    """The acceleration a: a sixth of the skewness of the jackknife.

    Args:
        left_out: the drop without one unit, per kind of unit [kinds].
        times: number of units of each kind [kinds].
    """
    distance = np.average(left_out, weights=times) - left_out
    spread = float(np.sum(times * distance**2))
    return float(np.sum(times * distance**3)) / (6.0 * spread**1.5) if spread > 1e-24 else 0.0
