# SPDX-License-Identifier: Apache-2.0
"""Holm's correction against statsmodels, and its error rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_deploy.gate.holm import holm

p_lists = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        # statsmodels 0.15.0, multipletests(raw, method="holm")
        ([0.01, 0.04, 0.03, 0.005, 0.2], [0.04, 0.09, 0.09, 0.025, 0.2]),
        ([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278], [0.0006, 0.002, 0.0076, 0.0285, 0.0402, 0.0402]),
        ([0.7], [0.7]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([], []),
    ],
)
def test_known_values(raw, adjusted):
    assert holm(raw) == pytest.approx(adjusted)


@given(p_lists)
def test_never_below_the_raw_value_and_between_bonferroni(raw):
    for before, after in zip(raw, holm(raw), strict=True):
        assert before <= after <= min(1.0, before * len(raw) + 1e-12)


@given(p_lists, st.randoms())
def test_order_of_the_gates_does_not_matter(raw, random):
    shuffled = list(range(len(raw)))
    random.shuffle(shuffled)
    assert holm([raw[i] for i in shuffled]) == tuple(holm(raw)[i] for i in shuffled)


def test_any_false_rejection_stays_rare_and_uncorrected_does_not():
    p_values = np.random.default_rng(0).random((4000, 5))
    corrected = np.mean([min(holm(row)) <= 0.05 for row in p_values])
    assert corrected <= 0.062  # 0.05 and three and a half standard errors
    assert np.mean(p_values.min(axis=1) <= 0.05) > 0.2


@pytest.mark.parametrize("wrong", [[-0.1], [1.1], [float("nan")]])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(wrong)
