# SPDX-License-Identifier: Apache-2.0
"""Reranking by a cross-encoder: one logit per pair of query and document, higher for relevant documents."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sparse_deploy.data.encoded import EncodedSplit, FloatArray, RowOutputs, SplitScore, sigmoid
from sparse_deploy.data.problems import RowProblem
from sparse_deploy.data.row_checks import Row, quote
from sparse_deploy.data.tasks.base import TaskKind, no_label
from sparse_deploy.data.tasks.regression import Regression, number_of
from sparse_deploy.data.tasks.retrieval_metrics import RETRIEVAL_METRICS, retrieval_scores
from sparse_deploy.errors import DataError
from sparse_deploy.gate.metric import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from sparse_deploy.config.schema import DataSection

_SAME_PROBABILITY = 0.05


@dataclass(frozen=True)
class Ranking(Regression):
    """One logit per pair of query and document; rows are pairs with a relevance of 0 to 1.

    The metrics are means over queries; a query without a relevant document, or with relevant documents only, is
    skipped.
    """

    text_columns: tuple[str, ...] = ("query", "document")
    lowest: float | None = 0.0
    highest: float | None = 1.0

    kind: ClassVar[TaskKind] = TaskKind.RANKING
    known_metrics: ClassVar[Mapping[str, Metric]] = RETRIEVAL_METRICS
    default_metrics: ClassVar[tuple[str, ...]] = ("ndcg@10", "mrr@10", "recall@1")
    # Setting of sentence-transformers: the probability of a document is the sigmoid of its logit.
    cross_encoder: ClassVar[dict[str, str]] = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    text_counts: ClassVar[tuple[int, ...]] = (2,)
    shared_scores: ClassVar[tuple[str, ...]] = ("label",)
    own_scores: ClassVar[tuple[str, ...]] = ("prediction", "logits", *RETRIEVAL_METRICS)

    def configure(self, config: Any) -> None:
        """See :meth:`Task.configure`; marks the model as a cross-encoder of sentence-transformers."""
        super().configure(config)
        config.sentence_transformers = self.cross_encoder

    def group_of(self, row: Row) -> str:
        """See :meth:`Task.group_of`: the query."""
        return str(row[self.text_columns[0]])

    def encode(
        self, examples: list[Row], tokenizer: "PreTrainedTokenizerFast", data: "DataSection", name: str
    ) -> EncodedSplit:
        """See :meth:`Task.encode`; an example has all documents of a query as a list, and their relevances."""
        query, document = self.text_columns
        grouped: dict[str, Row] = {}
        for example in examples:
            known = grouped.setdefault(
                example[query], {"id": example["id"], query: example[query], document: [], "label": []}
            )
            known[document].append(example[document])
            known["label"].append(example["label"])
        asked = [one for one in grouped.values() if max(one["label"]) > min(one["label"])]
        if not asked:
            raise DataError(
                f"{self.name} ({name}): expected a query with documents of different relevance, found none; give each "
                f"query several documents"
            )
        pairs = [{query: one[query], document: text} for one in asked for text in one[document]]
        example_of = np.repeat(np.arange(len(asked)), [len(one["label"]) for one in asked])
        plain = self.encode_texts(pairs, tokenizer, data, name)
        return dataclasses.replace(plain, example_of=example_of, examples=asked)

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :meth:`Task.score`; ``prediction`` is the index of the best document of a query."""
        logits = self.stacked(split, outputs, 1)[:, 0]
        bounds = np.searchsorted(split.example_of, np.arange(len(split.examples) + 1))
        rows = []
        for example, first, last in zip(split.examples, bounds[:-1], bounds[1:], strict=True):
            relevance, scores = np.array(example["label"]), logits[first:last]
            rows.append(
                {
                    "id": example["id"],
                    "label": int(relevance.argmax()),
                    "prediction": int(scores.argmax()),
                    "logits": [float(scores.max())],
                    **retrieval_scores(relevance, scores),
                }
            )
        return SplitScore(self.metrics_of_rows(rows), rows)

    def metrics_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """See :meth:`Task.metrics_of_rows`."""
        return {name: float(np.mean([row[name] for row in rows])) for name in self.metrics}

    def complete_row(self, row: Row) -> Row:
        """See :meth:`Task.complete_row`."""
        return row

    def same_predictions(self, expected: Sequence[FloatArray], found: Sequence[FloatArray], kept: FloatArray) -> float:
        """See :meth:`Task.same_predictions`: relevances within 0.05."""
        return float((np.abs(sigmoid(expected[0]) - sigmoid(found[0])) <= _SAME_PROBABILITY).sum())

    def _check_target(self, row: Row) -> float:
        found = row["label"]
        if found is None or found in (-1, ""):
            raise no_label(found)
        number = number_of(found)
        if number is None or not 0.0 <= number <= 1.0:
            raise RowProblem("unknown label", f"unknown label {quote(found)}; expected a relevance from 0 to 1")
        return number
