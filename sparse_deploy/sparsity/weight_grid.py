# SPDX-License-Identifier: Apache-2.0
"""The allowed integers of INT8 weights, so that products with u8 activations do not saturate (``docs/int8.md``).

AVX2 multiplies u8 by s8 with ``vpmaddubsw``: it adds the products of two neighbouring inputs in 16 bits and saturates.
Neighbours are the inputs 0 and 1, 2 and 3, and so on: ONNX Runtime (1.31) and OpenVINO (2026.4) pack a row in groups
of four inputs, in order (``tests/unit/quantization/test_saturation.py``). Weights of different signs can't saturate,
because u8 activations have no sign.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Two neighbours of equal sign may sum to 128: 255 * 128 = 32640, and the 16-bit maximum is 32767.
LARGEST_NEIGHBOUR_SUM = 128
# Key of largest_neighbour_sum in the metadata of an exported ONNX file.
NEIGHBOUR_SUM_KEY = "sparse_deploy.largest_neighbour_sum"


def neighbour_sums(weight: Any, xp: Any = np) -> Any:
    """The largest sum of the magnitudes of two neighbours of equal sign, by row.

    Args:
        weight: ``[out, in]``, an array or a tensor.
        xp: module of the weight, numpy or torch.

    Returns:
        ``[out]``; at least the row's largest magnitude.
    """
    found = None
    for signed in (weight, -weight):
        part = signed * (signed > 0)
        even, odd = part[:, 0::2], part[:, 1::2]
        largest = xp.amax(even, 1)  # with an odd number of inputs, the last input has no neighbour
        if odd.shape[1]:
            largest = xp.maximum(largest, xp.amax(even[:, : odd.shape[1]] + odd, 1))
        found = largest if found is None else xp.maximum(found, largest)
    return found


def saturates(neighbour_sum: int) -> bool:
    """Whether weights with this :func:`largest_neighbour_sum` can saturate on a CPU without VNNI."""
    return neighbour_sum > LARGEST_NEIGHBOUR_SUM


def largest_neighbour_sum(integers: NDArray[Any]) -> int:
    """:func:`neighbour_sums` of stored ``[out, in]`` integers, without their zero point, over all rows.

    0 for floating point.
    """
    if integers.dtype.kind not in "iu" or not integers.size:
        return 0
    return int(neighbour_sums(integers.astype(np.int32)).max())


@dataclass(frozen=True)
class WeightGrid:
    """The integers of an INT8 weight, and the rule for its scale; zero point 0.

    Attributes:
        low, high: smallest and largest integer.
        neighbours: scale each row so that two neighbours can't saturate, instead of by its largest weight.
    """

    low: int
    high: int
    neighbours: bool = False

    def scale(self, weight: Any, xp: Any = np) -> Any:
        """Real value per step, ``[out]``, of an ``[out, in]`` weight; 0 for a row of zeros.

        Without ``neighbours`` it equals torchao's PerChannelMinMaxObserver (symmetric).
        """
        if self.neighbours:
            # Both neighbours may be rounded up by half a step, so the sum may increase by one.
            return neighbour_sums(weight, xp) / (LARGEST_NEIGHBOUR_SUM - 1)
        return xp.amax(xp.abs(weight), 1) / (float(self.high - self.low) / 2)

    def __str__(self) -> str:
        sums = f", sums of neighbours up to {LARGEST_NEIGHBOUR_SUM}" if self.neighbours else ""
        return f"{self.low} to {self.high}{sums}"


# By quantization.target_cpu. "vnni" is torchao's range under Neural Compressor's x86 recipe.
GRIDS = {
    "any": WeightGrid(-127, 127, neighbours=True),
    "vnni": WeightGrid(-128, 127),
    "avx2": WeightGrid(-64, 63),
}
