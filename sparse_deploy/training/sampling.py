# SPDX-License-Identifier: Apache-2.0
"""The order of training examples, computed from seed and epoch only, so that a resumed run has the same order."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class EpochSampler(Sampler[int]):
    """Every example once per epoch, in an order that the Trainer selects by :meth:`set_epoch`.

    transformers' sampler for grouped lengths draws from the process's random state. A resumed process has another state
    when it makes the order of the interrupted epoch, so that some rows would be omitted and others duplicated.

    Args:
        lengths: tokens of each example, for grouping; or only the number of examples.
        seed: seed of the run.
        batch: examples of one optimizer step, for grouping.
    """

    def __init__(self, lengths: Sequence[int] | int, *, seed: int, batch: int) -> None:
        self._lengths = None if isinstance(lengths, int) else list(lengths)
        self._count = lengths if isinstance(lengths, int) else len(lengths)
        self._seed, self._batch, self._epoch = seed, batch, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the order of the next pass."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
        if self._lengths is None:
            return iter(torch.randperm(self._count, generator=generator).tolist())
        order: list[int] = get_length_grouped_indices(self._lengths, self._batch, generator=generator)
        return iter(order)
