# SPDX-License-Identifier: Apache-2.0
"""Parity of an exported model with its PyTorch source, on real inputs of many lengths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.architectures import Config, architecture_of
from sparse_deploy.data.batches import pad_batch
from sparse_deploy.data.encoded import Feature
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import ParityError

Array = NDArray[Any]
Model = Callable[[Mapping[str, Array]], Sequence[Array]]

# Single requests at the ends of the length range, an odd batch, and enough rows of 8 that one differing INT8
# prediction weighs less than 2 %.
_BATCH_SIZES = (3, 8, 8, 8, 8, 8, 8, 8)
# Number of texts from which the batches are drawn: enough for 61 rows of many lengths.
PARITY_EXAMPLES = 256
# Attention weights of 2048 tokens take 200 MB in a layer with 12 heads; those of ModernBERT's 8192 would take 3 GB.
_LONGEST_ROW = 2048


@dataclass(frozen=True)
class Parity:
    """Differences between two models.

    Attributes:
        max_abs: largest absolute difference of any output at any token that is not padding.
        mean_abs: mean absolute difference of the same outputs.
        argmax_agreement: share of equal predictions, as defined by the task.
        rows: compared examples.
    """

    max_abs: float
    mean_abs: float
    argmax_agreement: float
    rows: int


def longest_parity_row(config: Config, max_length: int) -> int:
    """Tokens of the longest row to compare: the model's limit, which is bounded for long models.

    Args:
        config: config of the model.
        max_length: ``data.max_length`` of the recipe; the result is at least this, if the model allows it.
    """
    return min(architecture_of(config).usable_length(config) or max_length, max(max_length, _LONGEST_ROW))


def parity_batches(
    features: Sequence[Feature], seed: int, *, usable_length: int | None = None, pad_id: int = 0
) -> list[Feature]:
    """Batches of real inputs for :func:`check_parity`.

    Args:
        features: encoded examples, ``[tokens]`` each; at least one.
        seed: seed of the drawn examples.
        usable_length: largest number of input tokens; default: that of the longest example.
        pad_id: the tokenizer's padding token.

    Returns:
        The shortest example alone, one row of ``usable_length`` tokens without padding (examples end to end), then
        batches of 3 and 8, padded together, without repetition while there are examples.
    """
    lengths = np.array([len(feature["input_ids"]) for feature in features])
    full = _end_to_end(features, usable_length or int(lengths.max()), first=int(lengths.argmax()))
    batches = [pad_batch([features[int(lengths.argmin())]], pad_id), pad_batch([full], pad_id)]
    order = np.random.default_rng(seed).permutation(len(features))
    drawn = np.resize(order, sum(_BATCH_SIZES))
    start = 0
    for size in _BATCH_SIZES:
        batches.append(pad_batch([features[index] for index in drawn[start : start + size]], pad_id))
        start += size
    return batches


def _end_to_end(features: Sequence[Feature], tokens: int, *, first: int) -> Feature:
    """Concatenated examples, truncated to a length, to test windows and positions beyond the texts' lengths.

    All tokens are text, because most models compute the same for padding at any position.
    """
    order = [first, *(index for index in range(len(features)) if index != first)]
    parts: list[Feature] = []
    while sum(len(part["input_ids"]) for part in parts) < tokens:
        parts.append(features[order[len(parts) % len(order)]])
    return {name: np.concatenate([part[name] for part in parts])[:tokens] for name in parts[0]}


def check_parity(
    reference: Sequence[Sequence[Array]],
    candidate: Model,
    batches: Sequence[Feature],
    task: Task,
    *,
    name: str = "exported model",
    reference_name: str = "PyTorch",
    atol: float | None = None,
    agreement: float | None = None,
    remedy: str = "",
) -> Parity:
    """Compare the outputs of two models, batch by batch.

    Args:
        reference: the outputs of the PyTorch model, batch by batch.
        candidate: the exported model: computes the task's outputs from int64 ``[batch, tokens]`` inputs by name.
        batches: see :func:`parity_batches`.
        task: the task, which defines outputs per token and equal predictions.
        name: name of the candidate, for the error.
        reference_name: name of the reference, for the error.
        atol: largest allowed ``max_abs``; None means no check.
        agreement: smallest allowed ``argmax_agreement``; None means no check.
        remedy: advice if it is smaller, other than allowing it.

    Raises:
        ParityError: a limit is exceeded, or an output has a wrong shape or is not finite.
    """
    worst, same = 0.0, 0.0
    total, count, rows = 0.0, 0, 0
    for batch, expected in zip(batches, reference, strict=True):
        found = candidate(batch)
        shape = "x".join(str(size) for size in batch["input_ids"].shape)
        if [array.shape for array in expected] != [array.shape for array in found]:
            raise ParityError(
                f"{name}: on a {shape} batch {reference_name} answers with shapes "
                f"{[array.shape for array in expected]}, the export with {[array.shape for array in found]}; "
                f"report this with the recipe",
                worst=float("inf"),
                tolerance=atol or 0.0,
            )
        kept = batch["attention_mask"].astype(bool)
        differences = _differences(expected, found, kept, task.per_token)
        largest = float(differences.max())
        if not np.isfinite(largest) or (atol is not None and largest > atol):
            raise ParityError(
                f"{name}: on a {shape} batch an output differs from {reference_name} by {largest:.3g}, allowed are "
                f"{atol}; raise export.atol if that is acceptable, else report this with the recipe",
                worst=largest,
                tolerance=atol or 0.0,
            )
        worst = max(worst, largest)
        total, count = total + float(differences.sum()), count + differences.size
        same += task.same_predictions(expected, found, kept)
        rows += len(batch["input_ids"])
    parity = Parity(worst, total / count, same / rows, rows)
    if agreement is not None and parity.argmax_agreement < agreement:
        raise ParityError(
            f"{name}: {parity.argmax_agreement:.1%} of {rows} predictions agree with {reference_name}, expected at "
            f"least {agreement:.1%}; {f'{remedy}, or ' if remedy else ''}lower export.int8_agreement",
            worst=parity.argmax_agreement,
            tolerance=agreement,
        )
    return parity


def _differences(expected: Sequence[Array], found: Sequence[Array], kept: Array, per_token: Sequence[bool]) -> Array:
    """Absolute differences of all outputs, flat; outputs per token only for kept tokens."""
    differences = [np.abs(a - b) for a, b in zip(expected, found, strict=True)]
    return np.concatenate(
        [array[kept].ravel() if each else array.ravel() for array, each in zip(differences, per_token, strict=True)]
    )
