# SPDX-License-Identifier: Apache-2.0
"""The interface of a pruning method: it selects zeros from a model and text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from sparse_deploy.errors import ConfigError
from sparse_deploy.sparsity.pattern import BoolArray, PatternKind, SparsityPattern
from sparse_deploy.sparsity.statistics import prunable_names

Progress = Callable[[str, float], None]
# One padded batch: the model's inputs by name, int64 [batch, tokens]; ``attention_mask`` is 0 at padding.
TokenBatch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class PruningPlan:
    """The tensors to prune, with pattern and shares.

    Attributes:
        pattern: pattern of the zeros of each tensor.
        shares: share of zeros of each tensor, by parameter name. Other tensors are not pruned.
    """

    pattern: SparsityPattern
    shares: Mapping[str, float]

    @classmethod
    def uniform(cls, names: Sequence[str], pattern: SparsityPattern, share: float) -> "PruningPlan":
        """One share for all tensors."""
        return cls(pattern, dict.fromkeys(names, share))


@dataclass(frozen=True)
class Pruned:
    """Result of a method; the kept weights are in the model.

    Attributes:
        masks: zero masks ``[out, in]`` by parameter name.
        details: figures of the method, for the manifest.
    """

    masks: dict[str, BoolArray]
    details: dict[str, Any] = field(default_factory=dict)


class PruningMethod(Protocol):
    """Selects zeros, and may adjust the remaining weights.

    Weights that are zero before pruning stay zero with every method.
    """

    name: str
    needs_text: bool

    def prune(
        self,
        model: nn.Module,
        plan: PruningPlan,
        batches: Sequence[TokenBatch],
        progress: Progress = lambda message, share: None,
    ) -> Pruned:
        """Prune ``model`` in place.

        Args:
            model: the model, in eval mode.
            plan: tensors, pattern and shares.
            batches: unlabelled text; may be empty for a method that needs no text.
            progress: called with a message and the completed share.

        Raises:
            ConfigError: a shape can't be tiled with the pattern.
            DataError: the text is insufficient.
        """
        ...


def prunable_parameters(model: nn.Module, exclude: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """The prunable two-dimensional encoder weights, by parameter name."""
    matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    return {name: matrices[name] for name in prunable_names(matrices, exclude)}


def zero_masks_of(parameters: Mapping[str, torch.Tensor]) -> dict[str, BoolArray]:
    """Zero masks (``[out, in]``, true where zero) of the given weights."""
    return {name: (p.detach() == 0).cpu().numpy() for name, p in parameters.items()}


def share_of(pattern: SparsityPattern, share: float | None) -> float:
    """The share of zeros of a pattern and an optional target.

    Raises:
        ConfigError: a pattern other than N:M without a target.
    """
    if pattern.kind is PatternKind.N_M:
        return 1 - pattern.n / pattern.m
    if share is None:
        raise ConfigError(f"pattern {pattern} needs a target, the share of zeros, such as 0.7")
    return share


def require_tiles(name: str, shape: tuple[int, int], pattern: SparsityPattern) -> None:
    """Check that a pattern divides a matrix.

    Raises:
        ConfigError: the rows or columns are not a multiple of the pattern's.
    """
    height, width = (1, pattern.m) if pattern.kind is PatternKind.N_M else pattern.block
    rows, columns = shape
    if rows % height or columns % width:
        raise ConfigError(
            f"{name}: shape {rows}x{columns} can't be tiled with {pattern}; choose another pattern or add the name to "
            f"sparsity.exclude (--exclude)"
        )
