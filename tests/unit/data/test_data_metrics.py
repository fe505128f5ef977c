# SPDX-License-Identifier: Apache-2.0
"""Scores against figures worked out by hand, and against the official SQuAD metric's own cases."""

import json
import math

import datasets
import numpy as np
import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.features import EncodedSplit, encode_split
from sparse_deploy.data.metrics import score_split
from sparse_deploy.data.squad import squad_scores
from sparse_deploy.data.tasks import get_task
from sparse_deploy.errors import DataError

LABELS = [1, 1, 1, 0, 0, 0]
PREDICTED = [1, 1, 0, 1, 0, 0]


def labelled(labels):
    examples = [{"id": i, "label": label} for i, label in enumerate(labels)]
    ids = {key: np.ones(3, np.int64) for key in ("input_ids", "attention_mask", "token_type_ids")}
    return EncodedSplit("validation", [ids] * len(labels), np.arange(len(labels)), examples, None)


def outputs(predictions, width=2, high=4.0):
    return [(np.where(np.arange(width) == p, high, 0.0).astype(np.float32),) for p in predictions]


def test_binary_metrics_by_hand():
    score = score_split(get_task("mrpc"), labelled(LABELS), outputs(PREDICTED))
    # 2 true positives, 1 false positive, 1 false negative
    assert score.metrics["accuracy"] == pytest.approx(4 / 6)
    assert score.metrics["precision"] == pytest.approx(2 / 3)
    assert score.metrics["recall"] == pytest.approx(2 / 3)
    assert score.metrics["f1"] == pytest.approx(2 / 3)
    right, wrong = math.log(1 + math.exp(-4)), math.log(1 + math.exp(4))
    assert score.metrics["loss"] == pytest.approx((4 * right + 2 * wrong) / 6)


def test_matthews_by_hand():
    metrics = score_split(get_task("cola"), labelled(LABELS), outputs(PREDICTED)).metrics
    assert metrics["matthews"] == pytest.approx((2 * 2 - 1 * 1) / math.sqrt(3 * 3 * 3 * 3))


def test_rows_are_json_ready_and_in_order():
    score = score_split(get_task("sst2"), labelled(LABELS), outputs(PREDICTED))
    assert json.loads(json.dumps(score.rows)) == score.rows
    assert [row["correct"] for row in score.rows] == [True, True, False, False, True, True]
    assert score.rows[2] == {"id": 2, "label": 1, "prediction": 0, "correct": False, "logits": [4.0, 0.0]}


@pytest.mark.parametrize("task", ["cola", "mrpc"])
def test_metrics_of_all_rows_are_those_of_the_split_and_fewer_rows_can_be_scored(task):
    score = score_split(get_task(task), labelled(LABELS), outputs(PREDICTED))
    assert get_task(task).metrics_of_rows(score.rows) == {k: v for k, v in score.metrics.items() if k != "loss"}
    assert get_task(task).metrics_of_rows(score.rows[:2])["accuracy"] == 1.0


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_score_zero_not_nan(constant):
    for name in ("cola", "mrpc"):
        metrics = score_split(get_task(name), labelled(LABELS), outputs([constant] * 6)).metrics
        assert all(math.isfinite(value) for value in metrics.values())
    assert score_split(get_task("cola"), labelled(LABELS), outputs([constant] * 6)).metrics["matthews"] == 0.0
    flat = [(np.array([2.0]),)] * 3
    assert score_split(get_task("stsb"), labelled([1.0, 2.0, 3.0]), flat).metrics == {
        "pearson": 0.0, "spearman": 0.0, "loss": pytest.approx(2 / 3),
    }  # fmt: skip


def test_huge_logits_keep_the_loss_finite_and_exact():
    score = score_split(get_task("sst2"), labelled([1]), [(np.array([1000.0, 0.0]),)])
    assert score.metrics["loss"] == pytest.approx(1000.0)


def test_three_labels():
    metrics = score_split(get_task("mnli"), labelled([0, 1, 2, 2]), outputs([0, 1, 2, 1], width=3)).metrics
    assert metrics.keys() == {"accuracy", "loss"}
    assert metrics["accuracy"] == 0.75


