# SPDX-License-Identifier: Apache-2.0
"""Settings of ``sparse-deploy prune``; the manifest records them."""

from typing import Literal

from pydantic import Field, model_validator

from sparse_deploy.config.schema import DEFAULT_EXCLUDE, Pattern, Section
from sparse_deploy.sparsity.pattern import PatternKind

MethodName = Literal["second-order", "magnitude"]
Allocation = Literal["uniform", "sensitivity"]


class RecoverySettings(Section):
    """Recovery without labels: distillation of the dense model to the pruned one on the text, with a keep mask.

    Attributes:
        minutes: budget of the training, without the pruning.
        learning_rate: peak; linear warm-up and decay over the budget.
        batch_size: texts per step.
        texts: largest number of randomly drawn texts; a tenth of them, at most 256, selects the best state.
    """

    minutes: float = Field(gt=0.0)
    learning_rate: float = Field(default=2e-4, gt=0.0)
    batch_size: int = Field(default=32, ge=1)
    texts: int = Field(default=100_000, ge=1)


class PruneSettings(Section):
    """Pruning without training.

    One of ``target``, ``speed`` and ``max_drop`` sets the number of zeros.

    Attributes:
        pattern: the pattern of the zeros of each pruned tensor.
        target: share of zeros over all prunable tensors; omitted for N:M.
        speed: predicted time of the dense INT8 matrix products divided by that of the pruned ones on this CPU, by the
            cost model of the kernels, without attention and the rest of the model.
        max_drop: largest allowed change of the answers to held-out text: the share of changed predictions, or
            1 - cosine of the mean embeddings if the model has no head.
        allocation: ``uniform`` prunes each tensor to the target; ``sensitivity`` prunes tensors more whose zeros change
            the answers less, so that the target is met over all tensors. ``speed`` and ``max_drop`` imply it.
        method: ``second-order`` selects zeros and adjusts the other weights so that the output of each layer on the
            text changes least; ``magnitude`` zeros the smallest weights and needs no text.
        samples: number of randomly drawn texts for the method.
        max_length: length in tokens at which texts are truncated.
        exclude: parameters whose name contains one of these texts stay dense.
        seed: seed of the draw.
        recovery: training after the pruning, on the same text; default: none.
    """

    pattern: Pattern
    target: float | None = Field(default=None, gt=0.0, lt=1.0)
    speed: float | None = Field(default=None, gt=1.0)
    max_drop: float | None = Field(default=None, gt=0.0, lt=1.0)
    allocation: Allocation = "uniform"
    method: MethodName = "second-order"
    samples: int = Field(default=1024, ge=1)
    max_length: int = Field(default=128, ge=8)
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    seed: int = Field(default=42, ge=0, lt=2**32)
    recovery: RecoverySettings | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "PruneSettings":
        goals = [name for name in ("target", "speed", "max_drop") if getattr(self, name) is not None]
        if len(goals) > 1:
            raise ValueError(f"expected one of target, speed and max-drop, found {' and '.join(goals)}")
        if self.pattern.kind is PatternKind.DENSE:
            raise ValueError("pruning needs a pattern other than dense: unstructured, N:M such as 1:2, 4x1 or 1x4")
        if self.pattern.kind is PatternKind.N_M:
            given = 1 - self.pattern.n / self.pattern.m
            if self.target is not None and abs(self.target - given) > 1e-6:
                raise ValueError(
                    f"pattern {self.pattern} means a target of {given:g}, found {self.target:g}; leave it out"
                )
        elif not goals:
            raise ValueError(
                f"pattern {self.pattern} needs a target (the share of zeros, such as 0.7), speed or max-drop"
            )
        if self.method == "magnitude" and self.by_sensitivity:
            raise ValueError("shares by sensitivity (speed, max-drop) need method second-order")
        return self

    @property
    def by_sensitivity(self) -> bool:
        """Whether shares differ between tensors."""
        return self.allocation == "sensitivity" or self.speed is not None or self.max_drop is not None
