# SPDX-License-Identifier: Apache-2.0
"""Makes padded batches of features of similar length. numpy only, because workers import it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.data.encoded import Feature, IntArray

Outputs = tuple[NDArray[Any], ...]
Run = Callable[[Feature], Sequence[NDArray[Any]]]


def pad_batch(
    features: Sequence[Mapping[str, IntArray | Sequence[int]]], pad_id: int = 0, length: int | None = None
) -> Feature:
    """Pad features to one batch.

    Args:
        features: at least one feature; all with the same inputs.
        pad_id: the tokenizer's padding token.
        length: padded length in tokens; None means the longest feature. Features must not be longer.

    Returns:
        int64 ``[batch, tokens]`` per input; padding has mask 0 and token type 0.
    """
    tokens = length or max(len(feature["input_ids"]) for feature in features)
    batch = {}
    for key in features[0]:
        batch[key] = np.full((len(features), tokens), pad_id if key == "input_ids" else 0, dtype=np.int64)
        for row, feature in enumerate(features):
            batch[key][row, : len(feature[key])] = feature[key]
    return batch


def sorted_batches(lengths: Sequence[int] | IntArray, batch_size: int) -> list[list[int]]:
    """All features in batches of near-equal length, shortest first; the last batch may be smaller.

    Args:
        lengths: tokens of each feature.
        batch_size: features per batch.

    Returns:
        Indices into ``lengths``.
    """
    order = _shortest_first(lengths)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def batches_of_tokens(lengths: Sequence[int] | IntArray, batch_tokens: int) -> Iterator[list[int]]:
    """As :func:`sorted_batches`, but with at most ``batch_tokens`` tokens, including padding, and at least one row."""
    group: list[int] = []
    for index in _shortest_first(lengths):
        if group and lengths[index] * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def run_by_length(
    run: Run,
    make_batch: Callable[[list[int]], Feature],
    lengths: Sequence[int] | IntArray,
    batch_size: int,
    per_token: Sequence[bool],
) -> list[Outputs]:
    """The outputs of every feature, in the given order; features run in batches of similar length.

    Args:
        run: a model: computes outputs from inputs by name, ``[batch, tokens]``.
        make_batch: makes the padded batch of some indices.
        lengths: tokens of each feature.
        batch_size: features per batch.
        per_token: for each output, whether its second axis is the tokens.

    Returns:
        Copies without the batch dimension and without padding.
    """
    found: list[Outputs] = [()] * len(lengths)
    for indices in sorted_batches(lengths, batch_size):
        outputs = run(make_batch(indices))
        for row, index in enumerate(indices):
            length = int(lengths[index])
            found[index] = tuple(
                values[row][: length if cut else None].copy() for values, cut in zip(outputs, per_token, strict=True)
            )
    return found


def _shortest_first(lengths: Sequence[int] | IntArray) -> list[int]:
    return [int(index) for index in np.argsort(np.asarray(lengths), kind="stable")]
