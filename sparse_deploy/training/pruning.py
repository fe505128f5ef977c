# SPDX-License-Identifier: Apache-2.0
"""Make zeros by magnitude: one-shot or gradually, to unstructured, N:M and block patterns."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparse_deploy.config.schema import SparsitySection
from sparse_deploy.errors import ConfigError
from sparse_deploy.sparsity.pattern import BoolArray, PatternKind, SparsityPattern
from sparse_deploy.training.mask_lock import MaskLock


def cubic_sparsity(progress: float, *, begin: float, end: float, target: float) -> float:
    """Sparsity at a point of the training, by the cubic schedule of Zhu and Gupta 2017 (arXiv 1710.01878, eq. 1).

    Args:
        progress: share of the training that is done, 0 to 1.
        begin: where pruning starts.
        end: where the target is reached.
        target: final zero share.
    """
    if progress >= end:
        return target
    if progress <= begin:
        return 0.0
    return target * (1.0 - (1.0 - (progress - begin) / (end - begin)) ** 3)


@torch.no_grad()
def magnitude_masks(
    weights: Mapping[str, torch.Tensor],
    pattern: SparsityPattern,
    sparsity: float,
    scope: Literal["global", "layer"],
) -> dict[str, BoolArray]:
    """Choose the weights of least magnitude, in units of the pattern.

    A unit is one weight, one block, or for N:M the M-N smallest weights of a group (a group is pruned as a whole, so
    that a half-done schedule has whole groups only). Block units compare by their mean, so tensors stay comparable.

    Args:
        weights: ``[out, in]`` weights by name.
        pattern: what the zeros must look like.
        sparsity: zero share wanted over all weights (``global``) or of each tensor (``layer``).
        scope: where units compete.

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


class GradualPruningCallback(TrainerCallback):  # type: ignore[misc]
    """Raises the sparsity of a :class:`MaskLock` along the cubic schedule, then leaves it locked."""

    def __init__(self, lock: MaskLock, parameters: Mapping[str, nn.Parameter], settings: SparsitySection) -> None:
        self._lock = lock
        self._parameters = dict(parameters)
        self._settings = settings
        self._reached = False

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose new masks every ``frequency`` steps until the target is reached."""
        step = state.global_step + 1  # the Trainer counts the step after this event
        progress = step / state.max_steps
        due = step % self._settings.frequency == 0 or progress >= self._settings.end
        if self._reached or not due or progress < self._settings.begin:
            return
        settings = self._settings
        sparsity = cubic_sparsity(progress, begin=settings.begin, end=settings.end, target=settings.target)
        self._lock.replace(magnitude_masks(self._parameters, settings.pattern, sparsity, settings.scope))
        self._reached = progress >= settings.end

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A run resumed after the schedule's end keeps the masks that its checkpoint recorded."""
        self._reached = state.max_steps > 0 and state.global_step / state.max_steps >= self._settings.end


def _zeros_per_unit(pattern: SparsityPattern) -> float:
    return (pattern.m - pattern.n) / pattern.m if pattern.kind is PatternKind.N_M else 1.0


def _unit_scores(name: str, weight: torch.Tensor, pattern: SparsityPattern) -> torch.Tensor:
    rows, columns = weight.shape
    magnitude = weight.abs()
    if pattern.kind is PatternKind.N_M:
        _require_tiles(name, weight, pattern, 1, pattern.m)
        groups = magnitude.reshape(rows, columns // pattern.m, pattern.m)
        return groups.sort(dim=2).values[..., : pattern.m - pattern.n].sum(dim=2)
    if pattern.kind is PatternKind.BLOCK:
        height, width = pattern.block
        _require_tiles(name, weight, pattern, height, width)
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
    """The largest score that is still pruned; below all scores when nothing is."""
    count = min(round(share * scores.numel()), scores.numel())
    return float(scores.kthvalue(count).values) if count else -1.0


def _require_tiles(name: str, weight: torch.Tensor, pattern: SparsityPattern, height: int, width: int) -> None:
    rows, columns = weight.shape
    if rows % height or columns % width:
        raise ConfigError(
            f"{name}: shape {rows}x{columns} can't be tiled with {pattern}; choose another pattern or add the name to "
            f"sparsity.exclude"
        )
