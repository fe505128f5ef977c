# SPDX-License-Identifier: Apache-2.0
"""Recovery without labels: distillation of the dense model to the pruned one on unlabelled text, for some minutes."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sparse_deploy.config.pruning import RecoverySettings
from sparse_deploy.config.schema import DistillationSection
from sparse_deploy.errors import DataError
from sparse_deploy.pruning.answers import mean_embedding
from sparse_deploy.pruning.batches import token_batches
from sparse_deploy.pruning.method import TokenBatch
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.training.distillation import LOGIT_OUTPUTS, logit_loss
from sparse_deploy.training.mask_lock import MaskLock

Progress = Callable[[str, float], None]
# Held-out texts, which select the best state and are not trained on: a tenth of the text, at most this number.
_HELD_OUT = 256
_HELD_OUT_SHARE = 0.1
# Largest number of evaluations on the held-out text after the first one (which is before any step and not in the
# budget); fewer if they would take more than a tenth of the budget.
_EVALUATIONS = 12
_SHARE_OF_EVALUATIONS = 0.1
# Share of the budget, and minimum number of steps: Adam's first steps are as large as the rate, for any gradients.
_WARMUP = 0.03
_WARMUP_STEPS = 20
# Number of batches that are sorted by length before they are shuffled: little padding, different batches in each pass.
_POOL_OF_BATCHES = 16
_SMALLEST_TEXT = 32


@dataclass(frozen=True)
class RecoveryOutcome:
    """Result of a recovery; the best state is in the model.

    Attributes:
        steps: number of optimizer steps.
        seconds: duration, including evaluations.
        history: ``step``, ``seconds`` and held-out ``loss`` of each evaluation, the first before any step.
        best: the entry whose weights were kept.
        texts: number of training texts.
        held_out: number of texts that selected the best state.
    """

    steps: int
    seconds: float
    history: list[dict[str, float]]
    best: dict[str, float]
    texts: int
    held_out: int


def split_held_out(texts: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Training texts, and held-out texts (the last ones; the order is random).

    Raises:
        DataError: too few texts for both.
    """
    if len(texts) < _SMALLEST_TEXT:
        raise DataError(
            f"text: expected at least {_SMALLEST_TEXT} texts for --recover, which uses some to select its best "
            f"state, found {len(texts)}; give more text"
        )
    count = min(_HELD_OUT, max(int(len(texts) * _HELD_OUT_SHARE), 8))
    return list(texts[:-count]), list(texts[-count:])


