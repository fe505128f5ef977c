# SPDX-License-Identifier: Apache-2.0
"""Losses that transformers' models do not compute: weighted labels, and relevance."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from sparse_deploy.data.tasks import Task, TaskKind
from sparse_deploy.errors import ConfigError

# Computes the mean loss from logits and labels of a batch.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_NO_LABEL = -100


def task_loss(task: Task, class_weights: str, labels: Sequence[object]) -> Loss | None:
    """The loss of a task; None means the model's own loss.

    Args:
        task: the task.
        class_weights: ``none`` or ``balanced``.
        labels: labels of the training examples, from :meth:`Task.training_columns`.

    Raises:
        ConfigError: weights for a task without classes.
    """
    if class_weights == "balanced":
        return _balanced(task, labels)
    if task.kind is TaskKind.RANKING:
        return lambda logits, relevance: functional.binary_cross_entropy_with_logits(
            logits.squeeze(-1), relevance.float()
        )
    return None


def _balanced(task: Task, labels: Sequence[object]) -> Loss:
    count = len(task.labels)
    if task.kind is TaskKind.MULTI_LABEL:
        there = np.asarray(labels).sum(axis=0).clip(min=1)
        positive = torch.tensor((len(labels) - there).clip(min=1) / there, dtype=torch.float32)
        return lambda logits, targets: functional.binary_cross_entropy_with_logits(
            logits, targets.float(), pos_weight=positive.to(logits.device)
        )
    if task.kind not in (TaskKind.CLASSIFICATION, TaskKind.TOKEN_CLASSIFICATION):
        raise ConfigError(f"finetune.class_weights: {task.kind.value} has no classes; omit class_weights")
    flat = np.concatenate([np.atleast_1d(np.asarray(one)) for one in labels])
    there = np.bincount(flat[flat != _NO_LABEL], minlength=count).clip(min=1)
    weights = torch.tensor(there.sum() / (count * there), dtype=torch.float32)
    return lambda logits, targets: functional.cross_entropy(
        logits.reshape(-1, count), targets.reshape(-1), weight=weights.to(logits.device), ignore_index=_NO_LABEL
    )
