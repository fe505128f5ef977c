# SPDX-License-Identifier: Apache-2.0
"""Any number of labels per text or pair of texts: one sigmoid per label, and a threshold."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sparse_deploy.data.encoded import EncodedSplit, FloatArray, RowOutputs, ServedText, SplitScore, sigmoid
from sparse_deploy.data.problems import RowProblem
from sparse_deploy.data.row_checks import Row, quote
from sparse_deploy.data.tasks.base import AnswerField, AnswerValues, TaskKind
from sparse_deploy.data.tasks.label_metrics import counts_of, macro_f1, precision_recall_f1, summed
from sparse_deploy.data.tasks.sequence_task import SequenceTask, logits_of
from sparse_deploy.gate.metric import Metric, PairedTest, by_name

if TYPE_CHECKING:
    from sparse_deploy.config.schema import DataSection

_SEPARATORS = re.compile(r"\s*[;|,]\s*")


@dataclass(frozen=True)
class MultiLabelClassification(SequenceTask):
    """Any number of labels per text or pair of texts.

    Attributes:
        threshold: smallest probability of an assigned label.
    """

    threshold: float = 0.5

    kind: ClassVar[TaskKind] = TaskKind.MULTI_LABEL
    known_metrics: ClassVar[Mapping[str, Metric]] = by_name(
        Metric("micro_f1", PairedTest.COUNTS),
        Metric("macro_f1", PairedTest.MACRO),
        Metric("subset_accuracy", PairedTest.CORRECT),
    )
    default_metrics: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "subset_accuracy")
    problem_type: ClassVar[str | None] = "multi_label_classification"

    def stratum_of(self, row: Row) -> object:
        """See :meth:`Task.stratum_of`: the set of labels."""
        return tuple(row["label"])

    def _targets(self, labels: Sequence[Any]) -> list[Any]:
        """A 1.0 or 0.0 per output of the model."""
        order = self.order
        targets = np.zeros((len(labels), len(self.labels)))
        for row, chosen in enumerate(labels):
            targets[row, [order[label] for label in chosen]] = 1.0
        found: list[Any] = targets.tolist()
        return found

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :meth:`Task.score`; ``label`` and ``prediction`` are ascending lists of the data's ids."""
        logits = self.stacked(split, outputs, len(self.labels))[:, self.order]
        said = sigmoid(logits) >= self.threshold
        rows = [
            self.complete_row(
                {
                    "id": example["id"],
                    "label": list(example["label"]),
                    "prediction": np.flatnonzero(chosen).tolist(),
                    "logits": row.tolist(),
                }
            )
            for example, chosen, row in zip(split.examples, said, logits, strict=True)
        ]
        targets = np.array([np.isin(np.arange(len(self.labels)), row["label"]) for row in rows])
        # Binary cross entropy on logits: log(1 + exp(x)) - x t, in the form that does not overflow.
        loss = np.mean(np.logaddexp(0.0, logits) - logits * targets)
        return SplitScore({**self.metrics_of_rows(rows), "loss": float(loss)}, rows)

    def metrics_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """See :meth:`Task.metrics_of_rows`."""
        found = {
            "micro_f1": precision_recall_f1(*summed(rows))[2],
            "macro_f1": macro_f1([set(row["label"]) for row in rows], [set(row["prediction"]) for row in rows]),
            "subset_accuracy": float(np.mean([row["correct"] for row in rows])),
        }
        return {name: found[name] for name in self.metrics}

    def complete_row(self, row: Row) -> Row:
        """See :meth:`Task.complete_row`."""
        counts = counts_of(set(row["label"]), set(row["prediction"]))
        return {**row, "correct": row["label"] == row["prediction"], "counts": counts}

    def same_predictions(self, expected: Sequence[FloatArray], found: Sequence[FloatArray], kept: FloatArray) -> float:
        """See :meth:`Task.same_predictions`: the share of equal label decisions, per row."""
        both = [sigmoid(side[0]) >= self.threshold for side in (expected, found)]
        return float((both[0] == both[1]).mean(axis=-1).sum())

    def prediction_of(self, outputs: RowOutputs) -> list[str]:
        """See :meth:`Task.prediction_of`: all assigned labels."""
        names = self.model_labels or self.labels
        return [name for name, one in zip(names, sigmoid(outputs[0]), strict=True) if one >= self.threshold]

    def answer_fields(self, labels: Sequence[str], width: int) -> tuple[AnswerField, ...]:
        """See :meth:`Task.answer_fields`."""
        return (
            AnswerField("labels", "BYTES"),
            AnswerField("probabilities", "FP32", (len(labels),)),
            AnswerField("logits", "FP32", (len(labels),)),
        )

    def answers(
        self, asked: Sequence[ServedText], outputs: Sequence[Sequence[RowOutputs]], labels: Sequence[str], limit: int
    ) -> dict[str, AnswerValues]:
        """The labels of each text above the threshold, as a JSON list in descending probability."""
        logits = logits_of(outputs)
        probabilities = sigmoid(logits)
        chosen = [
            [labels[index] for index in np.argsort(-row, kind="stable") if row[index] >= self.threshold]
            for row in probabilities
        ]
        return {
            "labels": [json.dumps(names, ensure_ascii=False) for names in chosen],
            "probabilities": probabilities,
            "logits": logits,
        }

    def _check_target(self, row: Row) -> list[int]:
        return sorted({self.label_id(label) for label in labels_of(row["label"])})


def labels_of(value: object) -> list[Any]:
    """The labels of a row: a list, a text with a JSON list, or a text with the separator ``;``, ``|`` or ``,``.

    Raises:
        RowProblem: another form.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError as error:
                raise RowProblem("unknown label", f"expected a JSON list of labels, found {quote(text)}") from error
        else:
            return [part for part in _SEPARATORS.split(text) if part]
    if not isinstance(value, list):
        raise RowProblem("no label", f"expected a list of labels, found {quote(value)}")
    return value
