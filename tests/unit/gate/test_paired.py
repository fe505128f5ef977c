# SPDX-License-Identifier: Apache-2.0
"""Evidence on accuracies."""

import numpy as np
import pytest
from scipy import stats

from sparse_deploy.errors import ConfigError, DataError
from sparse_deploy.gate.paired import compare_correct, evidence_of_counts, exact_mcnemar


def answers(rows, worse, better, wrong=0):
    """The two arrays with so many rows that got worse, better, and that both answer wrong."""
    baseline, cell = np.ones(rows, dtype=bool), np.ones(rows, dtype=bool)
    cell[:worse] = False
    baseline[worse : worse + better] = False
    baseline[worse + better : worse + better + wrong] = cell[worse + better : worse + better + wrong] = False
    return baseline, cell


def test_counts_and_drop():
    found = compare_correct(*answers(872, 9, 5, wrong=60), margin=0.01, confidence=0.95)
    assert (found.rows, found.changed, found.worse, found.better) == (872, 14, 9, 5)
    assert found.drop == pytest.approx(4 / 872)
    assert found.low < found.drop < found.high


def test_rows_both_answer_wrong_say_nothing():
    assert compare_correct(*answers(300, 5, 3), margin=0.02, confidence=0.9) == compare_correct(
        *answers(300, 5, 3, wrong=200), margin=0.02, confidence=0.9
    )


@pytest.mark.parametrize(
    ("worse", "better", "rows", "verdict"),
    [(2, 2, 872, "pass"), (5, 4, 872, "pass"), (8, 0, 872, None), (20, 12, 872, None), (35, 5, 872, "fail")],
)
def test_verdict_follows_the_bounds(worse, better, rows, verdict):
    found = compare_correct(*answers(rows, worse, better), margin=0.01, confidence=0.95)
    assert (found.p_pass <= 0.05) == (found.high <= 0.01) == (verdict == "pass")
    assert (found.p_fail <= 0.05) == (found.low > 0.01) == (verdict == "fail")
    assert (found.rows_needed is None) == (verdict is not None)


def test_more_confidence_widens():
    usual, strict = (evidence_of_counts(9, 5, 872, margin=0.01, confidence=c) for c in (0.9, 0.999))
    assert strict.low < usual.low
    assert usual.high < strict.high


def test_demanded_improvement():
    assert evidence_of_counts(1, 30, 500, margin=-0.02, confidence=0.95).p_pass <= 0.05
    assert evidence_of_counts(0, 0, 500, margin=-0.02, confidence=0.95).p_fail <= 0.05


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (1, 0), (8, 2), (5, 5), (0, 9), (40, 61)])
def test_mcnemar_is_the_sign_test_of_scipy(worse, better):
    expected = stats.binomtest(worse, worse + better, 0.5).pvalue if worse + better else 1.0
    assert exact_mcnemar(worse, better) == pytest.approx(expected)


def test_method_names_the_test_and_mcnemar():
    method = evidence_of_counts(8, 2, 872, margin=0.01, confidence=0.95).method
    assert "Tango" in method
    assert "exact McNemar p of no change 0.109" in method


@pytest.mark.parametrize(("baseline", "cell"), [([], []), ([True], [True, False])])
def test_rows_that_are_missing_are_refused(baseline, cell):
    with pytest.raises(DataError, match="same rows of both"):
        compare_correct(np.array(baseline, dtype=bool), np.array(cell, dtype=bool), margin=0.01, confidence=0.95)


@pytest.mark.parametrize("margin", [1.0, -1.0, 5.0, float("nan")])
def test_margin_in_points_is_refused(margin):
    with pytest.raises(ConfigError, match=r"a point is 0\.01"):
        compare_correct(*answers(10, 1, 1), margin=margin, confidence=0.95)


def test_single_row_decides_nothing():
    for worse, better in [(0, 0), (1, 0), (0, 1)]:
        found = evidence_of_counts(worse, better, 1, margin=0.01, confidence=0.95)
        assert min(found.p_pass, found.p_fail) > 0.05
