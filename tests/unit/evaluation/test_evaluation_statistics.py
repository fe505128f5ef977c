# SPDX-License-Identifier: Apache-2.0
"""Percentiles, spread and ratios on cases with known answers."""

import math

import numpy as np
import pytest

from sparse_deploy.evaluation.statistics import (
    UNSTABLE_CV,
    coefficient_of_variation,
    instability,
    latency_ratio,
    percentile,
    summarize_latency,
    summarize_throughput,
    throughput_ratio,
)


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        ([15, 20, 35, 40, 50], 5, 15),
        ([15, 20, 35, 40, 50], 30, 20),
        ([15, 20, 35, 40, 50], 40, 20),
        ([15, 20, 35, 40, 50], 50, 35),
        ([15, 20, 35, 40, 50], 100, 50),
        ([3, 1, 2, 4], 50, 2),  # nearest rank takes a sample; interpolation would say 2.5
        (list(range(1, 101)), 99, 99),
        (list(range(1, 101)), 7, 7),  # 100 * 7 / 100 must not climb to rank 8 by a binary fraction
        (list(range(1, 11)), 99, 10),
        ([7.5], 90, 7.5),
    ],
)
def test_percentile_is_nearest_rank(samples, percent, expected):
    assert percentile(samples, percent) == expected


@pytest.mark.parametrize(("samples", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_percentile_refuses_what_has_no_answer(samples, percent):
    with pytest.raises(ValueError, match="expected samples"):
        percentile(samples, percent)


def test_coefficient_of_variation_is_of_the_sample():
    assert coefficient_of_variation([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(math.sqrt(32 / 7) / 5)
    assert coefficient_of_variation([3.0]) == 0.0


def test_latency_figures():
    found = summarize_latency([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    assert found.block_medians_ms == (2.0, 4.0)
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == (2.0, 6.0, 6.0)
    assert found.mean_ms == 3.0
    assert found.requests == 6
    assert found.cv == pytest.approx(math.sqrt(2) / 3)
    assert found.samples_ms == (1.0, 2.0, 3.0, 2.0, 4.0, 6.0)


def test_throughput_weighs_blocks_by_their_time():
    found = summarize_throughput([(100, 1000, 1.0), (100, 1000, 3.0)], batch_size=8)
    assert found.examples_per_second == 50.0
    assert found.tokens_per_second == 500.0
    assert found.blocks == (100.0, pytest.approx(33.333, abs=1e-3))


def test_ratio_of_a_rival_that_is_always_twice_as_fast_has_no_width():
    baseline = [[2.0, 2.2, 2.4], [4.0, 4.2, 4.4], [2.6, 2.8, 3.0]]
    rival = [[ms / 2 for ms in block] for block in baseline]
    found = latency_ratio(baseline, rival, seed=1)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_pairing_cancels_a_slow_spell_that_hit_both():
    drift = [1.0, 3.0, 1.0, 3.0, 1.0, 3.0]
    baseline = [[10.0 * d] * 9 for d in drift]
    rival = [[5.0 * d] * 9 for d in drift]
    paired = latency_ratio(baseline, rival, seed=1)
    assert paired.high - paired.low < 1e-9
    unpaired = latency_ratio(baseline, rival[::-1], seed=1)
    assert unpaired.high - unpaired.low > 1.0, "the same blocks in another order belong together no more"


def test_interval_covers_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        baseline = [3.0 * rng.lognormal(0, 0.05) * rng.lognormal(0, 0.02, 40) for _ in range(12)]
        rival = [rng.lognormal(0, 0.05) * rng.lognormal(0, 0.02, 40) for _ in range(12)]
        found = latency_ratio(baseline, rival, seed=trial)
        hits += found.low <= 3.0 <= found.high
    assert 48 <= hits <= 60


def test_same_seed_same_interval():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(size=(12, 20)), rng.lognormal(size=(12, 20))
    assert latency_ratio(a, b, seed=3) == latency_ratio(a, b, seed=3)
    assert latency_ratio(a, b, seed=3) != latency_ratio(a, b, seed=4)


def test_throughput_ratio():
    found = throughput_ratio([(10, 0, 1.0), (10, 0, 1.0)], [(30, 0, 1.0), (30, 0, 1.0)], seed=0)
    assert (found.value, found.low, found.high) == (3.0, 3.0, 3.0)


def test_unpaired_blocks_are_refused():
    with pytest.raises(ValueError, match="paired"):
        latency_ratio([[1.0], [1.0]], [[1.0]], seed=0)


def test_instability_starts_above_the_limit():
    assert instability("latency", UNSTABLE_CV) == ""
    assert instability("latency", UNSTABLE_CV + 0.05) == "latency differs by 15% between blocks (limit 10%)"
