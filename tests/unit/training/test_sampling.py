# SPDX-License-Identifier: Apache-2.0
"""The order of training examples."""

import pytest

from sparse_deploy.training.sampling import EpochSampler

LENGTHS = [5 + (7 * number) % 40 for number in range(43)]


def order(lengths, epoch, seed=1):
    sampler = EpochSampler(lengths, seed=seed, batch=8)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("lengths", [LENGTHS, len(LENGTHS)], ids=["grouped", "random"])
def test_every_row_once_in_an_order_of_seed_and_epoch_alone(lengths):
    assert sorted(order(lengths, 2)) == list(range(43))
    sampler = EpochSampler(lengths, seed=1, batch=8)
    for epoch in range(3):  # as a run that was never interrupted comes to its third epoch
        sampler.set_epoch(epoch)
        found = list(sampler)
    assert found == order(lengths, 2)
    assert len({tuple(order(lengths, epoch, seed)) for epoch in range(3) for seed in range(2)}) == 6


def test_batches_hold_like_lengths():
    lengths = LENGTHS * 20
    rows = order(lengths, 0)
    parts = [[lengths[row] for row in rows[at : at + 8]] for at in range(0, 856, 8)]
    assert sum(max(part) - min(part) < 5 for part in parts) > 90
