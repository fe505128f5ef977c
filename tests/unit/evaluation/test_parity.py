# SPDX-License-Identifier: Apache-2.0
"""Parity finds differences and reports no false ones."""

import numpy as np
import pytest

from sparse_deploy.data.tasks import get_task
from sparse_deploy.errors import ParityError
from sparse_deploy.evaluation.parity import Parity, check_parity, parity_batches

LABELS, SCORES, SPANS = get_task("sst2"), get_task("stsb"), get_task("squad")
FEATURES = [
    {name: np.full(tokens, tokens, dtype=np.int64) for name in ("input_ids", "token_type_ids")}
    | {"attention_mask": np.ones(tokens, dtype=np.int64)}
    for tokens in (5, 3, 17, 9, 12)
]


def parity_of(reference, candidate, batches, task, **limits) -> Parity:
    """Parity of two models on some batches."""
    return check_parity([reference(batch) for batch in batches], candidate, batches, task, **limits)


def classifier(batch):
    total = batch["input_ids"].sum(axis=1, keepdims=True).astype(np.float32)
    return (np.concatenate([total, 51 - total], axis=1),)


def spans(batch):
    return batch["input_ids"].astype(np.float32), -batch["input_ids"].astype(np.float32)


def test_batches_hold_the_extremes() -> None:
    batches = parity_batches(FEATURES, 0, usable_length=32)
    shapes = [batch["input_ids"].shape for batch in batches]
    assert shapes[:2] == [(1, 3), (1, 32)]
    assert {rows for rows, _ in shapes} == {1, 3, 8}


def test_one_row_is_as_long_as_the_model_reads_and_all_of_it_is_text() -> None:
    full = parity_batches(FEATURES, 0, usable_length=32)[1]
    assert full["attention_mask"].all()
    assert full["input_ids"].tolist() == [[17] * 17 + [5] * 5 + [3] * 3 + [9] * 7]
    assert parity_batches(FEATURES, 0)[1]["input_ids"].shape == (1, 17)
    assert parity_batches(FEATURES, 0, usable_length=100)[1]["input_ids"].shape == (1, 100)


def test_equal_models_agree() -> None:
    parity = parity_of(classifier, classifier, parity_batches(FEATURES, 0), LABELS, atol=0.0, agreement=1.0)
    assert (parity.max_abs, parity.argmax_agreement, parity.rows) == (0.0, 1.0, 61)


@pytest.mark.parametrize(("shift", "passes"), [(0.9e-4, True), (1.1e-4, False)])
def test_tolerance_binds_just_there(shift: float, passes: bool) -> None:
    def shifted(batch):
        return tuple(np.zeros_like(array) + np.float32(shift) for array in classifier(batch))

    def zero(batch):
        return tuple(np.zeros_like(array) for array in classifier(batch))

    batches = parity_batches(FEATURES, 0)
    if passes:
        assert parity_of(zero, shifted, batches, LABELS, atol=1e-4).max_abs == pytest.approx(shift)
    else:
        with pytest.raises(ParityError, match="differs from PyTorch") as caught:
            parity_of(zero, shifted, batches, LABELS, atol=1e-4)
        assert caught.value.worst == pytest.approx(shift)


def test_not_a_number_never_passes() -> None:
    def broken(batch):
        return tuple(np.full_like(array, np.nan) for array in classifier(batch))

    with pytest.raises(ParityError):
        parity_of(classifier, broken, parity_batches(FEATURES, 0), LABELS)


def test_agreement_counts_predictions() -> None:
    def flipped(batch):
        return tuple(array[:, ::-1] for array in classifier(batch))

    with pytest.raises(ParityError, match=r"0\.0% of 61 predictions"):
        parity_of(classifier, flipped, parity_batches(FEATURES, 0), LABELS, agreement=0.9)


def test_padding_is_no_answer_and_no_difference() -> None:
    def noisy_padding(batch):
        noise = 1000.0 * (1 - batch["attention_mask"])
        return tuple(array + noise.astype(np.float32) for array in spans(batch))

    parity = parity_of(spans, noisy_padding, parity_batches(FEATURES, 0, usable_length=32), SPANS, atol=0.0)
    assert parity.argmax_agreement == 1.0


def test_label_width_that_equals_the_batch_width_is_no_span() -> None:
    """Two labels and two tokens: the second label is not padding of the second token."""
    batch = {"input_ids": np.ones((1, 2), np.int64), "attention_mask": np.array([[1, 0]])}

    def one(batch):
        return (np.array([[0.0, 1.0]], np.float32),)

    def other(batch):
        return (np.array([[0.0, 2.0]], np.float32),)

    assert parity_of(one, other, [batch], LABELS).max_abs == 1.0


def test_scores_agree_within_a_quarter() -> None:
    def score(offset: float):
        return lambda batch: (np.full((len(batch["input_ids"]), 1), offset, np.float32),)

    batches = parity_batches(FEATURES, 0)
    assert parity_of(score(1.0), score(1.2), batches, SCORES).argmax_agreement == 1.0
    assert parity_of(score(1.0), score(1.3), batches, SCORES).argmax_agreement == 0.0


def test_other_shape_is_an_error() -> None:
    with pytest.raises(ParityError, match="shapes"):
        parity_of(classifier, lambda batch: (classifier(batch)[0][:, :1],), parity_batches(FEATURES, 0), LABELS)
