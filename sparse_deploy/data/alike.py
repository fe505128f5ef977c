# SPDX-License-Identifier: Apache-2.0
"""How alike two models answer texts without labels: what stands in for accuracy where nobody knows the right answers.

A model that agrees with another one everywhere is as good as that one, and as bad. Agreement bounds the loss from
above only: of the answers that differ, some may be the better ones.
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

# Share of the texts with the same prediction; mean cosine of the two models' vectors; correlation of their numbers.
SAME_PREDICTIONS = Metric("same_predictions", PairedTest.CORRECT)
SIMILARITY = Metric("similarity", PairedTest.MEAN)
CORRELATION = Metric("pearson", PairedTest.CORRELATION)
_BY_KIND = {TaskKind.EMBEDDING: SIMILARITY, TaskKind.REGRESSION: CORRELATION, TaskKind.RANKING: CORRELATION}


class AnswersAlike:
    """Scores answers by those of the first model that is scored, which itself gets 1.

    See :class:`sparse_deploy.data.metrics.Scorer`. Of a text that is predicted per token, all predictions must be the
    same.

    Args:
        task: what the models answer.
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
        """What the metric is, for people."""
        what = {
            SAME_PREDICTIONS: "the share of texts with the same prediction as the baseline's",
            SIMILARITY: "the mean cosine of a text's vector and the baseline's",
            CORRELATION: "the correlation of the numbers with the baseline's",
        }[self.metric]
        return (
            f"no labels were read: {self.metric.name} is {what}; it says how alike the two models answer, not how well "
            f"either does"
        )

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :class:`sparse_deploy.data.metrics.Scorer`; rows have what the metric's test needs."""
        answers = [self._task.prediction_of(output) for output in outputs]
        if self._reference is None:
            self._reference = answers
        rows = [
            {"id": example["id"], **self._compare(before, after, output)}
            for example, before, after, output in zip(split.examples, self._reference, answers, outputs, strict=True)
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
