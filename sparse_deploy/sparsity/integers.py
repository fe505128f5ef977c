# SPDX-License-Identifier: Apache-2.0
"""How many bits stored integer weights really take."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Integers no further than this from their zero point take 7 bits, which is what CPUs without VNNI need (docs/int8.md):
# vpmaddubsw adds two products of u8 and s8 in 16 bits, and 2 * 255 * 64 = 32640 still fits.
LARGEST_IN_7_BITS = 64


def largest_integer(values: NDArray[Any], zero_point: NDArray[Any] | None = None) -> int:
    """How far stored integers lie from their zero point at most; 0 for floating point.

    Args:
        values: as stored.
        zero_point: broadcastable to ``values``; 0 when omitted.
    """
    if values.dtype.kind not in "iu":
        return 0
    distances = values.astype(np.int32) - (0 if zero_point is None else zero_point)
    return int(np.abs(distances).max(initial=0))
