# SPDX-License-Identifier: Apache-2.0
"""Shares rise first in the matrices with the least damage per gain, until the goal is met."""

import pytest
import torch

from sparse_deploy.pruning.allocation import Option, allocate, speed_up, zero_share
from sparse_deploy.pruning.answers import compare_answers

WEIGHTS = {"tough": 100, "frail": 100}


def options(harms: tuple[float, ...], times: tuple[float, ...] = (100, 80, 40)) -> list[Option]:
    shares = (0.0, 0.5, 0.8)
    return [Option(s, h, int(100 * s), t) for s, h, t in zip(shares, harms, times, strict=True)]


def test_the_matrix_that_bears_zeros_better_gets_them_first():
    found = {"tough": options((0.0, 0.1, 0.3)), "frail": options((0.0, 1.0, 5.0))}
    chosen = allocate(found, "zeros", lambda c: zero_share(c, WEIGHTS) >= 0.4)
    assert {name: option.share for name, option in chosen.items()} == {"tough": 0.8, "frail": 0.0}
    chosen = allocate(found, "time", lambda c: speed_up(c, found) >= 1.6)
    assert {name: option.share for name, option in chosen.items()} == {"tough": 0.8, "frail": 0.5}


def test_a_step_that_brings_no_time_is_passed_over():
    found = {"tough": options((0.0, 0.1, 0.3), (100, 100, 50)), "frail": options((0.0, 1.0, 5.0))}
    chosen = allocate(found, "time", lambda c: speed_up(c, found) > 1.0)
    assert chosen["tough"].share == 0.8


def test_a_goal_out_of_reach_gives_nothing():
    found = {"tough": options((0.0, 0.1, 0.3)), "frail": options((0.0, 1.0, 5.0))}
    assert allocate(found, "time", lambda c: speed_up(c, found) >= 2.6) is None


def test_changes_of_answers_by_kind_of_model():
    logits = [torch.tensor([[2.0, 0.0], [0.0, 1.0]])]
    flipped = [torch.tensor([[0.0, 2.0], [0.0, 1.0]])]
    change = compare_answers(logits, flipped, head=True)
    assert (change.drop, change.unit) == (0.5, "other predictions")
    assert change.divergence > 0.5
    assert compare_answers(logits, logits, head=True).divergence == pytest.approx(0.0, abs=1e-6)
    embeddings = compare_answers([torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 2.0]])], head=False)
    assert embeddings.drop == pytest.approx(1.0)
    scores = [torch.tensor([[0.0], [2.0]])]
    assert compare_answers(scores, [torch.tensor([[1.0], [2.0]])], head=True).drop == pytest.approx(0.5)
