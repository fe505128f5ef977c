# SPDX-License-Identifier: Apache-2.0
"""Predicted speed by zeros on this CPU, from the cost model of the compiled kernels."""

from functools import cache

import numpy as np

from sparse_deploy.sparsity.packing import encode
from sparse_deploy.sparsity.pattern import PatternKind, SparsityPattern


@cache
def kernel_cost(shape: tuple[int, int], pattern: SparsityPattern, share: float) -> float:
    """Predicted time of a product with such a matrix, by that of the dense INT8 kernel on a matrix that fills it.

    The places of the zeros are drawn at random within the pattern. The kernels choose the dense one where it is the
    faster, so the result is at most that of no zeros: 1, and more where the kernel's rows are not filled.

    Args:
        shape: ``(out, in)``.
        pattern: which the shape tiles.
        share: of zeros.

    Raises:
        RuntimeUnavailableError: the kernels were not compiled.
    """
    from sparse_deploy.kernels.native import Weight

    rng = np.random.default_rng(0)
    rows, columns = shape
    if share == 0.0:
        keep = np.ones(shape, dtype=bool)
    elif pattern.kind is PatternKind.N_M:
        order = rng.random((rows, columns // pattern.m, pattern.m)).argsort(axis=2)
        keep = (order < pattern.n).reshape(rows, columns)
    else:
        height, width = pattern.block
        units = rng.random((rows // height, columns // width)) >= share
        keep = units.repeat(height, axis=0).repeat(width, axis=1)
    return float(Weight(encode(keep.astype(np.int8))).describe().cost)
