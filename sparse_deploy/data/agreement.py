# SPDX-License-Identifier: Apache-2.0
"""Agreement of two models on texts without labels, used if an accuracy cannot be computed.

Agreement limits the loss of accuracy: a drop of the accuracy is at most the share of changed predictions.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_deploy.data.encoded import EncodedSplit, RowOutputs, SplitScore
from sparse_deploy.data.tasks import Task, TaskKind
from sparse_deploy.data.tasks.regression import correlations
from sparse_deploy.gate.metric import Metric, PairedTest, by_name

if TYPE_CHECKING:
    from sparse_deploy.config.schema import DataSection

# Share of texts with equal predictions; mean cosine of the vectors of two models; correlation of their numbers.
SAME_PREDICTIONS = Metric("same_predictions", PairedTest.CORRECT)
SIMILARITY = Metric("similarity", PairedTest.MEAN)
CORRELATION = Metric("pearson", PairedTest.CORRELATION)
_BY_KIND = {TaskKind.EMBEDDING: SIMILARITY, TaskKind.REGRESSION: CORRELATION, TaskKind.RANKING: CORRELATION}


class ModelAgreement:
    """Scores the outputs of models against those of the first model, whose own score is 1.

    See :class:`sparse_deploy.data.metrics.Scorer`. Token predictions of a text count as equal if all of them are.

    Args:
        task: task of the models.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._reference: list[Any] | None = None
        self.metric = _BY_KIND.get(task.kind, SAME_PREDICTIONS)

    @property
    def metrics(self) -> tuple[str, ...]:
        """See :class:`sparse_deploy.data.metrics.Scorer`."""
        return (self.metric.name,)

    @property
    def known_metrics(self) -> Mapping[str, Metric]:
        """See :class:`sparse_deploy.data.metrics.Scorer`."""
        return by_name(self.metric)

    @property
    def per_token(self) -> tuple[bool, ...]:
        """See :class:`sparse_deploy.data.metrics.Scorer`."""
        return self._task.per_token

    @property
    def meaning(self) -> str:
        """An explanation of the metric for users."""
        what = {
            SAME_PREDICTIONS: "the share of texts with the prediction of the baseline",
            SIMILARITY: "the mean cosine of the vectors and those of the baseline",
            CORRELATION: "the correlation of the numbers with those of the baseline",
        }[self.metric]
        return (
            f"no labels were read: {self.metric.name} is {what}; it measures the similarity of the two models, not "
            f"the accuracy of either"
        )

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :class:`sparse_deploy.data.metrics.Scorer`; rows have the columns of the metric's test."""
        predictions = [self._task.prediction_of(output) for output in outputs]
        if self._reference is None:
            self._reference = predictions
        rows = [
            {"id": example["id"], **self._compare(before, after, output)}
            for example, before, after, output in zip(
                split.examples, self._reference, predictions, outputs, strict=True
            )
        ]
        if self.metric is CORRELATION:
            return SplitScore(correlations(rows, self.metrics), rows)
        key = "correct" if self.metric is SAME_PREDICTIONS else self.metric.name
        return SplitScore({self.metric.name: float(np.mean([row[key] for row in rows]))}, rows)

    def _compare(self, before: Any, after: Any, output: RowOutputs) -> dict[str, Any]:
        if self.metric is SIMILARITY:
            cosine = float(np.dot(before, after))
            return {"prediction": cosine, self.metric.name: cosine}
        parts = [part.max(axis=0) if each else part for part, each in zip(output, self.per_token, strict=True)]
        logits = np.concatenate([np.atleast_1d(part) for part in parts])
        if self.metric is CORRELATION:
            return {"label": before, "prediction": after, "logits": logits.tolist()}
        return {"prediction": after, "correct": before == after, "logits": logits.tolist()}
