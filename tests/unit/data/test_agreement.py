# SPDX-License-Identifier: Apache-2.0
"""Without labels a model is scored by the predictions of another one, with the metric of its kind."""

import numpy as np
import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.agreement import ModelAgreement
from sparse_deploy.data.encoded import EncodedSplit
from sparse_deploy.data.metrics import score_split
from sparse_deploy.data.tasks import (
    MultiLabelClassification,
    QuestionAnswering,
    Regression,
    SentenceEmbedding,
    TextClassification,
    TokenClassification,
)
from sparse_deploy.gate.comparison import compare_rows

ROWS = 200
RNG = np.random.default_rng(0)


def split(rows: int = ROWS) -> EncodedSplit:
    features = [{"input_ids": np.arange(5)} for _ in range(rows)]
    return EncodedSplit("texts", features, np.arange(rows), [{"id": n} for n in range(rows)], None)


def outputs(*shapes: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    return [tuple(RNG.normal(size=shape).astype(np.float32) for shape in shapes) for _ in range(ROWS)]


def changed(answers: list[tuple[np.ndarray, ...]], rows: int) -> list[tuple[np.ndarray, ...]]:
    """The same, but for the last answer of some rows, which is turned round."""
    return [(*one[:-1], -one[-1]) if number < rows else one for number, one in enumerate(answers)]


KINDS = [
    (TextClassification("t", labels=("a", "b")), ((2,),), "same_predictions", 0.9),
    (MultiLabelClassification("m", labels=("a", "b", "c")), ((3,),), "same_predictions", 0.9),
    (TokenClassification("n", labels=("O", "B-x")), ((5, 2),), "same_predictions", 0.9),
    (QuestionAnswering("q"), ((5,), (5,)), "same_predictions", 0.9),
    (SentenceEmbedding("e"), ((16,),), "similarity", 0.8),
]


@pytest.mark.parametrize(("task", "shapes", "name", "expected"), KINDS, ids=[kind[0].name for kind in KINDS])
def test_twenty_of_two_hundred_answers_that_differ(task, shapes, name, expected):
    found, first = ModelAgreement(task), outputs(*shapes)
    dense = score_split(found, split(), first)
    same = score_split(found, split(), [tuple(part + 1e-7 for part in one) for one in first])
    other = score_split(found, split(), changed(first, 20))
    assert found.metrics == (name,)
    assert dense.metrics[name] == pytest.approx(1.0)
    assert same.metrics[name] == pytest.approx(1.0)
    assert other.metrics[name] == pytest.approx(expected)

    def verdict(rows, margin):
        tested = compare_rows(found.metric, dense.rows, rows, margin=margin, confidence=0.95, resamples=1000, seed=0)
        return tested.p_pass <= 0.05, tested.p_fail <= 0.05

    assert verdict(same.rows, 0.02) == (True, False)
    assert verdict(same.rows, 0.01) == (False, False)  # 200 texts can't show that less than 1 % differ
    assert verdict(other.rows, (1 - expected) / 4) == (False, True)


def test_numbers_are_compared_by_their_correlation():
    found, first = ModelAgreement(Regression("r")), outputs((1,))
    assert score_split(found, split(), first).metrics == {"pearson": pytest.approx(1.0)}
    other = score_split(found, split(), changed(first, 20))
    assert 0.5 < other.metrics["pearson"] < 0.95
    assert "correlation of the numbers" in found.meaning


def test_predictions_are_named_by_the_model_and_words_may_differ_in_number():
    task = TextClassification("t", labels=("a", "b"), model_labels=("b", "a"))
    assert task.prediction_of((np.array([2.0, 1.0]),)) == "b"
    tagger = ModelAgreement(TokenClassification("n", labels=("O", "B-x")))
    rows = tagger.score(split(2), [(np.eye(2),), (np.ones((3, 2)),)], DataSection()).rows
    assert [row["prediction"] for row in rows] == [["O", "B-x"], ["O", "O", "O"]]
    assert [len(row["logits"]) for row in rows] == [2, 2]
