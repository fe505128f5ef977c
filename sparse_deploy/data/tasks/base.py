# SPDX-License-Identifier: Apache-2.0
"""The interface of tasks: columns, outputs of a model, scores, tests of the gate, and server outputs."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparse_deploy.architectures.architecture import MODEL_INPUTS
from sparse_deploy.data.encoded import EncodedSplit, Feature, FloatArray, RowOutputs, ServedText, SplitScore
from sparse_deploy.data.problems import RowProblem
from sparse_deploy.data.row_checks import Row, check_text, quote
from sparse_deploy.data.tasks.pooling import Pooling
from sparse_deploy.errors import ConfigError, DataError
from sparse_deploy.gate.metric import Metric

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast

    from sparse_deploy.config.schema import DataSection

# A server output: texts, or an array whose first axis is the rows.
AnswerValues = list[str] | npt.NDArray[Any]


class TaskKind(StrEnum):
    """The kind of a task; the values are Hugging Face's pipeline names where one exists."""

    CLASSIFICATION = "text-classification"
    MULTI_LABEL = "multi-label-classification"
    REGRESSION = "regression"
    RANKING = "text-ranking"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - no password
    QUESTION_ANSWERING = "question-answering"
    EMBEDDING = "sentence-embedding"


class Head(StrEnum):
    """The class of a model, as the suffix of its name; the values are names of Optimum's task registry."""

    SEQUENCE = "text-classification"
    TOKEN = "token-classification"  # noqa: S105 - no password
    QUESTION = "question-answering"
    NONE = "feature-extraction"

    @property
    def suffix(self) -> str:
        """The suffix of the class names."""
        return {
            Head.SEQUENCE: "ForSequenceClassification",
            Head.TOKEN: "ForTokenClassification",
            Head.QUESTION: "ForQuestionAnswering",
            Head.NONE: "Model",
        }[self]


@dataclass(frozen=True)
class Output:
    """One output of a model.

    Attributes:
        name: name in the model file.
        per_token: whether the second axis is the tokens, so that values for padding are meaningless.
    """

    name: str
    per_token: bool = False