def recover(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    parameters: Mapping[str, nn.Parameter],
    zeros: Mapping[str, BoolArray],
    texts: Sequence[tuple[str, ...]],
    tokenizer: PreTrainedTokenizerFast,
    settings: RecoverySettings,
    *,
    max_length: int,
    seed: int,
    progress: Progress = lambda message, share: None,
    now: Callable[[], float] = time.monotonic,
) -> RecoveryOutcome:
    """Train the kept weights of ``student`` in place until the budget is spent, and restore the best state.

    The loss is the relative squared error of all hidden states, plus the loss of the teacher's logits if the model has
    a head, or of the direction of the mean embedding if it has none. Embedding tables are not changed, because a text
    has few of the vocabulary's words. Without dropout.

    Args:
        student: the pruned model.
        teacher: the same model before pruning.
        parameters: prunable weights of the student, by name.
        zeros: zero masks of these weights, which are kept.
        texts: texts in random order; the last ones are held out.
        tokenizer: tokenizer of both models.
        settings: budget, learning rate and batch size.
        max_length: length at which texts are truncated.
        seed: seed of the order of the texts.
        progress: called with a message and the used share of the budget.
        now: clock of the budget, in seconds.

    Raises:
        DataError: too few texts.
        SparsityLostError: a pruned weight changed.
    """
    trained_on, held_out = split_held_out(texts)
    check = token_batches(held_out, tokenizer, max_length)
    lock = MaskLock(parameters, zeros)
    trainable = [p for name, p in student.named_parameters() if not _is_table(student, name)]
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)
    teacher.requires_grad_(False)
    lock.hook_gradients()
    optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
    budget, begin, steps = settings.minutes * 60.0, now(), 0
    history: list[dict[str, float]] = []
    best_state: dict[str, torch.Tensor] = {}

    def evaluate() -> None:
        nonlocal best_state
        loss = held_out_loss(student, teacher, check)
        history.append({"step": steps, "seconds": round(now() - begin, 1) if history else 0.0, "loss": loss})
        if loss <= min(entry["loss"] for entry in history):
            best_state = copy.deepcopy(student.state_dict())

    evaluate()
    evaluations = evaluations_within(budget, now() - begin)
    begin = now()
    for batch in _endless_batches(trained_on, tokenizer, settings.batch_size, max_length, seed):
        spent = (now() - begin) / budget
        if spent >= len(history) / evaluations:
            evaluate()
        if spent >= 1.0:
            break
        for group in optimizer.param_groups:
            warm = min(spent / _WARMUP, (steps + 1) / _WARMUP_STEPS)
            group["lr"] = settings.learning_rate * min(warm, (1.0 - spent) / (1.0 - _WARMUP))
        loss = recovery_loss(student, teacher, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        lock.apply()
        steps += 1
        progress(f"recovery step {steps}, held-out loss {history[-1]['loss']:.4f}", spent)
    lock.unhook_gradients()
    student.load_state_dict(best_state)
    student.requires_grad_(True)
    lock.verify("recovery")
    best = min(history, key=lambda entry: entry["loss"])
    return RecoveryOutcome(steps, round(now() - begin, 1), history, best, len(trained_on), len(held_out))


def evaluations_within(budget: float, seconds: float) -> int:
    """Number of evaluations for a budget and a duration in seconds; the last one is at the end."""
    return max(1, min(_EVALUATIONS, int(_SHARE_OF_EVALUATIONS * budget / max(seconds, 1e-9))))


def recovery_loss(student: PreTrainedModel, teacher: PreTrainedModel, batch: TokenBatch) -> torch.Tensor:
    """Loss of one batch; see :func:`recover`."""
    with torch.no_grad():
        taught = teacher(**batch, output_hidden_states=True)
    answered = student(**batch, output_hidden_states=True)
    mask = batch["attention_mask"].unsqueeze(-1).float()
    errors = [
        (((ours - theirs) * mask).square().sum() / (theirs * mask).square().sum())
        for ours, theirs in zip(answered.hidden_states[1:], taught.hidden_states[1:], strict=True)
    ]
    loss = torch.stack(errors).mean()
    if any(name in answered for name in LOGIT_OUTPUTS):
        return loss + logit_loss(answered, taught, DistillationSection(teacher="dense"))
    ours, theirs = (mean_embedding(output.hidden_states[-1], batch["attention_mask"]) for output in (answered, taught))
    return loss + (1.0 - functional.cosine_similarity(ours, theirs)).mean()


@torch.no_grad()
def held_out_loss(student: PreTrainedModel, teacher: PreTrainedModel, batches: Sequence[TokenBatch]) -> float:
    """Mean of :func:`recovery_loss` per text."""
    rows = [len(batch["attention_mask"]) for batch in batches]
    losses = [float(recovery_loss(student, teacher, batch)) for batch in batches]
    return float(np.average(losses, weights=rows))


def _is_table(model: nn.Module, name: str) -> bool:
    owner: Any = model.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, nn.Embedding)


def _endless_batches(
    texts: Sequence[tuple[str, ...]],
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int,
    max_length: int,
    seed: int,
) -> Iterator[TokenBatch]:
    """Batches of texts of similar length, in endless passes, each with a different order."""
    rng = np.random.default_rng(seed)
    pool = batch_size * _POOL_OF_BATCHES
    while True:
        order = rng.permutation(len(texts))
        for start in range(0, len(order), pool):
            drawn = [texts[i] for i in order[start : start + pool]]
            drawn.sort(key=lambda text: sum(map(len, text)))
            groups = [drawn[i : i + batch_size] for i in range(0, len(drawn), batch_size)]
            for i in rng.permutation(len(groups)):
                yield from token_batches(groups[i], tokenizer, max_length, batch_tokens=batch_size * max_length)
