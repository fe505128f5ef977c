# SPDX-License-Identifier: Apache-2.0
"""One label per text or pair of texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sparse_deploy.data.encoded import EncodedSplit, RowOutputs, ServedText, SplitScore, softmax
from sparse_deploy.data.row_checks import Row
from sparse_deploy.data.tasks.base import AnswerField, AnswerValues, TaskKind
from sparse_deploy.data.tasks.label_metrics import POSITIVE_LABEL, macro_f1
from sparse_deploy.data.tasks.sequence_task import SequenceTask, logits_of
from sparse_deploy.gate.metric import Metric, PairedTest, by_name

if TYPE_CHECKING:
    from sparse_deploy.config.schema import DataSection


@dataclass(frozen=True)
class TextClassification(SequenceTask):
    """One label per text or pair of texts."""

    kind: ClassVar[TaskKind] = TaskKind.CLASSIFICATION
    known_metrics: ClassVar[Mapping[str, Metric]] = by_name(
        Metric("accuracy", PairedTest.CORRECT),
        Metric("f1", PairedTest.BINARY),
        Metric("precision", PairedTest.BINARY),
        Metric("recall", PairedTest.BINARY),
        Metric("matthews", PairedTest.BINARY),
        Metric("macro_f1", PairedTest.MACRO),
    )
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    problem_type: ClassVar[str | None] = "single_label_classification"

    def stratum_of(self, row: Row) -> object:
        """See :meth:`Task.stratum_of`."""
        return row["label"]

    def _targets(self, labels: Sequence[Any]) -> list[Any]:
        """Positions in the model's outputs."""
        order = self.order
        return [order[label] for label in labels]

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :meth:`Task.score`; rows have ``label``, ``prediction``, ``correct``, ``logits``, in the data's ids."""
        from scipy.special import log_softmax

        logits = self.stacked(split, outputs, len(self.labels))[:, self.order]
        labels = np.array([example["label"] for example in split.examples])
        loss = -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean()
        rows = [
            {
                "id": example["id"],
                "label": example["label"],
                "prediction": int(prediction),
                "correct": bool(prediction == example["label"]),
                "logits": row.tolist(),
            }
            for example, prediction, row in zip(split.examples, logits.argmax(axis=-1), logits, strict=True)
        ]
        return SplitScore({**self.metrics_of_rows(rows), "loss": float(loss)}, rows)

    def metrics_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """See :meth:`Task.metrics_of_rows`."""
        from sklearn import metrics

        predictions, labels = (np.array([row[key] for row in rows]) for key in ("prediction", "label"))
        binary = {"pos_label": POSITIVE_LABEL, "zero_division": 0.0}
        scorers: dict[str, Callable[[], float]] = {
            "accuracy": lambda: metrics.accuracy_score(labels, predictions),
            "f1": lambda: metrics.f1_score(labels, predictions, **binary),
            "precision": lambda: metrics.precision_score(labels, predictions, **binary),
            "recall": lambda: metrics.recall_score(labels, predictions, **binary),
            "matthews": lambda: metrics.matthews_corrcoef(labels, predictions),
            "macro_f1": lambda: macro_f1([{int(one)} for one in labels], [{int(one)} for one in predictions]),
        }
        return {name: float(scorers[name]()) for name in self.metrics}

    def complete_row(self, row: Row) -> Row:
        """See :meth:`Task.complete_row`."""
        return {**row, "correct": row["prediction"] == row["label"]}

    def answer_fields(self, labels: Sequence[str], width: int) -> tuple[AnswerField, ...]:
        """See :meth:`Task.answer_fields`."""
        return (
            AnswerField("label", "BYTES"),
            AnswerField("score", "FP32"),
            AnswerField("probabilities", "FP32", (len(labels),)),
            AnswerField("logits", "FP32", (len(labels),)),
        )

    def answers(
        self, asked: Sequence[ServedText], outputs: Sequence[Sequence[RowOutputs]], labels: Sequence[str], limit: int
    ) -> dict[str, AnswerValues]:
        """The most probable label of each text, its probability, and the probabilities of all labels."""
        logits = logits_of(outputs)
        probabilities = softmax(logits)
        best = probabilities.argmax(axis=1)
        return {
            "label": [labels[index] for index in best],
            "score": probabilities[np.arange(len(best)), best],
            "probabilities": probabilities,
            "logits": logits,
        }

    def _check_target(self, row: Row) -> int:
        return self.label_id(row["label"])
