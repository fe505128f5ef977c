# SPDX-License-Identifier: Apache-2.0
"""Stored integer weights: how many bits they really take, and the scale that they were made with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Integers no further than this from their zero point take 7 bits (docs/int8.md).
LARGEST_IN_7_BITS = 64


def as_distances(values: NDArray[Any], zero_point: NDArray[Any] | None = None) -> NDArray[np.int32]:
    """Stored integers with their zero point (broadcastable; 0 when omitted) taken off."""
    distances: NDArray[np.int32] = values.astype(np.int32) - (0 if zero_point is None else zero_point.astype(np.int32))
    return distances


def largest_integer(values: NDArray[Any], zero_point: NDArray[Any] | None = None) -> int:
    """How far stored integers lie from their zero point at most; 0 for floating point.

    Args:
        values: as stored.
        zero_point: broadcastable to ``values``; 0 when omitted.
    """
    if values.dtype.kind not in "iu":
        return 0
    return int(np.abs(as_distances(values, zero_point)).max(initial=0))


def scale_between(integers: NDArray[Any], weight: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """The scale that turns integers into the weight that they were rounded from, by least squares.

    Args:
        integers: ``round(weight / scale)``.
        weight: of the same shape.
        axis: the one that is summed over.

    Returns:
        Without that axis; 1 where all integers are 0.
    """
    steps = integers.astype(np.float64)
    squares = np.square(steps).sum(axis=axis)
    scale: NDArray[np.float32] = np.where(
        squares, (steps * weight).sum(axis=axis) / np.maximum(squares, 1), 1.0
    ).astype(np.float32)
    return scale