@dataclass(frozen=True)
class AnswerField:
    """One part of a server's answer.

    Attributes:
        name: name of the tensor.
        datatype: type in the Open Inference Protocol.
        shape: shape without the rows; -1 for a variable size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task(ABC):
    """One task: the class is its kind; it has labels, metrics and the description of its data.

    Attributes:
        name: name in a recipe and of the folder of local data.
        text_columns: one or two columns of the model's input, in order.
        labels: label names in the order of the data's ids; empty unless a classification.
        metrics: metrics of :meth:`score` other than ``loss``; the first is the accuracy column of tables.
        model_labels: the same names in the order of the model's outputs; empty means the order of ``labels``.
        train_split: name of the training split.
        validation_splits: split name by suffix of a metric's name; ``""`` is the main split.
        hub_dataset: data set on the hub; empty for the embedded text and for own data.
        hub_config: configuration of the data set.
    """

    name: str
    text_columns: tuple[str, ...] = ("text",)
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    model_labels: tuple[str, ...] = ()
    train_split: str = "train"
    validation_splits: Mapping[str, str] = field(default_factory=lambda: {"": "validation"})
    hub_dataset: str = ""
    hub_config: str | None = None

    kind: ClassVar[TaskKind]
    head: ClassVar[Head]
    outputs: ClassVar[tuple[Output, ...]]
    known_metrics: ClassVar[Mapping[str, Metric]]
    default_metrics: ClassVar[tuple[str, ...]]
    # The column of the label.
    target: ClassVar[str] = "label"
    # ``problem_type`` in a model's config; None if the model class has only one.
    problem_type: ClassVar[str | None] = None
    # Number of texts per row, if the data may determine it: one, two, or either.
    text_counts: ClassVar[tuple[int, ...]] = (1, 2)
    # Names of the texts in requests.
    request_texts: ClassVar[tuple[str, str]] = ("text", "text_pair")
    # Columns of a row's score that all cells share, and the columns of each cell; other columns follow from them.
    shared_scores: ClassVar[tuple[str, ...]] = ("label",)
    own_scores: ClassVar[tuple[str, ...]] = ("prediction", "logits")
    # Pooling of token vectors into the output; None if the model class has a head.
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            object.__setattr__(self, "metrics", self.default_metrics)
        unknown = [name for name in self.metrics if name not in self.known_metrics]
        if unknown:
            raise ConfigError(
                f"task {self.name}: expected metrics of {self.kind.value} ({', '.join(self.known_metrics)}), found "
                f"{unknown[0]!r}"
            )
        if self.model_labels and sorted(self.model_labels) != sorted(self.labels):
            raise ConfigError(
                f"task {self.name}: expected the labels {', '.join(self.labels)}, the model has "
                f"{', '.join(self.model_labels)}"
            )

    @property
    def primary_metric(self) -> str:
        """The metric of a table's accuracy column."""
        return self.metrics[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that a row must have."""
        return (*self.text_columns, self.target)

    @property
    def num_outputs(self) -> int:
        """Width of the model's head."""
        return len(self.labels)

    def configure(self, config: Any) -> None:
        """Set labels and problem type in the config of a model before training."""
        labels = self.model_labels or self.labels
        if labels:
            config.num_labels = len(labels)
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
        config.problem_type = self.problem_type

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the model's outputs, in order."""
        return tuple(output.name for output in self.outputs)

    @property
    def per_token(self) -> tuple[bool, ...]:
        """For each output, whether its second axis is the tokens."""
        return tuple(output.per_token for output in self.outputs)

    @property
    def order(self) -> list[int]:
        """For each label id of the data, the position of the label in the model's outputs."""
        return [(self.model_labels or self.labels).index(label) for label in self.labels]

    def output_shapes(self, labels: int, width: int) -> list[tuple[int, ...]]:
        """Shapes of the model's outputs without the batch; -1 is the number of tokens.

        Args:
            labels: number of the model's labels.
            width: hidden size of the model.
        """
        return [(-1, labels) if output.per_token else (labels,) for output in self.outputs]

    def metric(self, name: str) -> Metric:
        """The test of the gate for a metric."""
        return self.known_metrics[name]

    def with_model_labels(self, labels: Sequence[str]) -> "Task":
        """The task for a model whose outputs have these labels, in this order."""
        return dataclasses.replace(self, model_labels=tuple(labels))

    def input_settings(self, data: "DataSection") -> dict[str, int]:
        """Settings that determine the tokens of a row."""
        return {"max_length": data.max_length}

    def check_row(self, row: object) -> Row:
        """The checked columns of a row that the task reads.

        Raises:
            RowProblem: the row is unusable.
        """
        if not isinstance(row, dict):
            raise RowProblem("no object", f"expected a JSON object with {', '.join(self.columns)}, found {quote(row)}")
        missing = [column for column in self.columns if column not in row]
        if missing:
            raise RowProblem(
                "missing column",
                f"expected the columns {', '.join(self.columns)}; {', '.join(missing)} missing, found {[*row]}",
            )
        texts = {column: self._check_text(row, column) for column in self.text_columns}
        return {**texts, self.target: self._check_target(row)}

    def group_of(self, row: Row) -> str:
        """The group of a row; rows of one group must be in the same split (see ``data.seeded_split``)."""
        return "\n".join(str(row[column]) for column in self.text_columns)

    def stratum_of(self, row: Row) -> object:
        """The stratum of a row; rows of one stratum are distributed evenly between training and validation."""
        return None

    @abstractmethod
    def encode(
        self, examples: list[Row], tokenizer: "PreTrainedTokenizerFast", data: "DataSection", name: str
    ) -> EncodedSplit:
        """Tokenize rows for evaluation; each has an ``id``."""

    @abstractmethod
    def training_columns(
        self, batch: dict[str, list[Any]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> dict[str, list[Any]]:
        """Tokenize a batch of columns for training: inputs, ``length``, and the targets of the loss."""

    @abstractmethod
    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """Score the outputs of a model on a split.

        Args:
            split: a result of :meth:`encode`.
            outputs: per feature one array per output, without padding.
            data: window settings.

        Raises:
            DataError: outputs of a wrong width.
        """

    @abstractmethod
    def metrics_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The task's metrics over some of :attr:`SplitScore.rows`."""

    def complete_row(self, row: Row) -> Row:
        """A stored row, completed by the columns that follow from the others."""
        return row

    def same_predictions(self, expected: Sequence[FloatArray], found: Sequence[FloatArray], kept: FloatArray) -> float:
        """Number of rows of a batch with equal predictions of two models, for parity.

        Args:
            expected: outputs of one model, ``[batch, ...]`` each.
            found: outputs of the other model.
            kept: bool ``[batch, tokens]``, true for tokens, false for padding.
        """
        return float((expected[0].argmax(axis=-1) == found[0].argmax(axis=-1)).sum())

    def prediction_of(self, outputs: RowOutputs) -> Any:
        """The prediction of a model for one row, as JSON; equal predictions give equal JSON.

        Args:
            outputs: one array per output, without padding.
        """
        best = outputs[0].argmax(axis=-1)
        names = self.model_labels or self.labels
        return names[int(best)] if best.ndim == 0 else [names[int(one)] for one in best]

    @abstractmethod
    def answer_fields(self, labels: Sequence[str], width: int) -> tuple[AnswerField, ...]:
        """The outputs of :meth:`answers`, for the server's metadata.

        Args:
            labels: of the served model, in the order of its outputs.
            width: hidden size of the model.
        """

    @abstractmethod
    def answers(
        self, asked: Sequence[ServedText], outputs: Sequence[Sequence[RowOutputs]], labels: Sequence[str], limit: int
    ) -> dict[str, AnswerValues]:
        """A model's outputs as answers for users and programs.

        Args:
            asked: texts of the request.
            outputs: for each text, the outputs of its windows.
            labels: of the served model, in the order of its outputs.
            limit: longest answer span in tokens.
        """

    def _check_text(self, row: Row, column: str) -> Any:
        return check_text(row, column)

    @abstractmethod
    def _check_target(self, row: Row) -> Any:
        """The checked label of a row.

        Raises:
            RowProblem: the label is missing or unknown.
        """

    def label_id(self, label: object) -> int:
        """The id of a label, given by its name or id.

        Raises:
            RowProblem: the label is unknown or missing.
        """
        if isinstance(label, str):
            if label in self.labels:
                return self.labels.index(label)
            if label.isdigit() and int(label) < len(self.labels):
                return int(label)
        elif isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self.labels):
            return label
        if label is None or label == -1 or label == "":
            raise no_label(label)
        known = ", ".join(f"{i} {name}" for i, name in enumerate(self.labels[:10]))
        more = ", ..." if len(self.labels) > 10 else ""
        raise RowProblem("unknown label", f"unknown label {quote(label)}; {self.name} has {known}{more}")

    def encode_texts(
        self, examples: list[Row], tokenizer: "PreTrainedTokenizerFast", data: "DataSection", name: str
    ) -> EncodedSplit:
        """:meth:`encode` for rows of one text or pair, truncated to ``data.max_length``."""
        encoding = self._tokenize({c: [example[c] for example in examples] for c in self.text_columns}, tokenizer, data)
        truncated = sum(bool(one.overflowing) for one in encoding.encodings or ())
        return EncodedSplit(name, features_of(encoding), np.arange(len(examples)), examples, None, truncated)

    def _tokenize(
        self, batch: Mapping[str, list[Any]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> "BatchEncoding":
        return tokenizer(
            *(batch[column] for column in self.text_columns),
            truncation=True,
            max_length=data.max_length,
            padding=False,
            return_token_type_ids=True,
        )

    def encode_unlabelled(
        self, rows: Sequence[tuple[str, ...]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> list[Feature]:
        """Tokenize texts without labels, for calibration and parity.

        Args:
            rows: one or two texts each; for a task of pairs, the next text completes a row with one text.
            tokenizer: tokenizer of the model.
            data: settings with the longest input.
        """
        if len(rows[0]) < len(self.text_columns) or len(rows[0]) not in self.text_counts:
            second = [*rows[1:], rows[0]]
            rows = [(row[0], other[0]) for row, other in zip(rows, second, strict=True)]
        columns = [[row[place] for row in rows] for place in range(len(rows[0]))]
        encoding = tokenizer(
            *columns, truncation=True, max_length=data.max_length, padding=False, return_token_type_ids=True
        )
        return features_of(encoding)

    def stacked(self, split: EncodedSplit, outputs: Sequence[RowOutputs], width: int) -> npt.NDArray[np.float64]:
        """The first output of every feature, ``[features, width]``.

        Raises:
            DataError: the width is wrong.
        """
        widths = {output[0].shape for output in outputs}
        if widths != {(width,)}:
            raise DataError(
                f"{self.name}: expected {width} logits per example, found "
                f"{', '.join(str(list(shape)) for shape in sorted(widths))}; use a model that was fine-tuned on this "
                f"task"
            )
        return np.stack([output[0] for output in outputs]).astype(np.float64)


def no_label(found: object) -> RowProblem:
    """The problem of a row without a label."""
    return RowProblem(
        "no label", f"no label (found {quote(found)}); scoring and training need labelled rows, use another split"
    )


def inputs_of(encoding: "BatchEncoding") -> dict[str, list[Any]]:
    """Columns of a training batch that the model reads, and ``length``."""
    inputs = {key: encoding[key] for key in MODEL_INPUTS}
    return {**inputs, "length": [len(ids) for ids in encoding["input_ids"]]}


def features_of(encoding: "BatchEncoding") -> list[Feature]:
    """One feature per entry of an encoding."""
    columns = [[np.asarray(values, dtype=np.int64) for values in encoding[key]] for key in MODEL_INPUTS]
    return [dict(zip(MODEL_INPUTS, values, strict=True)) for values in zip(*columns, strict=True)]
