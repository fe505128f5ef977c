# SPDX-License-Identifier: Apache-2.0
"""Percentiles and spread on cases with known answers."""

import math

import pytest

from sparse_deploy.measurement.statistics import (
    UNSTABLE_CV,
    coefficient_of_variation,
    instability,
    percentile,
    summarize_latency,
    summarize_throughput,
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


def test_instability_starts_above_the_limit():
    assert instability("latency", UNSTABLE_CV) == ""
    assert instability("latency", UNSTABLE_CV + 0.05) == "latency differs by 15% between blocks (limit 10%)"
