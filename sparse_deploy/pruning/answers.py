# SPDX-License-Identifier: Apache-2.0
"""Change of a model's outputs on unlabelled text, against the dense model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sparse_deploy.pruning.method import TokenBatch

LOGIT_OUTPUTS = ("logits", "start_logits", "end_logits")


@dataclass(frozen=True)
class AnswerChange:
    """Change of the predictions.

    Attributes:
        divergence: a smooth figure for ranking: the mean Kullback-Leibler divergence of the predicted distributions;
            for a regression the squared change divided by the variance of the dense outputs; for an encoder without a
            head 1 - cosine of the mean embeddings.
        drop: the figure for users: the share of changed predictions; for a regression and an encoder without a head
            equal to ``divergence``.
        unit: unit of ``drop``.
    """

    divergence: float
    drop: float
    unit: str


@torch.no_grad()
def answers_of(model: nn.Module, batches: Sequence[TokenBatch]) -> list[torch.Tensor]:
    """Outputs per batch: logits ``[rows, outputs]`` (question answering: ``[rows, 2, tokens]``), or embeddings."""
    return [_answer(model(**batch), batch) for batch in batches]


def compare_answers(dense: Sequence[torch.Tensor], found: Sequence[torch.Tensor], *, head: bool) -> AnswerChange:
    """Compare outputs for the same batches.

    Args:
        dense: outputs of the dense model.
        found: outputs of the other model.
        head: whether the outputs are logits, and not embeddings.
    """
    if not head:
        similarity = torch.cat([functional.cosine_similarity(a, b, dim=-1) for a, b in zip(dense, found, strict=True)])
        distance = float(1.0 - similarity.mean())
        return AnswerChange(distance, distance, "1 - cosine of the mean embeddings")
    if dense[0].shape[-1] == 1 and dense[0].ndim == 2:
        before, after = torch.cat(list(dense)), torch.cat(list(found))
        change = float((after - before).square().mean() / before.var(correction=0).clamp_min(1e-12))
        return AnswerChange(change, change, "squared change of the score divided by its variance")
    divergences, same = [], []
    for before, after in zip(dense, found, strict=True):
        pointwise = functional.kl_div(after.log_softmax(-1), before.log_softmax(-1), reduction="none", log_target=True)
        divergences.append(pointwise.sum(-1).flatten())
        equal = before.argmax(-1) == after.argmax(-1)
        same.append(equal if equal.ndim == 1 else equal.all(-1))
    return AnswerChange(
        float(torch.cat(divergences).mean()), float(1.0 - torch.cat(same).float().mean()), "other predictions"
    )


def has_head(model: nn.Module, batch: TokenBatch) -> bool:
    """Whether the model's outputs are logits."""
    with torch.no_grad():
        output = model(**batch)
    return any(name in output for name in LOGIT_OUTPUTS)


def mean_embedding(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the last hidden states over the real tokens, ``[rows, hidden]``."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _answer(output: Any, batch: TokenBatch) -> torch.Tensor:
    if "start_logits" in output:
        return torch.stack((output["start_logits"], output["end_logits"]), dim=1)
    if "logits" in output:
        logits: torch.Tensor = output["logits"]
        return logits
    return mean_embedding(output["last_hidden_state"], batch["attention_mask"])
