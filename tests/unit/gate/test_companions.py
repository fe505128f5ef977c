# SPDX-License-Identifier: Apache-2.0
"""Agreement and logit difference of hand-made rows, over all splits."""

import math

import pytest

from sparse_deploy.gate.companions import agreement, logit_difference


def rows(*predictions, logits=None):
    return {"": [{"prediction": one} | ({"logits": logits[n]} if logits else {}) for n, one in enumerate(predictions)]}


def test_agreement_counts_equal_predictions():
    assert agreement(rows(0, 1, 1, 0), rows(0, 1, 0, 0)) == 0.75
    assert agreement(rows("Paris", ""), rows("Paris", "the")) == 0.5


def test_agreement_is_over_all_splits():
    both = {**rows(0, 1), "mismatched": rows(1, 1)[""]}
    assert agreement(both, {**rows(0, 1), "mismatched": rows(0, 0)[""]}) == 0.5


def test_agreement_of_real_numbers_means_nothing():
    assert agreement(rows(1.0), rows(1.0)) is None


def test_the_largest_difference_of_any_logit_counts():
    before = rows(0, 1, logits=[[1.0, 2.0], [3.0, 4.0]])
    after = rows(0, 1, logits=[[1.0, 2.25], [2.5, 4.0]])
    assert logit_difference(before, after) == 0.5
    wider = {**before, "mismatched": rows(0, logits=[[0.0, 9.0]])[""]}
    assert logit_difference(wider, {**after, "mismatched": rows(0, logits=[[0.0, 0.0]])[""]}) == 9.0


@pytest.mark.parametrize("other", [rows(0), rows(0, logits=[[1.0, 2.0, 3.0]])])
def test_missing_and_differing_logits_are_no_number(other):
    assert logit_difference(rows(0, logits=[[1.0, 2.0]]), other) is None


def test_a_logit_that_is_no_number_is_not_lost():
    both = {**rows(0, logits=[[math.nan]]), "mismatched": rows(0, logits=[[5.0]])[""]}
    assert math.isnan(logit_difference(both, {**rows(0, logits=[[1.0]]), "mismatched": rows(0, logits=[[1.0]])[""]}))
