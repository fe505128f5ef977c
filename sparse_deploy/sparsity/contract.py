# SPDX-License-Identifier: Apache-2.0
"""Comparison of the zeros that a recipe requires (pattern and share) with the zeros of a model."""

from collections.abc import Mapping
from typing import Protocol

from sparse_deploy.errors import PatternMismatchError, SparsityError
from sparse_deploy.sparsity.pattern import BoolArray, PatternKind, SparsityPattern, detect_pattern, holds_pattern


class Promise(Protocol):
    """The ``sparsity`` section of a recipe; see :class:`sparse_deploy.config.schema.SparsitySection`."""

    @property
    def pattern(self) -> SparsityPattern:
        """Required pattern of every prunable tensor."""

    @property
    def target(self) -> float:
        """Zero share over all prunable tensors."""

    @property
    def tolerance(self) -> float:
        """Largest allowed distance of the share below the target."""


def check_promise(zeros: Mapping[str, BoolArray], promise: Promise) -> None:
    """Check that a model has the zeros that its recipe requires.

    Args:
        zeros: zero masks of the prunable tensors, by name.
        promise: the recipe's ``sparsity`` section.

    Raises:
        PatternMismatchError: a tensor has another pattern.
        SparsityError: the zero share over all tensors is too small.
    """
    if promise.pattern.kind is PatternKind.DENSE:
        return
    if not zeros:
        raise SparsityError(
            f"the recipe requires {promise.pattern} and the model has no prunable tensor; check sparsity.exclude"
        )
    for name, mask in zeros.items():
        if not holds_pattern(mask, promise.pattern):
            raise PatternMismatchError(
                name, str(promise.pattern), f"{detect_pattern(mask)} with {float(mask.mean()):.1%} zeros"
            )
    share = sum(int(m.sum()) for m in zeros.values()) / sum(m.size for m in zeros.values())
    if share < promise.target - promise.tolerance:
        raise SparsityError(
            f"the recipe requires {promise.target:.1%} zeros (tolerance {promise.tolerance:.1%}), the model has "
            f"{share:.1%}; use a sparser checkpoint or lower sparsity.target"
        )
