# SPDX-License-Identifier: Apache-2.0
"""The exact paired test: against published values, against brute force, and its error rate by enumeration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from sparse_deploy.gate.score_test import changed_share_set, drop_bound, drop_exceeds_margin, score, set_error_for

ERROR = 1e-4
ALPHA = 0.05


def all_outcomes(rows):
    worse, better = np.meshgrid(np.arange(rows + 1), np.arange(rows + 1))
    inside = worse + better <= rows
    return worse[inside], better[inside]


def probabilities(worse, better, rows, share, drop):
    """Of each outcome when that share changes and the accuracy falls by ``drop``."""
    fall, rise = max((share + drop) / 2, 0.0), max((share - drop) / 2, 0.0)
    ways = special.gammaln(rows + 1) - special.gammaln([worse + 1, better + 1, rows - worse - better + 1]).sum(axis=0)
    same = special.xlogy(rows - worse - better, max(1 - share, 0.0))
    return np.exp(ways + special.xlogy(worse, fall) + special.xlogy(better, rise) + same)


counts = st.integers(1, 60).flatmap(
    lambda rows: st.tuples(st.just(rows), st.integers(0, rows)).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(0, pair[1]))
    )
)  # rows, changed, worse
margins = st.floats(-0.3, 0.3)


@pytest.mark.parametrize(
    ("worse", "better", "rows", "low", "high", "confidence"),
    [
        # Airway hyper-responsiveness, Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33, 2850-2875.
        (1, 7, 21, -0.517, -0.026, 0.95),
        # R, PropCIs::scoreci.mp(25, 28, 618, 0.90).
        (28, 25, 618, -0.0148, 0.0247, 0.90),
    ],
)
def test_statistic_vanishes_into_the_published_tango_interval(worse, better, rows, low, high, confidence):
    quantile = stats.norm.ppf((1 + confidence) / 2)
    assert float(score(worse, better, rows, low)) == pytest.approx(quantile, abs=0.01)
    assert float(score(worse, better, rows, high)) == pytest.approx(-quantile, abs=0.01)


@pytest.mark.parametrize("margin", [0.0, 0.05, -0.2])
@pytest.mark.parametrize(("worse", "better", "rows"), [(0, 0, 14), (3, 5, 24), (4, 0, 20), (10, 0, 10), (0, 1, 1)])
def test_p_value_is_the_largest_tail_over_a_fine_grid(worse, better, rows, margin):
    b, c = all_outcomes(rows)
    extreme = score(b, c, rows, margin) <= float(score(worse, better, rows, margin)) + 1e-9
    low, high = changed_share_set(worse + better, rows, ERROR)
    shares = np.append(np.linspace(low, high, 1500), np.clip(abs(margin), low, high))
    # With fewer changed rows than a demanded rise, the nearest the hypothesis gets is that all of them are better.
    tails = [
        probabilities(b, c, rows, share, max(margin, -share))[extreme].sum() for share in shares if share >= margin
    ]
    found = drop_exceeds_margin(worse, better, rows, margin, set_error=ERROR)
    assert found == pytest.approx(min(1.0, max(tails, default=0.0) + ERROR), abs=3e-4)


@pytest.mark.parametrize(("rows", "margin"), [(12, 0.1), (25, 0.05), (25, 0.0)])
def test_verdicts_are_false_in_at_most_alpha_of_samples(rows, margin):
    worse, better = all_outcomes(rows)
    error = set_error_for(1 - ALPHA)
    passes, fails = (
        np.array(
            [
                drop_exceeds_margin(b, c, rows, sign * margin, set_error=error) <= ALPHA
                for b, c in (zip(worse, better, strict=True) if sign > 0 else zip(better, worse, strict=True))
            ]
        )
        for sign in (1, -1)
    )
    assert passes.any()
    assert fails.any()
    for share in np.linspace(0.0, 1.0, 60):
        for drop in (margin, margin + 0.02, margin + 0.2):
            if drop <= share:
                assert probabilities(worse, better, rows, share, drop)[passes].sum() <= ALPHA
        for drop in (margin, margin - 0.02, -0.2):
            if abs(drop) <= share:
                assert probabilities(worse, better, rows, share, drop)[fails].sum() <= ALPHA


def test_eight_of_872_worse_is_no_proof_of_less_than_a_point():
    # The interval conditional on the 8 changed rows would end at 8 / 872 = 0.92 points and let it pass.
    assert drop_exceeds_margin(8, 0, 872, 0.01, set_error=ERROR) > 0.4
    assert stats.binom.cdf(8, 872, 0.01) > 0.4


def test_nothing_changed_gives_the_rule_of_three():
    bound = drop_bound(0, 0, 1000, 0.01, alpha=ALPHA, set_error=ERROR)
    assert bound == pytest.approx(3 / 1000, rel=0.01)
    assert drop_exceeds_margin(0, 0, 1000, bound, set_error=ERROR) <= ALPHA


@settings(max_examples=60, deadline=None)
@given(counts, margins)
def test_a_row_more_that_got_worse_never_lowers_the_p_value(outcome, margin):
    rows, changed, worse = outcome
    if worse < changed:
        fewer = drop_exceeds_margin(worse, changed - worse, rows, margin, set_error=ERROR)
        more = drop_exceeds_margin(worse + 1, changed - worse - 1, rows, margin, set_error=ERROR)
        assert more >= fewer - 1e-6


@settings(max_examples=40, deadline=None)
@given(counts, margins, st.sampled_from([0.05, 0.01, 0.2]))
def test_bound_and_p_value_agree_at_the_margin(outcome, margin, alpha):
    rows, changed, worse = outcome
    better = changed - worse
    high = drop_bound(worse, better, rows, margin, alpha=alpha, set_error=ERROR)
    low = -drop_bound(better, worse, rows, -margin, alpha=alpha, set_error=ERROR)
    assert (high <= margin) == (drop_exceeds_margin(worse, better, rows, margin, set_error=ERROR) <= alpha)
    assert (low >= margin) == (drop_exceeds_margin(better, worse, rows, -margin, set_error=ERROR) <= alpha)
    assert -1.0 <= low <= (worse - better) / rows <= high <= 1.0


@settings(max_examples=30, deadline=None)
@given(counts)
def test_bound_hardly_depends_on_the_margin_it_was_asked_for(outcome):
    rows, changed, worse = outcome
    bounds = [
        drop_bound(worse, changed - worse, rows, margin, alpha=ALPHA, set_error=ERROR) for margin in (-0.5, 0.01, 0.5)
    ]
    assert np.ptp(bounds) < 0.02


@pytest.mark.parametrize(("worse", "better", "rows"), [(0, 0, 1), (1, 0, 1), (0, 1, 1), (40, 0, 40), (0, 40, 40)])
def test_extreme_outcomes_have_finite_answers(worse, better, rows):
    for margin in (-0.9, 0.0, 0.01, 0.9):
        assert 0.0 <= drop_exceeds_margin(worse, better, rows, margin, set_error=ERROR) <= 1.0
        assert -1.0 <= drop_bound(worse, better, rows, margin, alpha=ALPHA, set_error=ERROR) <= 1.0
