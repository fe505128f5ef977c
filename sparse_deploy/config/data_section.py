# SPDX-License-Identifier: Apache-2.0
"""``data`` and ``task`` of a recipe: the source of the text, its encoding, and the metrics."""

from typing import Literal

from pydantic import Field, model_validator

from sparse_deploy.config.section import Section


class TextSource(Section):
    """Unlabelled text.

    Attributes:
        source: file (.txt, .csv, .tsv, .jsonl, .parquet; plain, .gz or .zst), folder of ``datasets``, or hub name.
        columns: one column with the text, or two for pairs; the only column of texts when empty.
        config: configuration of a data set of the hub.
        split: split of a folder or of a data set of the hub.
    """

    source: str
    columns: tuple[str, ...] = Field(default=(), max_length=2)
    config: str | None = None
    split: str = "train"


class DataSection(Section):
    """The source of the text, and its encoding as model input.

    Attributes:
        source: own data: file (.csv, .tsv, .jsonl, .parquet; plain, .gz or .zst), folder of ``datasets``, or hub name;
            default: the data of the named task, from ``--data-dir`` or the hub.
        config: configuration of a data set of the hub.
        train_split: name of the training split, if ``source`` has several splits.
        validation_source: another file or folder with validation rows.
        validation_split: name of the validation split; default: ``validation``, if ``source`` has it.
        validation_share: share of the rows that is held out if there is no validation split, evenly over the labels;
            rows with the same text, context or query stay together.
        split_seed: seed of this split.
        text_columns: one column with the text, or two for pairs; the only column of texts when empty.
        label_column: the column with the labels.
        on_problem: treatment of unusable rows (no text, unknown label, wrong encoding, in two splits): ``error``
            refuses the split, ``skip`` skips, counts and lists them.
        unlabelled: text for calibration and parity instead of the training and validation rows.
        max_length: longest input in tokens, special tokens included; longer text is truncated (questions: windowed).
        doc_stride: overlap of two windows of a context, in tokens.
        max_answer_length: longest answer span, in tokens.
        train_samples: largest number of training examples; the first ones after a seeded shuffle are used.
        validation_samples: largest number of validation examples; the first ones are used.
    """

    source: str | None = None
    config: str | None = None
    train_split: str = "train"
    validation_source: str | None = None
    validation_split: str | None = None
    validation_share: float = Field(default=0.1, gt=0.0, lt=1.0)
    split_seed: int = Field(default=42, ge=0, lt=2**32)
    text_columns: tuple[str, ...] = Field(default=(), max_length=2)
    label_column: str | None = None
    on_problem: Literal["error", "skip"] = "error"
    unlabelled: TextSource | None = None
    max_length: int = Field(default=128, ge=8, le=131_072)
    doc_stride: int = Field(default=128, ge=1)
    max_answer_length: int = Field(default=30, ge=1)
    train_samples: int | None = Field(default=None, ge=1)
    validation_samples: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "DataSection":
        if self.validation_source and not self.source:
            raise ValueError("validation_source needs source, the data to train on")
        return self


class TaskSection(Section):
    """A description of an own task; omitted keys come from the model's ``config.json``, then from the data.

    Attributes:
        type: the kind of the task; default: the kind of the model or of the data.
        labels: names in the order of the model's outputs.
        label_names: mapping of names in the data to names in the model, if they differ.
        metrics: the metrics to compute, the primary one first.
        threshold: multi-label: smallest probability of an assigned label.
        unanswerable: question answering: whether a question may have no answer, as in SQuAD v2.
    """

    type: Literal[
        "text-classification", "multi-label-classification", "regression", "text-ranking", "token-classification",
        "question-answering", "sentence-embedding",
    ] | None = None  # fmt: skip
    labels: tuple[str, ...] = ()
    label_names: dict[str, str] = Field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    unanswerable: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "TaskSection":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: a name is given twice")
        return self
