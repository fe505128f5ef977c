# SPDX-License-Identifier: Apache-2.0
"""The tasks: eight of GLUE, SQuAD v1.1 and the embedded demo, with their columns, labels and metrics."""

from dataclasses import dataclass, field
from enum import StrEnum

from sparse_deploy.architectures.architecture import MODEL_INPUTS as MODEL_INPUTS  # what tokenizers give
from sparse_deploy.errors import ConfigError


class TaskKind(StrEnum):
    """What a model answers; the values are Hugging Face's pipeline names where one exists."""

    CLASSIFICATION = "text-classification"
    REGRESSION = "regression"
    QUESTION_ANSWERING = "question-answering"


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as in a recipe and as the folder of local data.
        kind: what the model answers.
        text_columns: one or two columns that become the model's input, in order.
        labels: label names in the order of their ids, as the hub's data set has them; empty unless a classification.
        metrics: what :func:`sparse_deploy.data.metrics.score_split` computes besides ``loss``.
        primary_metric: the one of a table's accuracy column.
        train_split: name of the training split.
        validation_splits: suffix of a metric's name to split name; ``""`` is the main one.
        hub_dataset: data set on the hub; empty for the embedded text.
        hub_config: its configuration.
    """

    name: str
    kind: TaskKind
    text_columns: tuple[str, ...]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    primary_metric: str = "accuracy"
    train_split: str = "train"
    validation_splits: dict[str, str] = field(default_factory=lambda: {"": "validation"})
    hub_dataset: str = "nyu-mll/glue"
    hub_config: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that a row must have."""
        if self.kind is TaskKind.QUESTION_ANSWERING:
            return ("id", *self.text_columns, "answers")
        return (*self.text_columns, "label")

    @property
    def num_outputs(self) -> int:
        """Width of the model's head: labels of a classification, 1 for regression, 2 (start, end) for SQuAD."""
        widths = {TaskKind.REGRESSION: 1, TaskKind.QUESTION_ANSWERING: 2}
        return widths.get(self.kind, len(self.labels))


_BINARY_METRICS = ("accuracy", "f1", "precision", "recall")
_ENTAILMENT = ("entailment", "not_entailment")


def _glue(name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str) -> Task:
    metrics = metrics or ("accuracy",)
    return Task(
        name, TaskKind.CLASSIFICATION, columns, labels, metrics=metrics, primary_metric=metrics[0], hub_config=name
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews", "accuracy"),
        _glue("sst2", ("sentence",), ("negative", "positive")),
        _glue("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), *_BINARY_METRICS),
        Task(
            "stsb",
            TaskKind.REGRESSION,
            ("sentence1", "sentence2"),
            metrics=("pearson", "spearman"),
            primary_metric="pearson",
            hub_config="stsb",
        ),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), *_BINARY_METRICS),
        Task(
            "mnli",
            TaskKind.CLASSIFICATION,
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            validation_splits={"": "validation_matched", "mismatched": "validation_mismatched"},
            hub_config="mnli",
        ),
        _glue("qnli", ("question", "sentence"), _ENTAILMENT),
        _glue("rte", ("sentence1", "sentence2"), _ENTAILMENT),
        Task(
            "squad",
            TaskKind.QUESTION_ANSWERING,
            ("question", "context"),
            metrics=("exact_match", "f1"),
            primary_metric="f1",
            hub_dataset="rajpurkar/squad",
        ),
        Task("demo", TaskKind.CLASSIFICATION, ("sentence",), ("negative", "positive"), hub_dataset=""),
    )
}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise ConfigError(f"unknown task {name!r}; expected one of: {', '.join(TASKS)}") from None
