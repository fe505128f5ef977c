# SPDX-License-Identifier: Apache-2.0
"""Rows of two models as ``SplitScore.rows`` has them, for the tests of the bootstrap."""

import numpy as np

from sparse_deploy.data.tasks import QuestionAnswering, Regression, TextClassification
from sparse_deploy.gate.bootstrap import compare_metric
from sparse_deploy.gate.metric import Metric

METRICS = {**TextClassification.known_metrics, **Regression.known_metrics}


def metric_of(name, rows) -> Metric:
    """SQuAD's metric where the rows have it, else that of labels or numbers."""
    return QuestionAnswering.known_metrics[name] if name in rows[0] else METRICS[name]


def compare(name, baseline, cell, **settings):
    return compare_metric(metric_of(name, cell), baseline, cell, **settings)


def label_rows(rng, rows=400, positive=0.3, wrong=0.12, changed=0.06):
    labels = (rng.random(rows) < positive).astype(int)
    before = np.where(rng.random(rows) < wrong, 1 - labels, labels)
    after = np.where(rng.random(rows) < changed, 1 - before, before)
    return as_label_rows(labels, before), as_label_rows(labels, after)


def as_label_rows(labels, predictions):
    return [
        {"id": str(i), "label": int(label), "prediction": int(answer), "correct": bool(label == answer)}
        for i, (label, answer) in enumerate(zip(labels, predictions, strict=True))
    ]


def score_rows(rng, rows=200, noise=0.4):
    """STS-B's labels: 0 to 5 with many ties."""
    labels = np.round(rng.uniform(0, 5, rows) * 5) / 5
    before = labels + 0.8 * rng.normal(size=rows)
    return as_score_rows(labels, before), as_score_rows(labels, before + noise * rng.normal(size=rows))


def as_score_rows(labels, predictions):
    return [
        {"id": str(i), "label": float(label), "prediction": float(answer), "score": -float((label - answer) ** 2)}
        for i, (label, answer) in enumerate(zip(labels, predictions, strict=True))
    ]


def question_rows(rng, paragraphs=80, changed=0.2):
    """Questions of a paragraph get worse together."""
    clusters = np.repeat(np.arange(paragraphs), 6)
    before = rng.choice([0.0, 50.0, 100.0], size=len(clusters), p=[0.1, 0.1, 0.8])
    after = np.where((rng.random(paragraphs) < changed)[clusters], 0.0, before)
    return as_question_rows(before), as_question_rows(after), [f"paragraph {number}" for number in clusters]


def as_question_rows(scores):
    return [
        {"id": str(i), "prediction": f"answer {score}", "exact_match": 100.0 * (score == 100.0), "f1": float(score)}
        for i, score in enumerate(scores)
    ]


def column(rows, name):
    return np.array([row[name] for row in rows])
