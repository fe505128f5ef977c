# SPDX-License-Identifier: Apache-2.0
"""Unlabelled text as padded batches of about equal size."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparse_deploy.pruning.method import TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of one batch, padding included: large enough for fast products, small enough for attention at 512 tokens.
_BATCH_TOKENS = 2048


def token_batches(
    texts: Sequence[tuple[str, ...]],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    batch_tokens: int = _BATCH_TOKENS,
) -> list[TokenBatch]:
    """Tokenize texts and put those of like length together, the shortest first.

    Args:
        texts: each one text, or two for a pair.
        tokenizer: of the model; decides which inputs there are.
        max_length: longer texts are cut.
        batch_tokens: at most so many tokens in a batch, padding included; one text at least.
    """
    encoded = tokenizer(*([text[i] for text in texts] for i in range(len(texts[0]))), truncation=True,
                        max_length=max_length)  # fmt: skip
    return padded_batches(dict(encoded), tokenizer, batch_tokens)


def padded_batches(
    encoded: Mapping[str, Sequence[Sequence[int]]],
    tokenizer: "PreTrainedTokenizerBase",
    batch_tokens: int = _BATCH_TOKENS,
) -> list[TokenBatch]:
    """Put tokenized texts of like length together, the shortest first.

    Args:
        encoded: the model's inputs by name, a list per text each.
        tokenizer: pads them.
        batch_tokens: see :func:`token_batches`.
    """
    lengths = [len(ids) for ids in encoded["input_ids"]]
    batches: list[TokenBatch] = []
    group: list[int] = []

    def close() -> None:
        if group:
            chosen = {key: [values[i] for i in group] for key, values in encoded.items()}
            batches.append(dict(tokenizer.pad(chosen, return_tensors="pt")))
            group.clear()

    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if lengths[index] * (len(group) + 1) > batch_tokens:
            close()
        group.append(index)
    close()
    return batches
