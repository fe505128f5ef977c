# SPDX-License-Identifier: Apache-2.0
"""Scores of a session in this process: every request gets its own result in any batch."""

from types import SimpleNamespace

import numpy as np

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.tasks import get_task
from sparse_deploy.evaluation.requests import Requests, answer
from sparse_deploy.evaluation.scoring import score_session


class Echo:
    """Answers with the first token and with the number of real tokens."""

    def __init__(self):
        self.shapes = []

    def run(self, inputs):
        self.shapes.append(inputs["input_ids"].shape)
        first, tokens = inputs["input_ids"][:, 0], inputs["attention_mask"].sum(axis=1)
        return (np.stack([first, tokens], axis=1).astype(np.float32),)


def requests(lengths):
    features = [
        {"input_ids": np.full(n, i), "attention_mask": np.ones(n, int), "token_type_ids": np.zeros(n, int)}
        for i, n in enumerate(lengths)
    ]
    return Requests.from_features(features)


def test_answers_come_in_the_order_of_the_requests():
    lengths = [9, 2, 5, 2, 7, 30, 3]
    session = Echo()
    outputs = answer(session.run, requests(lengths), 3, (False,))
    np.testing.assert_array_equal([output[0] for output in outputs], list(enumerate(lengths)))
    assert sum(shape[0] for shape in session.shapes) == len(lengths)
    assert max(shape[0] for shape in session.shapes) == 3


def test_batches_hold_like_lengths():
    session = Echo()
    answer(session.run, requests([2, 30, 2, 30]), 2, (False,))
    assert sorted(shape[1] for shape in session.shapes) == [2, 30]


def test_scores_are_those_of_the_answers():
    lengths = [3, 1, 4, 1]  # label 1 wins where there are more tokens than the request's number
    encoded = SimpleNamespace(
        name="validation",
        features=[None] * len(lengths),
        examples=[{"id": str(i), "label": int(i % 2 == 0)} for i in range(len(lengths))],
    )
    split = SimpleNamespace(requests=requests(lengths), encoded=encoded)
    score = score_session(Echo(), get_task("sst2"), split, batch_size=2, data=DataSection())
    assert [row["prediction"] for row in score.rows] == [1, 0, 1, 0]
    assert score.metrics["accuracy"] == 1.0
