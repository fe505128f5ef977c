# SPDX-License-Identifier: Apache-2.0
"""Tokenized requests in flat arrays, which the parent passes to a worker; batches and mixes are drawn from them.

Workers import this module and no unneeded module of this package, because their resident memory is a reported figure.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.architectures.architecture import MODEL_INPUTS
from sparse_deploy.data.batches import Run, pad_batch, run_by_length
from sparse_deploy.data.encoded import IntArray


@dataclass(frozen=True)
class Requests:
    """Unpadded inputs of many requests.

    Attributes:
        tokens: input name to all requests' values end to end, int64.
        offsets: ``[requests + 1]`` start of each request.
        pad_id: the tokenizer's padding token.
    """

    tokens: Mapping[str, IntArray]
    offsets: IntArray
    pad_id: int = 0

    @classmethod
    def from_features(cls, features: Sequence[Mapping[str, Any]], pad_id: int = 0) -> "Requests":
        """Collect encoded examples, each a mapping of input name to ``[tokens]``."""
        lengths = [len(feature[MODEL_INPUTS[0]]) for feature in features]
        tokens = {
            name: np.fromiter(itertools.chain.from_iterable(f[name] for f in features), np.int64, sum(lengths))
            for name in MODEL_INPUTS
        }
        return cls(tokens, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pad_id)

    @classmethod
    def load(cls, path: Path) -> "Requests":
        """Read a file of :meth:`save`."""
        with np.load(path, allow_pickle=False) as stored:
            tokens = {name: stored[name] for name in MODEL_INPUTS}
            return cls(tokens, stored["offsets"], int(stored["pad_id"]))

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file."""
        np.savez(path, allow_pickle=False, offsets=self.offsets, pad_id=np.int64(self.pad_id), **self.tokens)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """``[requests]`` tokens of each request."""
        return np.diff(self.offsets)

    def batch(self, indices: Sequence[int]) -> dict[str, IntArray]:
        """The requests of these indices as one batch, padded to its longest.

        Returns:
            int64 ``[batch, sequence]`` per input name.
        """
        spans = [slice(self.offsets[index], self.offsets[index + 1]) for index in indices]
        return pad_batch([{name: values[span] for name, values in self.tokens.items()} for span in spans], self.pad_id)

    def shaped(self, batch: int, tokens: int) -> dict[str, IntArray]:
        """A batch of exactly ``[batch, tokens]`` without padding, filled with real token ids end to end."""
        ids = np.resize(self.tokens["input_ids"], batch * tokens).reshape(batch, tokens)
        return {
            "input_ids": np.ascontiguousarray(ids),
            "attention_mask": np.ones((batch, tokens), dtype=np.int64),
            "token_type_ids": np.zeros((batch, tokens), dtype=np.int64),
        }


def length_mix(lengths: IntArray, count: int, seed: int) -> list[int]:
    """Draw requests with the distribution of lengths of all requests, in random order.

    The requests sorted by length are sampled at ``count`` even steps, so that a short list already has the mix of
    the complete split; then they are shuffled, so that lengths vary as in a service.

    Args:
        lengths: ``[requests]`` tokens of each request.
        count: number of requests to draw; all if there are fewer.
        seed: seed of the shuffle.

    Returns:
        Indices into ``lengths``.
    """
    order = np.argsort(lengths, kind="stable")
    drawn = order[_even_steps(len(order), count)]
    return [int(index) for index in np.random.default_rng(seed).permutation(drawn)]


def answer(
    run: Run,
    requests: Requests,
    batch_size: int,
    per_token: Sequence[bool],
) -> list[tuple[NDArray[Any], ...]]:
    """The outputs of every request, in the given order.

    Args:
        run: a model: computes outputs from inputs by name, ``[batch, tokens]``.
        requests: the requests, which run in batches of similar length.
        batch_size: requests per batch.
        per_token: for each output, whether its second axis is the tokens.

    Returns:
        Copies without the batch dimension and without padding.
    """
    return run_by_length(run, requests.batch, requests.lengths, batch_size, per_token)


def spread_batches(batches: Sequence[list[int]], count: int) -> list[list[int]]:
    """``count`` of the batches at even steps, from short to long; all if there are fewer."""
    return [list(batches[index]) for index in _even_steps(len(batches), count)]


def _even_steps(total: int, count: int) -> IntArray:
    if count >= total:
        return np.arange(total)
    # The middles of `count` equal parts, which treats both ends of the distribution equally.
    return np.floor((np.arange(count) + 0.5) * total / count).astype(np.int64)
