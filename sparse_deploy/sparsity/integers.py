# SPDX-License-Identifier: Apache-2.0
"""Stored integer weights: the number of bits in use, and their scale."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Integers at most this far from their zero point use 7 bits (docs/int8.md).
LARGEST_IN_7_BITS = 64


def as_distances(values: NDArray[Any], zero_point: NDArray[Any] | None = None) -> NDArray[np.int32]:
    """Stored integers minus their zero point (broadcastable; default 0)."""
    distances: NDArray[np.int32] = values.astype(np.int32) - (0 if zero_point is None else zero_point.astype(np.int32))
    return distances


def largest_integer(values: NDArray[Any], zero_point: NDArray[Any] | None = None) -> int:
    """Largest distance of stored integers from their zero point; 0 for floating point.

    Args:
        values: stored values.
        zero_point: broadcastable to ``values``; default 0.
    """
    if values.dtype.kind not in "iu":
        return 0
    return int(np.abs(as_distances(values, zero_point)).max(initial=0))


def scale_between(integers: NDArray[Any], weight: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """The scale of integers that were rounded from a weight, by least squares.

    Args:
        integers: ``round(weight / scale)``.
        weight: the weight, of the same shape.
        axis: summed axis.

    Returns:
        The scale, without this axis; 1 where all integers are 0.
    """
    steps = integers.astype(np.float64)
    squares = np.square(steps).sum(axis=axis)
    scale: NDArray[np.float32] = np.where(
        squares, (steps * weight).sum(axis=axis) / np.maximum(squares, 1), 1.0
    ).astype(np.float32)
    return scale
