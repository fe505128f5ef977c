# SPDX-License-Identifier: Apache-2.0
"""Round a matrix to an integer grid so that its output on a text stays what it was (GPTQ, arXiv 2210.17323)."""

import torch

from sparse_deploy.pruning.hessian import factorize

_BLOCK_COLUMNS = 64


@torch.no_grad()
def round_compensated(
    weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, limits: tuple[int, int], name: str
) -> torch.Tensor:
    """Weights on the grid; each column's rounding error is spread over the columns that are still to be rounded.

    Columns with the strongest inputs are rounded first. Zeros stay zeros, and their share of an error goes to the
    columns behind them.

    Args:
        weight: float32 ``[out, in]``.
        hessian: of its inputs, ``[in, in]``.
        scale: of each row, float32 ``[out]``; the zero point is 0.
        limits: smallest and largest integer.
        name: of the weight, for errors.

    Returns:
        float32 ``[out, in]``, every value an integer of the limits times its row's scale.

    Raises:
        DataError: the layer saw nothing but zeros.
    """
    order = hessian.diagonal().argsort(descending=True)
    factor = factorize(hessian[order][:, order], name).factor
    remaining, zeros = weight[:, order].clone(), weight[:, order] == 0
    rounded = torch.empty_like(remaining)
    columns = weight.shape[1]
    for first in range(0, columns, _BLOCK_COLUMNS):
        last = min(first + _BLOCK_COLUMNS, columns)
        block, corner = remaining[:, first:last], factor[first:last, first:last]
        errors = torch.zeros_like(block)
        for column in range(last - first):
            values = block[:, column]
            nearest = (values / scale).round().clamp(*limits) * scale
            nearest[zeros[:, first + column]] = 0.0
            rounded[:, first + column] = nearest
            errors[:, column] = (values - nearest) / corner[column, column]
            block[:, column:].addr_(errors[:, column], corner[column, column:], alpha=-1.0)
        remaining[:, last:].addmm_(errors, factor[first:last, last:], alpha=-1.0)
    result = torch.empty_like(rounded)
    result[:, order] = rounded
    return result
