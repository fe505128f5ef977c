# SPDX-License-Identifier: Apache-2.0
"""Unlabelled text as padded batches of about equal size."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from sparse_deploy.data.batches import batches_of_tokens, pad_batch
from sparse_deploy.pruning.method import TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of one batch, including padding: enough for fast products, but not too many for attention at 512 tokens.
_BATCH_TOKENS = 2048


def token_batches(
    texts: Sequence[tuple[str, ...]],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    batch_tokens: int = _BATCH_TOKENS,
) -> list[TokenBatch]:
    """Tokenize texts and make padded batches of similar length, shortest first.

    Args:
        texts: one text each, or two for a pair.
        tokenizer: tokenizer of the model, which determines the inputs.
        max_length: length at which texts are truncated.
        batch_tokens: largest number of tokens in a batch, including padding; at least one text.
    """
    encoded = tokenizer(*([text[i] for text in texts] for i in range(len(texts[0]))), truncation=True,
                        max_length=max_length)  # fmt: skip
    return padded_batches(dict(encoded), tokenizer, batch_tokens)


def padded_batches(
    encoded: Mapping[str, Sequence[Sequence[int]]],
    tokenizer: "PreTrainedTokenizerBase",
    batch_tokens: int = _BATCH_TOKENS,
) -> list[TokenBatch]:
    """Make padded batches of tokenized texts of similar length, shortest first.

    Args:
        encoded: the model's inputs by name, a list per text each.
        tokenizer: tokenizer with the padding token.
        batch_tokens: see :func:`token_batches`.
    """
    pad_id = int(tokenizer.pad_token_id or 0)
    batches: list[TokenBatch] = []
    for group in batches_of_tokens([len(ids) for ids in encoded["input_ids"]], batch_tokens):
        padded = pad_batch([{name: values[index] for name, values in encoded.items()} for index in group], pad_id)
        batches.append({name: torch.from_numpy(array) for name, array in padded.items()})
    return batches
