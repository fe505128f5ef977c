# SPDX-License-Identifier: Apache-2.0
"""Figures from blocks: like is compared with like, disturbed blocks count for nobody, intervals cover the truth."""

import numpy as np
import pytest
from harness.machine_state import FAR, MIXED, NEAR, UNKNOWN, State, busy_seconds, disturbed, label
from harness.pairing import (
    Block,
    best_rival,
    by_rival,
    clean_blocks,
    comparable_rounds,
    contenders,
    middle_ms,
    quartiles_ms,
    speedup,
)

NEAR_STATE, FAR_STATE = State(30.0, 3.6), State(160.0, 3.6)


def block(rival, turn, ms, state=NEAR_STATE, after=None, foreign=0.0):
    return Block(rival, turn, (ms * 0.9, ms, ms * 1.5), (state, after or state), foreign)


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


def test_the_machine_counts_its_busy_time_up():
    before = busy_seconds()
    sum(i * i for i in range(3_000_000))
    assert busy_seconds() > before


def test_blocks_are_parted_by_label_and_bad_ones_left_out():
    blocks = [
        block("ours", 0, 10.0),
        block("ours", 1, 20.0, FAR_STATE),
        block("ours", 2, 15.0, NEAR_STATE, FAR_STATE),
        block("ours", 3, 11.0, foreign=0.5),
        block("ours", 4, 19.0, State(30.0, 1.8)),
    ]
    clean = clean_blocks(blocks)
    assert {name: [one.turn for one in found] for name, found in clean.items()} == {NEAR: [0], FAR: [1]}


def test_without_a_probe_all_undisturbed_blocks_are_alike():
    blind = State(None, None)
    clean = clean_blocks([block("ours", 0, 10.0, blind), block("ours", 1, 10.0, blind, foreign=0.9)])
    assert [one.turn for one in clean[UNKNOWN]] == [0]


def test_speedup_is_the_middle_of_the_rounds_ratios():
    ours = [block("ours", turn, ms) for turn, ms in enumerate([10.0, 20.0, 10.0])]
    rival = [block("rival", turn, ms) for turn, ms in enumerate([20.0, 50.0, 30.0])]
    ratio = speedup(ours, rival)
    assert ratio.value == pytest.approx(2.5)
    assert ratio.rounds == 3
    assert ratio.low == pytest.approx(2.0)
    assert ratio.high == pytest.approx(3.0)


def test_only_rounds_that_hold_both_are_paired():
    ours = [block("ours", turn, 10.0) for turn in (0, 2)]
    rival = [block("rival", turn, ms) for turn, ms in ((1, 90.0), (2, 30.0))]
    assert speedup(ours, rival).value == pytest.approx(3.0)
    assert speedup(ours, rival[:1]) is None


def test_drift_that_both_share_leaves_a_narrow_interval():
    drift = np.linspace(1.0, 2.0, 12)
    ours = [block("ours", turn, 10.0 * factor) for turn, factor in enumerate(drift)]
    rival = [block("rival", turn, 25.0 * factor) for turn, factor in enumerate(drift)]
    ratio = speedup(ours, rival)
    assert (ratio.low, ratio.high) == (pytest.approx(2.5), pytest.approx(2.5))


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_claims():
    random = np.random.default_rng(5)
    covered = 0
    for seed in range(100):
        noise = random.normal(1.0, 0.05, (2, 12))
        ours = [block("ours", turn, 10.0 * factor) for turn, factor in enumerate(noise[0])]
        rival = [block("rival", turn, 20.0 * factor) for turn, factor in enumerate(noise[1])]
        ratio = speedup(ours, rival, seed=seed)
        covered += ratio.low <= 2.0 <= ratio.high
    assert covered >= 85


def test_medians_and_quartiles():
    blocks = [block("ours", 0, 10.0), block("ours", 1, 12.0), block("ours", 2, 20.0)]
    assert middle_ms(blocks) == 12.0
    assert quartiles_ms(blocks) == (10.8, 18.0)


def test_the_best_rival_is_never_ours():
    blocks = by_rival([block("ours", 0, 1.0), block("slow", 0, 9.0), block("fast", 0, 5.0)])
    assert best_rival(blocks, "ours") == "fast"
    assert best_rival({"ours": blocks["ours"]}, "ours") is None


def test_ours_in_another_runtime_is_no_rival_and_stays_in_every_round():
    blocks = [
        block(name, turn, ms) for turn in range(2) for name, ms in (("ours", 9.0), ("ours_openvino", 1.0), ("a", 10.0))
    ]
    assert best_rival(by_rival(blocks), "ours") == "a"
    assert contenders(blocks, "ours", 1.05) == ["ours", "ours_openvino", "a"]


def test_rivals_far_behind_drop_out_and_two_always_stay():
    blocks = [block(name, 0, ms) for name, ms in (("ours", 10.0), ("a", 30.0), ("b", 33.0), ("c", 90.0), ("d", 36.0))]
    assert contenders(blocks, "ours", 1.25) == ["ours", "a", "b", "d"]
    assert contenders(blocks, "ours", 1.05) == ["ours", "a", "b"]


def test_a_rival_is_judged_within_one_label():
    # "b" was measured only when all were slow; the near block of "a" says nothing about it.
    blocks = [block("a", 0, 30.0), block("c", 0, 31.0), block("a", 1, 60.0, FAR_STATE), block("b", 1, 62.0, FAR_STATE)]
    assert set(contenders(blocks, "ours", 1.25)) == {"a", "b", "c"}


def test_a_disturbed_block_alone_drops_nobody_who_may_be_the_best():
    blocks = [block("a", 0, 30.0), block("b", 0, 55.0, foreign=0.5), block("c", 0, 31.0), block("d", 0, 200.0)]
    assert set(contenders(blocks, "ours", 1.25)) == {"a", "b", "c"}


def test_a_lone_clean_block_does_not_keep_a_rival_far_behind():
    blocks = [*(block(name, 0, ms, foreign=0.5) for name, ms in (("a", 4.0), ("b", 4.2))), block("slow", 0, 40.0)]
    assert set(contenders(blocks, "ours", 1.25)) == {"a", "b"}


def test_comparable_rounds_count_ours_and_the_best_under_the_commoner_label():
    blocks = [
        *(block(name, turn, ms) for turn in range(3) for name, ms in (("ours", 10.0), ("a", 20.0))),
        *(block(name, turn, ms, FAR_STATE) for turn in range(3, 5) for name, ms in (("ours", 15.0), ("a", 40.0))),
        block("ours", 6, 10.0),
    ]
    assert comparable_rounds(blocks, "ours") == 3
    assert comparable_rounds([one for one in blocks if one.rival == "a"], "ours") == 3
    assert comparable_rounds([], "ours") == 0
