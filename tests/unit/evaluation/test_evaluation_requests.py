# SPDX-License-Identifier: Apache-2.0
"""The request store: nothing lost on the way to a worker, batches padded right, mixes like the whole split."""

import numpy as np
import pytest

from sparse_deploy.data.batches import sorted_batches
from sparse_deploy.evaluation.requests import Requests, length_mix, spread_batches


def features(*lengths: int) -> list[dict[str, np.ndarray]]:
    return [
        {
            "input_ids": np.arange(length) + 10 * (number + 1),
            "attention_mask": np.ones(length, np.int64),
            "token_type_ids": np.full(length, number),
        }
        for number, length in enumerate(lengths)
    ]


def test_saved_requests_come_back_whole(tmp_path):
    Requests.from_features(features(3, 5, 2), pad_id=7).save(tmp_path / "requests.npz")
    loaded = Requests.load(tmp_path / "requests.npz")
    assert len(loaded) == 3
    assert loaded.lengths.tolist() == [3, 5, 2]
    assert loaded.pad_id == 7
    assert loaded.batch([1])["input_ids"].tolist() == [[20, 21, 22, 23, 24]]


def test_a_batch_is_padded_to_its_longest():
    batch = Requests.from_features(features(3, 5, 2), pad_id=7).batch([2, 0])
    assert batch["input_ids"].tolist() == [[30, 31, 7], [10, 11, 12]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[2, 2, 0], [0, 0, 0]]
    assert all(array.dtype == np.int64 for array in batch.values())


def test_a_fixed_shape_is_filled_with_real_ids_and_no_padding():
    batch = Requests.from_features(features(3, 2)).shaped(2, 4)
    assert batch["input_ids"].tolist() == [[10, 11, 12, 20], [21, 10, 11, 12]]
    assert batch["attention_mask"].all()


def test_mix_mirrors_the_lengths_of_the_split():
    lengths = np.random.default_rng(0).geometric(0.05, size=2000)
    mix = lengths[length_mix(lengths, 40, seed=0)]
    for percent in (10, 50, 90):
        assert np.percentile(mix, percent) == pytest.approx(np.percentile(lengths, percent), rel=0.12, abs=1)
    assert mix.tolist() != sorted(mix.tolist()), "lengths must change from request to request"


def test_mix_is_the_same_for_the_same_seed_and_never_repeats_a_request():
    lengths = np.arange(100)
    assert length_mix(lengths, 30, seed=1) == length_mix(lengths, 30, seed=1)
    assert length_mix(lengths, 30, seed=1) != length_mix(lengths, 30, seed=2)
    assert len(set(length_mix(lengths, 30, seed=1))) == 30
    assert sorted(length_mix(lengths, 1000, seed=1)) == list(range(100))


def test_batches_hold_every_request_once_and_neighbours_in_length():
    lengths = np.array([9, 1, 8, 2, 7])
    assert sorted_batches(lengths, 2) == [[1, 3], [4, 2], [0]]


def test_spread_batches_span_short_to_long():
    batches = [[i] for i in range(9)]
    assert spread_batches(batches, 1) == [[4]]
    assert spread_batches(batches, 3) == [[1], [4], [7]]
    assert spread_batches(batches, 20) == batches
