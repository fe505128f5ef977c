# SPDX-License-Identifier: Apache-2.0
"""Pruning by magnitude, to unstructured, N:M and block patterns. Needs no text and changes no other weight."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from sparse_deploy.pruning.method import Progress, Pruned, PruningPlan, TokenBatch, require_tiles, zero_masks_of
from sparse_deploy.sparsity.pattern import BoolArray, PatternKind, SparsityPattern


class MagnitudePruning:
    """Zeros the units with the smallest magnitude; see :class:`sparse_deploy.pruning.method.PruningMethod`."""

    name = "magnitude"
    needs_text = False

    @torch.no_grad()
    def prune(
        self,
        model: nn.Module,
        plan: PruningPlan,
        batches: Sequence[TokenBatch] = (),
        progress: Progress = lambda message, share: None,
    ) -> Pruned:
        """See :meth:`sparse_deploy.pruning.method.PruningMethod.prune`."""
        parameters = dict(model.named_parameters())
        masks = {}
        for done, (name, share) in enumerate(plan.shares.items()):
            progress(name, done / len(plan.shares))
            weight = parameters[name]
            mask = magnitude_masks({name: weight}, plan.pattern, share, "layer")[name] | zero_masks_of({"": weight})[""]
            weight.mul_(torch.from_numpy(~mask).to(weight))
            masks[name] = mask
        return Pruned(masks)


@torch.no_grad()
def magnitude_masks(
    weights: Mapping[str, torch.Tensor],
    pattern: SparsityPattern,
    sparsity: float,
    scope: Literal["global", "layer"],
) -> dict[str, BoolArray]:
    """Choose the weights with the smallest magnitude, in units of the pattern.

    A unit is one weight, one block, or for N:M the M-N smallest weights of a group (a group is pruned completely, so
    that an intermediate state of a schedule has complete groups only). Blocks are compared by their mean.

    Args:
        weights: ``[out, in]`` weights by name.
        pattern: pattern of the zeros.
        sparsity: share of zeros over all weights (``global``) or in each tensor (``layer``).
        scope: scope of the ranking.

    Returns:
        Zero masks by name.

    Raises:
        ConfigError: a shape can't be tiled with the pattern.
    """
    scores = {name: _unit_scores(name, weight.detach().float(), pattern) for name, weight in weights.items()}
    share = sparsity / _zeros_per_unit(pattern)
    if scope == "global":
        threshold = _threshold(torch.cat([s.flatten() for s in scores.values()]), share)
        chosen = {name: s <= threshold for name, s in scores.items()}
    else:
        chosen = {name: s <= _threshold(s.flatten(), share) for name, s in scores.items()}
    return {name: _expand(weights[name], units, pattern) for name, units in chosen.items()}


def _zeros_per_unit(pattern: SparsityPattern) -> float:
    return (pattern.m - pattern.n) / pattern.m if pattern.kind is PatternKind.N_M else 1.0


def _unit_scores(name: str, weight: torch.Tensor, pattern: SparsityPattern) -> torch.Tensor:
    rows, columns = weight.shape
    require_tiles(name, (rows, columns), pattern)
    magnitude = weight.abs()
    if pattern.kind is PatternKind.N_M:
        groups = magnitude.reshape(rows, columns // pattern.m, pattern.m)
        return groups.sort(dim=2).values[..., : pattern.m - pattern.n].sum(dim=2)
    if pattern.kind is PatternKind.BLOCK:
        height, width = pattern.block
        return magnitude.reshape(rows // height, height, columns // width, width).mean(dim=(1, 3))
    return magnitude


def _expand(weight: torch.Tensor, units: torch.Tensor, pattern: SparsityPattern) -> BoolArray:
    if pattern.kind is PatternKind.N_M:
        rows, columns = weight.shape
        groups = weight.detach().abs().reshape(rows, columns // pattern.m, pattern.m)
        smallest = groups.argsort(dim=2)[..., : pattern.m - pattern.n]
        zeros = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, smallest, True) & units.unsqueeze(2)
        return np.ascontiguousarray(zeros.reshape(rows, columns).cpu().numpy())
    height, width = pattern.block
    return np.ascontiguousarray(units.repeat_interleave(height, 0).repeat_interleave(width, 1).cpu().numpy())


def _threshold(scores: torch.Tensor, share: float) -> float:
    """The largest pruned score; below all scores if nothing is pruned."""
    count = min(round(share * scores.numel()), scores.numel())
    return float(scores.kthvalue(count).values) if count else -1.0
