# SPDX-License-Identifier: Apache-2.0
"""Evidence on F1, Matthews, correlations and SQuAD's metrics."""

import numpy as np
import pytest
from paired_rows import as_label_rows, as_question_rows, as_score_rows, column, label_rows, question_rows, score_rows
from paired_rows import compare as compare_metric
from scipy import stats
from sklearn import metrics

from sparse_deploy.errors import DataError

SETTINGS = {"confidence": 0.95, "resamples": 2000, "seed": 0}
LABEL_METRICS = {
    "f1": metrics.f1_score,
    "precision": metrics.precision_score,
    "recall": metrics.recall_score,
    "matthews": metrics.matthews_corrcoef,
}
CORRELATIONS = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}


@pytest.mark.parametrize("metric", LABEL_METRICS)
def test_drop_of_a_label_metric_is_that_of_scikit_learn(metric):
    baseline, cell = label_rows(np.random.default_rng(1))
    labels, scorer = column(cell, "label"), LABEL_METRICS[metric]
    expected = scorer(labels, column(baseline, "prediction")) - scorer(labels, column(cell, "prediction"))
    found = compare_metric(metric, baseline, cell, margin=0.02, **SETTINGS)
    assert found.drop == pytest.approx(expected)
    assert found.low < found.drop < found.high
    assert (
        found.changed
        == found.worse + found.better
        == np.sum(column(baseline, "prediction") != column(cell, "prediction"))
    )


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_correlation_and_its_interval_are_those_of_scipy(metric):
    baseline, cell = score_rows(np.random.default_rng(2))
    labels, before, after = column(cell, "label"), column(baseline, "prediction"), column(cell, "prediction")

    def drop(labels, before, after):
        return CORRELATIONS[metric](labels, before).statistic - CORRELATIONS[metric](labels, after).statistic

    expected = stats.bootstrap(
        (labels, before, after), drop, paired=True, vectorized=False, method="BCa", n_resamples=2000,
        confidence_level=0.9, rng=np.random.default_rng(0),
    )  # fmt: skip
    found = compare_metric(metric, baseline, cell, margin=0.02, **SETTINGS)
    assert found.drop == pytest.approx(drop(labels, before, after))
    # A bound of 2,000 draws at 95 % has a standard error of about 0.05 standard errors of the drop.
    tolerance = 0.2 * expected.standard_error
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=tolerance)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=tolerance)


def test_interval_of_f1_is_that_of_scipy_or_wider_by_the_guard():
    baseline, cell = label_rows(np.random.default_rng(3), rows=3000)
    arrays = column(cell, "label"), column(baseline, "prediction"), column(cell, "prediction")

    def f1(labels, answers):
        return 2 * np.sum(labels * answers, axis=-1) / (np.sum(labels, axis=-1) + np.sum(answers, axis=-1))

    expected = stats.bootstrap(
        arrays, lambda labels, before, after, axis: f1(labels, before) - f1(labels, after), paired=True, method="BCa",
        vectorized=True, n_resamples=2000, confidence_level=0.9, rng=np.random.default_rng(0), batch=200,
    )  # fmt: skip
    found = compare_metric("f1", baseline, cell, margin=0.02, **SETTINGS)
    one_row = 1 / np.sum(arrays[0])
    tolerance = 0.2 * expected.standard_error
    assert -2 * one_row - tolerance < found.low - expected.confidence_interval.low < tolerance
    assert -tolerance < found.high - expected.confidence_interval.high < 2 * one_row + tolerance


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman"])
def test_bounds_and_p_values_agree(metric):
    rows = label_rows if metric in LABEL_METRICS else score_rows
    baseline, cell = rows(np.random.default_rng(4))
    at_zero = compare_metric(metric, baseline, cell, margin=0.0, **SETTINGS)
    for margin in np.linspace(at_zero.low - 0.01, at_zero.high + 0.01, 25):
        found = compare_metric(metric, baseline, cell, margin=float(margin), **SETTINGS)
        assert (found.p_pass <= 0.05) == (found.high <= margin)
        assert (found.p_fail <= 0.05) == (found.low > margin)
        assert min(found.p_pass, found.p_fail) > 0.05 or found.rows_needed is None


def test_p_values_fall_with_the_margin():
    baseline, cell = label_rows(np.random.default_rng(5))
    found = [compare_metric("f1", baseline, cell, margin=margin, **SETTINGS) for margin in np.linspace(-0.1, 0.2, 12)]
    assert np.all(np.diff([evidence.p_pass for evidence in found]) <= 0.0)
    assert np.all(np.diff([evidence.p_fail for evidence in found]) >= 0.0)


def test_paragraphs_that_fail_as_a_whole_widen_the_interval():
    baseline, cell, clusters = question_rows(np.random.default_rng(6))
    drawn = compare_metric("f1", baseline, cell, margin=5.0, clusters=clusters, **SETTINGS)
    ignored = compare_metric("f1", baseline, cell, margin=5.0, **SETTINGS)
    assert drawn.drop == ignored.drop == pytest.approx(np.mean(column(baseline, "f1") - column(cell, "f1")))
    assert drawn.high - drawn.low > 1.8 * (ignored.high - ignored.low)  # six alike questions: the root of 6 is 2.4
    assert "80 clusters" in drawn.method


