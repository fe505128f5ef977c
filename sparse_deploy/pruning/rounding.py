# SPDX-License-Identifier: Apache-2.0
"""Rounds a matrix to an integer grid so that its output on a text changes least (GPTQ, arXiv 2210.17323)."""

import torch

from sparse_deploy.pruning.hessian import factorize
from sparse_deploy.sparsity.weight_grid import LARGEST_NEIGHBOUR_SUM, WeightGrid

_BLOCK_COLUMNS = 64


@torch.no_grad()
def round_compensated(
    weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, grid: WeightGrid, name: str
) -> torch.Tensor:
    """Round weights to the grid; each column's rounding error is distributed over the columns that are rounded later.

    Columns with the largest inputs are rounded first. Zeros stay zeros; their share of an error is distributed over the
    later columns.

    Args:
        weight: float32 ``[out, in]``.
        hessian: Hessian of the inputs, ``[in, in]``.
        scale: scale of each row, float32 ``[out]``; the zero point is 0.
        grid: the allowed integers, and the limit of neighbours for products in 16 bits.
        name: name of the weight, for errors.

    Returns:
        float32 ``[out, in]``, every value an integer of the grid times its row's scale.

    Raises:
        DataError: all inputs of the layer are zero.
    """
    order = hessian.diagonal().argsort(descending=True)
    factor = factorize(hessian[order][:, order], name).factor
    remaining, zeros = weight[:, order].clone(), weight[:, order] == 0
    integers = torch.zeros_like(weight)
    columns = weight.shape[1]
    for first in range(0, columns, _BLOCK_COLUMNS):
        last = min(first + _BLOCK_COLUMNS, columns)
        block, corner = remaining[:, first:last], factor[first:last, first:last]
        errors = torch.zeros_like(block)
        for column in range(last - first):
            values, place = block[:, column], int(order[first + column])
            nearest = _clamped((values / scale).round(), integers, place, grid)
            nearest[zeros[:, first + column]] = 0.0
            integers[:, place] = nearest
            nearest = nearest * scale
            errors[:, column] = (values - nearest) / corner[column, column]
            block[:, column:].addr_(errors[:, column], corner[column, column:], alpha=-1.0)
        remaining[:, last:].addmm_(errors, factor[first:last, last:], alpha=-1.0)
    return integers * scale[:, None]


def _clamped(values: torch.Tensor, integers: torch.Tensor, place: int, grid: WeightGrid) -> torch.Tensor:
    """Integers of one column within the grid; its neighbour may be rounded already (0 is no limit)."""
    neighbour = place ^ 1
    if not grid.neighbours or neighbour >= integers.shape[1]:
        return values.clamp(grid.low, grid.high)
    taken = integers[:, neighbour]
    high = (LARGEST_NEIGHBOUR_SUM - taken.clamp(min=0)).clamp(max=grid.high)
    low = (-LARGEST_NEIGHBOUR_SUM - taken.clamp(max=0)).clamp(min=grid.low)
    return torch.minimum(torch.maximum(values, low), high)
