# SPDX-License-Identifier: Apache-2.0
"""Descriptions of public data: eight tasks of GLUE, SQuAD v1.1 and v2, and the embedded demo."""

from sparse_deploy.data.tasks.base import Task
from sparse_deploy.data.tasks.question_answering import QuestionAnswering
from sparse_deploy.data.tasks.regression import Regression
from sparse_deploy.data.tasks.text_classification import TextClassification
from sparse_deploy.errors import ConfigError

_GLUE = "nyu-mll/glue"
_BINARY_METRICS = ("accuracy", "f1", "precision", "recall")
_ENTAILMENT = ("entailment", "not_entailment")
_SENTIMENT = ("negative", "positive")


def _glue(name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str) -> Task:
    return TextClassification(name, columns, labels, metrics, hub_dataset=_GLUE, hub_config=name)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews", "accuracy"),
        _glue("sst2", ("sentence",), _SENTIMENT),
        _glue("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), *_BINARY_METRICS),
        Regression("stsb", ("sentence1", "sentence2"), lowest=0.0, highest=5.0, hub_dataset=_GLUE, hub_config="stsb"),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), *_BINARY_METRICS),
        TextClassification(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            validation_splits={"": "validation_matched", "mismatched": "validation_mismatched"},
            hub_dataset=_GLUE,
            hub_config="mnli",
        ),
        _glue("qnli", ("question", "sentence"), _ENTAILMENT),
        _glue("rte", ("sentence1", "sentence2"), _ENTAILMENT),
        QuestionAnswering("squad", hub_dataset="rajpurkar/squad"),
        QuestionAnswering("squad_v2", unanswerable=True, hub_dataset="rajpurkar/squad_v2"),
        TextClassification("demo", ("sentence",), _SENTIMENT),
    )
}


def get_task(name: str) -> Task:
    """A task by name.

    Raises:
        ConfigError: unknown name.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise ConfigError(f"unknown task {name!r}; expected one of: {', '.join(TASKS)}") from None
