# SPDX-License-Identifier: Apache-2.0
"""The order of training examples: a function of seed and epoch alone, so that a resumed run goes on in the same one."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class EpochSampler(Sampler[int]):
    """Every example once per epoch, in an order that the Trainer chooses by :meth:`set_epoch`.

    transformers' sampler for grouped lengths draws from the process's random state, which a resumed process has not
    got when it makes the order of an epoch that had begun before: rows were left out, and others came twice.

    Args:
        lengths: tokens of each example, to group by; or only their number.
        seed: of the run.
        batch: examples of one optimizer step, for grouping.
    """

    def __init__(self, lengths: Sequence[int] | int, *, seed: int, batch: int) -> None:
        self._lengths = None if isinstance(lengths, int) else list(lengths)
        self._count = lengths if isinstance(lengths, int) else len(lengths)
        self._seed, self._batch, self._epoch = seed, batch, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
        if self._lengths is None:
            return iter(torch.randperm(self._count, generator=generator).tolist())
        order: list[int] = get_length_grouped_indices(self._lengths, self._batch, generator=generator)
        return iter(order)