def test_clusters_of_one_row_are_no_clusters():
    baseline, cell, _ = question_rows(np.random.default_rng(7))
    names = [str(number) for number in range(len(cell))]
    drawn = compare_metric("exact_match", baseline, cell, margin=5.0, clusters=names, **SETTINGS)
    plain = compare_metric("exact_match", baseline, cell, margin=5.0, **SETTINGS)
    assert (drawn.low, drawn.high, drawn.p_pass) == pytest.approx((plain.low, plain.high, plain.p_pass))


def test_same_seed_same_evidence():
    baseline, cell = label_rows(np.random.default_rng(8))
    first, again, other = (
        compare_metric("f1", baseline, cell, margin=0.02, confidence=0.95, resamples=2000, seed=seed)
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first.p_pass != other.p_pass
    assert first.high == pytest.approx(other.high, abs=0.01)


def test_nothing_changed_is_no_certainty_but_the_rule_of_three():
    rows = as_question_rows(np.full(1000, 100.0))
    found = compare_metric("f1", rows, rows, margin=0.2, **SETTINGS)
    assert (found.drop, found.changed) == (0.0, 0)
    assert found.high == pytest.approx(300 / 1001, rel=0.01)
    assert found.low == -found.high
    assert found.p_pass > 0.05
    assert found.rows_needed == pytest.approx(1500, rel=0.05)


@pytest.mark.parametrize("metric", LABEL_METRICS)
def test_guard_counts_the_rarer_class(metric):
    labels = np.array([1] * 20 + [0] * 980)
    rows = as_label_rows(labels, labels)
    found = compare_metric(metric, rows, rows, margin=0.02, **SETTINGS)
    # One of the twenty lost is 5 points of recall, and three are possible.
    assert found.high > 0.05
    assert found.p_pass > 0.05


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_same_scores_up_to_float_noise_are_guarded_and_scattered_ones_are_not(metric):
    rng = np.random.default_rng(9)
    labels = rng.normal(size=300)
    before = labels + 0.5 * rng.normal(size=300)
    same = compare_metric(
        metric, as_score_rows(labels, before), as_score_rows(labels, before * (1 + 1e-6)), margin=0.001, **SETTINGS
    )
    assert same.changed == 0
    assert "replaced by the mean" in same.method
    assert same.p_pass > 0.05
    scattered = compare_metric(
        metric, as_score_rows(labels, before), as_score_rows(labels, before + 0.05 * rng.normal(size=300)), margin=0.02,
        **SETTINGS,
    )  # fmt: skip
    assert scattered.changed > 280
    assert "guarded" not in scattered.method
    assert scattered.p_pass <= 0.05


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_constant_predictions_score_nothing(metric):
    rng = np.random.default_rng(10)
    labels = rng.normal(size=100)
    good, constant = as_score_rows(labels, labels + 0.1 * rng.normal(size=100)), as_score_rows(labels, np.ones(100))
    found = compare_metric(metric, good, constant, margin=0.01, **SETTINGS)
    assert found.drop == pytest.approx(1.0, abs=0.03)
    assert found.p_fail <= 0.05


@pytest.mark.parametrize(
    ("metric", "rows"),
    [
        ("f1", as_label_rows([1], [1])),
        ("matthews", as_label_rows([0, 0, 0], [0, 0, 0])),
        ("precision", as_label_rows([1, 1], [0, 0])),
        ("pearson", as_score_rows([1.0], [2.0])),
        ("spearman", as_score_rows([1.0, 1.0], [2.0, 3.0])),
        ("exact_match", as_question_rows([100.0])),
    ],
)
def test_degenerate_samples_are_inconclusive(metric, rows):
    margin = 1.0 if metric == "exact_match" else 0.01
    found = compare_metric(metric, rows, rows, margin=margin, **SETTINGS)
    assert found.drop == 0.0
    assert np.isfinite([found.low, found.high, found.p_pass, found.p_fail]).all()
    assert found.p_fail > 0.05


def test_more_rows_are_named_than_there_are():
    baseline, cell = label_rows(np.random.default_rng(12), changed=0.02)
    found = compare_metric("f1", baseline, cell, margin=0.04, **SETTINGS)
    assert min(found.p_pass, found.p_fail) > 0.05
    assert found.rows_needed > found.rows


@pytest.mark.parametrize(
    ("metric", "change", "message"),
    [
        ("f1", lambda rows: rows[:-1], "same examples"),
        ("f1", lambda rows: rows[::-1], "same examples"),
        ("f1", lambda rows: [{**row, "prediction": 2} for row in rows], "two labels 0 and 1"),
        ("accuracy", lambda rows: rows, "an exact test"),
        ("pearson", lambda rows: [{**row, "prediction": float("nan")} for row in rows], "finite"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(metric, change, message):
    baseline, cell = label_rows(np.random.default_rng(11))
    with pytest.raises(DataError, match=message):
        compare_metric(metric, baseline, change(cell), margin=0.01, **SETTINGS)


def test_clusters_must_fit():
    baseline, cell, clusters = question_rows(np.random.default_rng(11))
    with pytest.raises(DataError, match="a cluster per row"):
        compare_metric("f1", baseline, cell, margin=0.01, clusters=clusters[1:], **SETTINGS)
    labelled, after = label_rows(np.random.default_rng(11))
    with pytest.raises(DataError, match="only means of a value per row are clustered"):
        compare_metric("f1", labelled, after, margin=0.01, clusters=["one"] * len(after), **SETTINGS)
