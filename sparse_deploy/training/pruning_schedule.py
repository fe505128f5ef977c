# SPDX-License-Identifier: Apache-2.0
"""Prunes by a schedule during training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparse_deploy.config.schema import Recipe, SparsityMode, SparsitySection
from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.pruning.batches import padded_batches
from sparse_deploy.pruning.magnitude import MagnitudePruning, magnitude_masks
from sparse_deploy.pruning.method import PruningPlan, TokenBatch
from sparse_deploy.pruning.second_order import SecondOrderPruning
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.training.mask_lock import MaskLock


def cubic_sparsity(progress: float, *, begin: float, end: float, target: float) -> float:
    """Sparsity during the training, by the cubic schedule of Zhu and Gupta 2017 (arXiv 1710.01878, eq. 1).

    Args:
        progress: completed share of the training, 0 to 1.
        begin: start of the pruning.
        end: end of the pruning.
        target: final zero share.
    """
    if progress >= end:
        return target
    if progress <= begin:
        return 0.0
    return target * (1.0 - (1.0 - (progress - begin) / (end - begin)) ** 3)


class ScheduledPruner:
    """Prunes a model during training, with the method of its recipe.

    Args:
        model: the model in training.
        parameters: the model's prunable weights, by name.
        settings: method, pattern and scope.
        batches: training text, for a method that needs text.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        settings: SparsitySection,
        batches: Sequence[TokenBatch] = (),
    ) -> None:
        self._model = model
        self._parameters = dict(parameters)
        self._settings = settings
        self._batches = batches

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        features: Any,
        tokenizer: PreTrainedTokenizerBase,
    ) -> "ScheduledPruner | None":
        """The pruner of a recipe; None if it does not prune.

        Args:
            recipe: the recipe, of which the ``sparsity`` section and the seed are used.
            model: the model in training.
            parameters: the model's prunable weights, by name.
            features: ``datasets.Dataset`` with the model's inputs.
            tokenizer: tokenizer that pads batches.
        """
        settings = recipe.sparsity
        if settings.mode is not SparsityMode.PRUNE:
            return None
        batches: list[TokenBatch] = []
        if settings.method == SecondOrderPruning.name:
            rng = np.random.default_rng(recipe.finetune.seed)
            drawn = rng.permutation(len(features))[: settings.method_samples]
            inputs = [name for name in MODEL_INPUTS if name in features.column_names]
            batches = padded_batches(features.select(drawn).select_columns(inputs).to_dict(), tokenizer)
        return cls(model, parameters, settings, batches)

    def prune(self, sparsity: float) -> dict[str, BoolArray]:
        """Zero masks with this share of zeros; the method may also adjust the other weights in the model."""
        settings = self._settings
        if settings.method == MagnitudePruning.name:
            return magnitude_masks(self._parameters, settings.pattern, sparsity, settings.scope)
        plan = PruningPlan.uniform(tuple(self._parameters), settings.pattern, sparsity)
        in_training = self._model.training
        self._model.eval()  # no dropout while the method reads the text
        try:
            return SecondOrderPruning().prune(self._model, plan, self._batches).masks
        finally:
            self._model.train(in_training)


class GradualPruningCallback(TrainerCallback):  # type: ignore[misc]
    """Increases the sparsity of a :class:`MaskLock` by the cubic schedule, then keeps it."""

    def __init__(self, lock: MaskLock, pruner: ScheduledPruner, settings: SparsitySection) -> None:
        self._lock = lock
        self._pruner = pruner
        self._settings = settings
        self._reached = False

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose new masks every ``frequency`` steps until the target is reached."""
        step = state.global_step + 1  # the Trainer increments the step after this event
        progress = step / state.max_steps
        due = step % self._settings.frequency == 0 or progress >= self._settings.end
        if self._reached or not due or progress < self._settings.begin:
            return
        settings = self._settings
        sparsity = cubic_sparsity(progress, begin=settings.begin, end=settings.end, target=settings.target)
        self._lock.replace(self._pruner.prune(sparsity))
        self._reached = progress >= settings.end

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the masks of the checkpoint if a run is resumed after the schedule's end."""
        self._reached = state.max_steps > 0 and state.global_step / state.max_steps >= self._settings.end
