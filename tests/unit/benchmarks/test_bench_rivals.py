# SPDX-License-Identifier: Apache-2.0
"""Ours against many rivals: the best of them, ratios over rounds, and which rivals go on."""

import pytest
from harness.rivals import Block, best_rival, by_rival, comparable_rounds, contenders, quartiles_ms, speedup

from sparse_deploy.measurement.machine_state import State
from sparse_deploy.measurement.pairing import middle_ms

NEAR_STATE, FAR_STATE = State(30.0, 3.6), State(160.0, 3.6)


def block(rival, turn, ms, state=NEAR_STATE, after=None, foreign=0.0):
    return Block(rival, turn, (ms * 0.9, ms, ms * 1.5), (state, after or state), foreign)


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
    assert comparable_rounds([one for one in blocks if one.contestant == "a"], "ours") == 3
    assert comparable_rounds([], "ours") == 0
