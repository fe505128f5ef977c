# SPDX-License-Identifier: Apache-2.0
"""How many rows would decide."""

import pytest

from sparse_deploy.gate.paired import evidence_of_counts
from sparse_deploy.gate.rows_needed import rows_needed_for_accuracy, rows_needed_for_metric


@pytest.mark.parametrize(
    ("worse", "better", "rows", "margin"),
    [(5, 4, 872, 0.005), (0, 0, 277, 0.01), (14, 4, 408, 0.01), (6, 0, 277, 0.01)],
)
def test_the_test_decides_with_that_many_rows(worse, better, rows, margin):
    needed = evidence_of_counts(worse, better, rows, margin=margin, confidence=0.95).rows_needed
    assert needed is not None
    assert needed > rows
    scale = needed / rows
    there = evidence_of_counts(round(worse * scale), round(better * scale), needed, margin=margin, confidence=0.95)
    half = evidence_of_counts(
        round(worse * scale / 2), round(better * scale / 2), needed // 2, margin=margin, confidence=0.95
    )
    assert min(there.p_pass, there.p_fail) <= 0.055
    assert min(half.p_pass, half.p_fail) > 0.05


def test_none_once_decided():
    assert evidence_of_counts(0, 0, 872, margin=0.01, confidence=0.95).rows_needed is None
    assert evidence_of_counts(60, 0, 872, margin=0.01, confidence=0.95).rows_needed is None


@pytest.mark.parametrize(("worse", "rows", "margin"), [(10, 1000, 0.01), (0, 1000, 0.0), (10001, 1_000_000, 0.01)])
def test_none_when_the_drop_is_the_margin(worse, rows, margin):
    found = evidence_of_counts(1, 0, 100, margin=0.5, confidence=0.95).model_copy(
        update={"worse": worse, "better": 0, "changed": worse, "rows": rows, "drop": worse / rows}
    )
    assert rows_needed_for_accuracy(found, margin=margin, alpha=0.05) is None


def test_a_stricter_test_needs_more():
    found = evidence_of_counts(5, 4, 872, margin=0.005, confidence=0.95)
    usual, strict = (rows_needed_for_accuracy(found, margin=0.005, alpha=alpha) for alpha in (0.05, 0.005))
    assert usual < strict


def test_metric_width_shrinks_with_the_root():
    found = evidence_of_counts(5, 4, 872, margin=0.005, confidence=0.95).model_copy(
        update={"drop": 0.0, "low": -0.02, "high": 0.02, "rows": 400}
    )
    assert rows_needed_for_metric(found, margin=0.01, alpha=0.05) == 1600
    assert rows_needed_for_metric(found, margin=0.0001, alpha=0.05) is None  # 16 million
    assert rows_needed_for_metric(found, margin=0.0, alpha=0.05) is None
    # Nothing changed: the width is that of one pseudo-example.
    assert rows_needed_for_metric(found.model_copy(update={"changed": 0}), margin=0.01, alpha=0.05) == 800
