# SPDX-License-Identifier: Apache-2.0
"""Which blocks count: like is compared with like, disturbed blocks count for nobody, intervals cover the truth."""

from statistics import median

import numpy as np
import pytest

from sparse_deploy.measurement.machine_state import FAR, MIXED, NEAR, UNKNOWN, State, disturbed, label
from sparse_deploy.measurement.pairing import Block, clean_blocks, counted_blocks, paired_ratio, ratio_over_rounds

NEAR_STATE, FAR_STATE, BLIND = State(30.0, 3.6), State(160.0, 3.6), State(None, None)


def block(name, turn, ms=10.0, state=NEAR_STATE, after=None, foreign=0.0):
    return Block(name, turn, (ms * 0.9, ms, ms * 1.5), (state, after or state), foreign)


def test_the_label_is_that_of_both_looks():
    assert label([NEAR_STATE, NEAR_STATE]) == NEAR
    assert label([FAR_STATE]) == FAR
    assert label([NEAR_STATE, FAR_STATE]) == MIXED
    assert label([NEAR_STATE, State(None, 3.6)]) == UNKNOWN
    assert label([]) == UNKNOWN


def test_a_block_is_disturbed_when_the_work_rate_dropped_at_either_end():
    assert disturbed([State(30.0, 3.6), State(30.0, 1.8)], 3.6)
    assert not disturbed([State(30.0, 3.6), State(30.0, 3.45)], 3.6)
    assert not disturbed([State(30.0, None)], 3.6)


def test_blocks_are_parted_by_label_and_bad_ones_left_out():
    blocks = [
        block("a", 0),
        block("a", 1, state=FAR_STATE),
        block("a", 2, after=FAR_STATE),
        block("a", 3, foreign=0.5),
        block("a", 4, state=State(30.0, 1.8)),
    ]
    clean = clean_blocks(blocks)
    assert {name: [one.turn for one in found] for name, found in clean.items()} == {NEAR: [0], FAR: [1]}


def test_without_a_probe_all_undisturbed_blocks_are_alike():
    clean = clean_blocks([block("a", 0, state=BLIND), block("a", 1, state=BLIND, foreign=0.9)])
    assert [one.turn for one in clean[UNKNOWN]] == [0]


def test_the_commoner_label_makes_the_figures_and_the_rest_is_counted():
    blocks = [
        *(block("a", turn) for turn in range(4)),
        *(block("a", turn, state=FAR_STATE) for turn in (4, 5)),
        block("a", 6, foreign=0.5),
        block("a", 7, after=FAR_STATE),
    ]
    counted = counted_blocks(blocks)["a"]
    assert [one.turn for one in counted.blocks] == [0, 1, 2, 3]
    conditions = counted.conditions
    assert (conditions.cores, conditions.measured, conditions.counted) == (NEAR, 8, 4)
    assert (conditions.disturbed, conditions.moved) == (1, 3)


def test_a_contestant_without_clean_blocks_keeps_all_and_says_so():
    blocks = [*(block("a", turn) for turn in range(4)), *(block("b", turn, foreign=0.5) for turn in range(4))]
    found = counted_blocks(blocks)
    conditions = found["b"].conditions
    assert (conditions.counted, conditions.measured, conditions.disturbed) == (4, 4, 4)
    # Pairs are then those of all rounds.
    assert ratio_over_rounds(found["a"], found["b"], median, seed=0).value == 1.0


def test_the_ratio_is_over_the_rounds_in_which_both_count():
    a = [block("a", turn, ms) for turn, ms in enumerate([20.0, 20.0, 500.0, 20.0])]
    b = [block("b", turn, 10.0, foreign=0.5 * (turn == 2)) for turn in range(4)]
    found = counted_blocks([*a, *b])
    ratio = ratio_over_rounds(found["a"], found["b"], median, seed=0)
    assert (ratio.low, ratio.value, ratio.high) == (2.0, 2.0, 2.0)


def test_drift_that_both_share_leaves_a_narrow_interval():
    drift = np.linspace(1.0, 2.0, 12)
    ratio = paired_ratio(dict(enumerate(25.0 * drift)), dict(enumerate(10.0 * drift)))
    assert (ratio.low, ratio.high) == (pytest.approx(2.5), pytest.approx(2.5))


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_claims():
    random = np.random.default_rng(5)
    covered = 0
    for seed in range(100):
        noise = random.normal(1.0, 0.05, (2, 12))
        ratio = paired_ratio(dict(enumerate(20.0 * noise[0])), dict(enumerate(10.0 * noise[1])), seed=seed)
        covered += ratio.low <= 2.0 <= ratio.high
    assert covered >= 85


def test_the_same_seed_gives_the_same_interval():
    random = np.random.default_rng(0)
    a, b = (dict(enumerate(random.lognormal(size=12))) for _ in range(2))
    assert paired_ratio(a, b, seed=3) == paired_ratio(a, b, seed=3)


def test_no_common_round_has_no_ratio():
    assert paired_ratio({0: 1.0}, {1: 1.0}) is None