def test_regression_by_hand():
    score = score_split(get_task("stsb"), labelled([0.0, 1.0, 2.0, 3.0]), [(np.array([v]),) for v in (0, 1, 4, 9)])
    # cov = 1.5 * 0 ...: sum((x-1.5)(y-3.5)) = 15, sum((x-1.5)^2) = 5, sum((y-3.5)^2) = 49
    assert score.metrics["pearson"] == pytest.approx(15 / math.sqrt(5 * 49))
    assert score.metrics["spearman"] == pytest.approx(1.0)
    assert score.metrics["loss"] == pytest.approx((0 + 0 + 4 + 36) / 4)
    assert score.rows[3] == {"id": 3, "label": 3.0, "prediction": 9.0, "score": -36.0, "logits": [9.0]}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (outputs(PREDICTED)[:5], "expected one output for each of 6 features, found 5"),
        (outputs(PREDICTED, width=3), r"expected 2 logits per example, found \[3\]"),
        ([*outputs(PREDICTED)[:5], (np.array([np.nan, 0.0]),)], "feature 5 with NaN"),
        ([*outputs(PREDICTED)[:5], (np.array([np.inf, 0.0]),)], "feature 5 with NaN or infinity"),
        ([*outputs(PREDICTED)[:5], (np.zeros(3),)], r"expected 2 logits per example, found \[2\], \[3\]"),
    ],
)
def test_outputs_that_fit_no_split(answers, message):
    with pytest.raises(DataError, match=message):
        score_split(get_task("sst2"), labelled(LABELS), answers)


@pytest.mark.parametrize(
    ("prediction", "answers", "exact_match", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 100, 100),
        ("Eiffel", ["eiffel tower"], 0, 200 / 3),
        ("the tall tower", ["eiffel tower", "tall tower of Paris"], 0, 200 * (2 / 2) * (2 / 4) / (2 / 2 + 2 / 4) ),
        ("tower tower", ["tower"], 0, 200 / 3),
        ("", ["eiffel tower"], 0, 0),
        ("Paris", ["London", "Paris."], 100, 100),
        ("1,000", ["1000"], 100, 100),
        ("well-known", ["well known"], 0, 0),
    ],
)  # fmt: skip
def test_official_squad_scores_by_hand(prediction, answers, exact_match, f1):
    found = squad_scores(prediction, answers)
    assert found == (pytest.approx(exact_match), pytest.approx(f1, abs=1e-3))


def test_questions_are_scored_per_example_over_their_windows(tokenizer):
    task = get_task("squad")
    context = "the tower was built in paris . " * 3 + "it was good ."
    rows = datasets.Dataset.from_list(
        [
            {"id": "q1", "question": "where", "context": context, "answers": {"text": ["paris"], "answer_start": [23]}},
            {"id": "q2", "question": "who", "context": context, "answers": {"text": ["good"], "answer_start": [100]}},
        ]
    )
    split = encode_split(task, rows, tokenizer, DataSection(max_length=20, doc_stride=4))
    logits = []
    for window, example in zip(split.windows, split.example_of, strict=True):
        start, end = np.zeros(40), np.zeros(40)  # padded after the window, and the padding shouts
        start[len(window.spans) :] = end[len(window.spans) :] = 50.0
        place = window.tokens_of(23, 28) if example == 0 else None
        if place:
            start[place[0]], end[place[1]] = 9.0, 9.0
        logits.append((start, end))
    score = score_split(task, split, logits)
    assert [row["id"] for row in score.rows] == ["q1", "q2"]
    first, second = score.rows
    assert {key: first[key] for key in ("answers", "prediction", "exact_match", "f1")} == {
        "answers": ["paris"], "prediction": "paris", "exact_match": 100.0, "f1": 100.0,
    }  # fmt: skip
    assert first["logits"] == [9.0, 9.0]  # of the context; the padding's 50 don't count
    assert first["paragraph"] == second["paragraph"]
    assert score.rows[1]["exact_match"] == 0.0
    assert score.metrics["exact_match"] == 50.0
    assert json.loads(json.dumps(score.rows)) == score.rows
    with pytest.raises(DataError, match="start and end logits for"):
        score_split(task, split, [(start[:3], end[:3]) for start, end in logits])
