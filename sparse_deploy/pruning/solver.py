# SPDX-License-Identifier: Apache-2.0
"""Prunes one matrix by second-order information: selects zeros column by column, adjusts the kept weights.

The sweep is SparseGPT's (arXiv 2301.00774, algorithm 1): a pruned weight's error is spread over the columns to its
right, so that the layer's output changes least. Scores of blocks and of N:M groups follow oBERT (arXiv 2203.07259,
eq. 5). After the sweep, a least-squares refit with the mask fixed also uses the columns to the left.
"""

from dataclasses import dataclass

import torch

from sparse_deploy.pruning.hessian import Curvature
from sparse_deploy.sparsity.pattern import PatternKind, SparsityPattern

# Columns per block; the update of the columns after a block is one matrix product.
_BLOCK_COLUMNS = 64
_REFIT_STEPS = 20


@dataclass(frozen=True)
class Solution:
    """A pruned matrix.

    Attributes:
        weight: ``[out, in]``, exact zeros where pruned.
        zeros: ``[out, in]``, true where pruned.
        error: squared error of the layer's output divided by the error without any weight.
    """

    weight: torch.Tensor
    zeros: torch.Tensor
    error: float


@torch.no_grad()
def prune_matrix(weight: torch.Tensor, curvature: Curvature, pattern: SparsityPattern, share: float) -> Solution:
    """Prune a matrix to a pattern with the least change of ``weight @ x`` over the text.

    Args:
        weight: float32 ``[out, in]``; zeros stay zero. The pattern must divide it.
        curvature: curvature of the inputs.
        pattern: pattern of the zeros.
        share: share of zeros, including existing ones; for N:M it follows from the pattern.
    """
    forced = weight == 0
    swept, zeros = _sweep(weight.clone(), forced, curvature.factor, pattern, share)
    refitted = refit(weight, swept, zeros, curvature.hessian)
    return Solution(refitted, zeros, output_error(weight, refitted, curvature.hessian))


def output_error(before: torch.Tensor, after: torch.Tensor, hessian: torch.Tensor) -> float:
    """Squared error of the output, divided by the squared output of ``before``; 0 if that is zero."""
    scale = float(((before @ hessian) * before).sum())
    change = after - before
    return float(((change @ hessian) * change).sum()) / scale if scale else 0.0


def refit(
    target: torch.Tensor, start: torch.Tensor, zeros: torch.Tensor, hessian: torch.Tensor, steps: int = _REFIT_STEPS
) -> torch.Tensor:
    """The weights with these zeros whose output is nearest to that of ``target``, by conjugate gradients on all rows.

    Each row is a separate least-squares problem with the same Hessian, so one matrix product computes a step of all
    rows (as in ALPS, arXiv 2406.07831, section 3.3). Preconditioned by the diagonal.

    Args:
        target: ``[out, in]``, the weights before pruning.
        start: ``[out, in]``, zero where ``zeros`` is true.
        zeros: ``[out, in]``.
        hessian: ``[in, in]``.
        steps: number of steps of conjugate gradients.
    """
    keep = (~zeros).to(target.dtype)
    inverse_diagonal = 1.0 / hessian.diagonal()
    solution = start * keep
    residual = ((target - solution) @ hessian) * keep
    scaled = residual * inverse_diagonal
    direction = scaled.clone()
    product = (residual * scaled).sum(1, keepdim=True)
    for _ in range(steps):
        curved = (direction @ hessian) * keep
        step = product / (direction * curved).sum(1, keepdim=True).clamp_min(1e-30)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, curved, value=-1.0)
        scaled = residual * inverse_diagonal
        following = (residual * scaled).sum(1, keepdim=True)
        direction = scaled.addcmul_(following / product.clamp_min(1e-30), direction)
        product = following
    return solution * keep


def _sweep(
    weight: torch.Tensor, forced: torch.Tensor, factor: torch.Tensor, pattern: SparsityPattern, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose zeros from left to right; ``weight`` is changed in place and returned with them."""
    columns = weight.shape[1]
    zeros = forced.clone()
    grouped = pattern.kind is PatternKind.N_M
    unit = pattern.m if grouped else pattern.block[1]
    width = max(_BLOCK_COLUMNS // unit, 1) * unit
    for first in range(0, columns, width):
        last = min(first + width, columns)
        if not grouped:
            zeros[:, first:last] |= _choose_units(weight, zeros, factor, first, last, pattern.block, share)
        block, corner = weight[:, first:last], factor[first:last, first:last]
        mask = zeros[:, first:last]
        errors = torch.zeros_like(block)
        for column in range(last - first):
            if grouped and column % unit == 0:
                group = slice(column, column + unit)
                mask[:, group] |= _choose_of_group(block[:, group], mask[:, group], corner[group, group], pattern)
            error = block[:, column] * mask[:, column] / corner[column, column]
            errors[:, column] = error
            block[:, column:].addr_(error, corner[column, column:], alpha=-1.0)
        weight[:, last:].addmm_(errors, factor[first:last, last:], alpha=-1.0)
    return weight.masked_fill_(zeros, 0.0), zeros


def _choose_units(
    weight: torch.Tensor,
    zeros: torch.Tensor,
    factor: torch.Tensor,
    first: int,
    last: int,
    block: tuple[int, int],
    share: float,
) -> torch.Tensor:
    """Zeros of the columns ``first`` to ``last``: units that are among the cheapest in all columns from ``first`` on.

    The remaining share of the tensor is distributed over all remaining columns by cost, so columns with less effect get
    more zeros. A unit is a block, or one weight.
    """
    height, width = block
    rows, columns = weight.shape
    scores = _unit_scores(weight[:, first:], factor[first:, first:], block)
    whole = zeros.reshape(rows // height, height, columns // width, width).all(dim=3).all(dim=1)
    scores[whole[:, first // width :]] = -1.0
    budget = round(share * whole.numel()) - int(whole[:, : first // width].sum())
    if budget <= 0:
        return torch.zeros_like(zeros[:, first:last])
    threshold = scores.flatten().kthvalue(min(budget, scores.numel())).values
    chosen = scores[:, : (last - first) // width] <= threshold
    return chosen.repeat_interleave(height, 0).repeat_interleave(width, 1)


def _unit_scores(weight: torch.Tensor, factor: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """The cost of removing each unit: ``w (H^-1 of the unit)^-1 w^T``, summed over the rows of the unit."""
    height, width = block
    rows, columns = weight.shape
    if width == 1:
        costs = (weight / factor.diagonal()).square()
    else:
        corners = torch.stack([factor[i : i + width, i : i + width] for i in range(0, columns, width)])
        groups = weight.reshape(rows, columns // width, width).transpose(0, 1)
        solved = torch.linalg.solve_triangular(corners, groups, upper=True, left=False)
        costs = solved.square().sum(dim=2).T
    return costs.reshape(rows // height, height, -1).sum(dim=1)


def _choose_of_group(
    weight: torch.Tensor, zeros: torch.Tensor, corner: torch.Tensor, pattern: SparsityPattern
) -> torch.Tensor:
    """The M-N zeros of a group of M columns with the least cost, existing zeros first."""
    variances = corner.square().sum(dim=0)  # the diagonal of the inverse Hessian, columns before the group fixed
    scores = torch.where(zeros, -1.0, weight.square() / variances)
    cheapest = scores.topk(pattern.m - pattern.n, dim=1, largest=False).indices
    return torch.zeros_like(zeros).scatter_(1, cheapest, True)
