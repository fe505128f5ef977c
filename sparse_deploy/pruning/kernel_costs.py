# SPDX-License-Identifier: Apache-2.0
"""Predicted speed by zeros on this CPU, from the cost model of the compiled kernels."""

from functools import cache

import numpy as np

from sparse_deploy.sparsity.packing import encode
from sparse_deploy.sparsity.pattern import PatternKind, SparsityPattern


@cache
def kernel_cost(shape: tuple[int, int], pattern: SparsityPattern, share: float) -> float:
    """Predicted time of a product with a pruned matrix, relative to the dense INT8 kernel with full row groups.

    The positions of the zeros are drawn at random within the pattern. The dense kernel is used if it is faster, so the
    result is at most that of a dense matrix: 1, or more if the kernel's row groups are not full.

    Args:
        shape: ``(out, in)``.
        pattern: a pattern that divides the shape.
        share: share of zeros.

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
