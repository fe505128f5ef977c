# SPDX-License-Identifier: Apache-2.0
"""Bounds from draws against scipy, and p-values as their inversion."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from sparse_deploy.gate.bca import Distribution, acceleration_of, bias_of


def skewed(seed=0, rows=80):
    """A skewed sample with its scipy interval, and the same draws as a Distribution."""
    sample = np.random.default_rng(seed).exponential(size=rows)
    expected = stats.bootstrap(
        (sample,), np.mean, method="BCa", n_resamples=4999, confidence_level=0.9, rng=np.random.default_rng(1)
    )
    left_out = (sample.sum() - sample) / (rows - 1)
    draws = np.sort(expected.bootstrap_distribution)
    found = Distribution(draws, bias_of(draws, sample.mean()), acceleration_of(left_out, np.ones(rows)), 100.0)
    return found, expected


def test_bounds_are_those_of_scipy_on_the_same_draws():
    found, expected = skewed()
    # scipy interpolates between draws, here one of them is taken.
    assert found.low(0.05) == pytest.approx(expected.confidence_interval.low, abs=0.002)
    assert found.high(0.05) == pytest.approx(expected.confidence_interval.high, abs=0.002)
    assert found.acceleration > 0.01


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=30, max_size=80),
    st.floats(-0.5, 0.5),
    st.floats(-0.2, 0.2),
    st.integers(-6, 6),
    st.sampled_from([0.01, 0.05, 0.3]),
)
@example([0] * 38 + [1], 0.0, 0.0, 0, 0.05)  # (n + 1) * alpha is whole: rounding decides
def test_a_bound_meets_the_margin_when_its_p_value_meets_alpha(draws, bias, acceleration, margin, alpha):
    found = Distribution(np.sort(np.array(draws, dtype=float)), bias, acceleration, limit=10.0)
    assert (found.high(alpha) <= margin) == (found.p_exceeds(margin) <= alpha)
    assert (found.low(alpha) > margin) == (found.p_within(margin) <= alpha)


def test_p_values_turn_into_each_other_when_mirrored():
    found, _ = skewed()
    mirrored = Distribution(-found.draws[::-1], -found.bias, -found.acceleration, found.limit)
    assert mirrored.p_exceeds(-1.05) == pytest.approx(found.p_within(1.05))
    assert mirrored.high(0.05) == -found.low(0.05)


def test_without_bias_and_acceleration_it_is_the_percentile_bootstrap():
    draws = np.arange(1.0, 100.0)
    found = Distribution(draws, 0.0, 0.0, limit=1000.0)
    assert (found.low(0.05), found.high(0.05)) == (5.0, 95.0)
    assert found.p_exceeds(95.0) == pytest.approx(0.05)
    assert found.p_within(4.0) == pytest.approx(0.05)
    assert found.p_within(3.0) == pytest.approx(0.04)


def test_too_few_draws_for_a_confidence_leave_the_limit():
    found = Distribution(np.arange(50.0), 0.0, 0.0, limit=1000.0)
    assert (found.low(0.001), found.high(0.001)) == (-1000.0, 1000.0)
    assert found.p_exceeds(1000.0) > 0.001


def test_equal_draws_have_neither_bias_nor_acceleration():
    assert bias_of(np.zeros(100), 0.0) == 0.0
    assert acceleration_of(np.zeros(10), np.ones(10)) == 0.0
