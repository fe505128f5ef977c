# SPDX-License-Identifier: Apache-2.0
"""One number per text or pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparse_deploy.data.encoded import EncodedSplit, FloatArray, RowOutputs, ServedText, SplitScore
from sparse_deploy.data.problems import RowProblem
from sparse_deploy.data.row_checks import Row, quote
from sparse_deploy.data.tasks.base import AnswerField, AnswerValues, TaskKind, no_label
from sparse_deploy.data.tasks.sequence_task import SequenceTask
from sparse_deploy.gate.metric import Metric, PairedTest, by_name

if TYPE_CHECKING:
    from sparse_deploy.config.schema import DataSection

CORRELATIONS = by_name(Metric("pearson", PairedTest.CORRELATION), Metric("spearman", PairedTest.CORRELATION))
# STS-B scores (0 to 5) are means of whole numbers; predictions that differ by half a step count as different.
_SAME_SHARE = 0.05


@dataclass(frozen=True)
class Regression(SequenceTask):
    """One number per text or pair of texts.

    Attributes:
        lowest: smallest label; None for no bound.
        highest: largest label.
    """

    lowest: float | None = None
    highest: float | None = None

    kind: ClassVar[TaskKind] = TaskKind.REGRESSION
    known_metrics: ClassVar[Mapping[str, Metric]] = CORRELATIONS
    default_metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    problem_type: ClassVar[str | None] = "regression"

    @property
    def num_outputs(self) -> int:
        """See :attr:`Task.num_outputs`."""
        return 1

    def output_shapes(self, labels: int, width: int) -> list[tuple[int, ...]]:
        """See :meth:`Task.output_shapes`."""
        return [(1,)]

    def configure(self, config: Any) -> None:
        """See :meth:`Task.configure`; the one output has the task's name."""
        super().configure(config)
        config.num_labels = 1
        config.id2label, config.label2id = {0: self.name}, {self.name: 0}

    def _targets(self, labels: Sequence[Any]) -> list[Any]:
        return [float(label) for label in labels]

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :meth:`Task.score`; the ``score`` of a row is the negative squared error, so that higher is better."""
        predictions = self.stacked(split, outputs, 1)[:, 0]
        rows = [
            self.complete_row(
                {
                    "id": example["id"],
                    "label": example["label"],
                    "prediction": float(prediction),
                    "logits": [float(prediction)],
                }
            )
            for example, prediction in zip(split.examples, predictions, strict=True)
        ]
        loss = -float(np.mean([row["score"] for row in rows]))
        return SplitScore({**self.metrics_of_rows(rows), "loss": loss}, rows)

    def metrics_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """See :meth:`Task.metrics_of_rows`."""
        return correlations(rows, self.metrics)

    def complete_row(self, row: Row) -> Row:
        """See :meth:`Task.complete_row`."""
        return {**row, "score": -((row["prediction"] - row["label"]) ** 2)}

    def same_predictions(self, expected: Sequence[FloatArray], found: Sequence[FloatArray], kept: FloatArray) -> float:
        """See :meth:`Task.same_predictions`: within 1/20 of the labels' range, or 0.25 if it is unknown."""
        known = self.lowest is not None and self.highest is not None
        within = _SAME_SHARE * ((self.highest or 0.0) - (self.lowest or 0.0)) if known else 0.25
        return float((np.abs(expected[0] - found[0]) <= within).sum())

    def prediction_of(self, outputs: RowOutputs) -> float:
        """See :meth:`Task.prediction_of`."""
        return float(outputs[0][0])

    def answer_fields(self, labels: Sequence[str], width: int) -> tuple[AnswerField, ...]:
        """See :meth:`Task.answer_fields`."""
        return (AnswerField("score", "FP32"),)

    def answers(
        self, asked: Sequence[ServedText], outputs: Sequence[Sequence[RowOutputs]], labels: Sequence[str], limit: int
    ) -> dict[str, AnswerValues]:
        """The model's number for each text."""
        numbers = np.array([windows[0][0][0] for windows in outputs], dtype=np.float32)
        return {"score": numbers}

    def _check_target(self, row: Row) -> float:
        found = row["label"]
        if found is None or found in (-1, ""):
            raise no_label(found)
        number = number_of(found)
        lowest = -np.inf if self.lowest is None else self.lowest
        highest = np.inf if self.highest is None else self.highest
        if number is None or not lowest <= number <= highest:
            bounds = f" from {self.lowest:g} to {self.highest:g}" if np.isfinite([lowest, highest]).all() else ""
            what = "a similarity score" if bounds else "a number"
            raise RowProblem("unknown label", f"unknown label {quote(found)}; expected {what}{bounds}")
        return number


def number_of(value: object) -> float | None:
    """A finite number, possibly given as text; None for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def correlations(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Correlations of ``prediction`` and ``label``; the score of a constant is 0."""
    from scipy import stats

    predictions: npt.NDArray[np.float64]
    predictions, labels = (np.array([row[key] for row in rows], dtype=float) for key in ("prediction", "label"))
    if np.ptp(predictions) == 0.0 or np.ptp(labels) == 0.0 or not np.isfinite(predictions).all():
        return dict.fromkeys(names, 0.0)
    scorers = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    return {name: float(scorers[name](predictions, labels).statistic) for name in names}
