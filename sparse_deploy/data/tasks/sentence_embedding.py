# SPDX-License-Identifier: Apache-2.0
"""One vector per text: similarity of pairs, or retrieval of documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparse_deploy.data.encoded import EncodedSplit, Feature, FloatArray, RowOutputs, ServedText, SplitScore
from sparse_deploy.data.problems import RowProblem
from sparse_deploy.data.row_checks import Row, check_text, quote
from sparse_deploy.data.tasks.base import AnswerField, AnswerValues, Head, Output, Task, TaskKind, features_of, no_label
from sparse_deploy.data.tasks.pooling import Pooling
from sparse_deploy.data.tasks.regression import CORRELATIONS, correlations, number_of
from sparse_deploy.data.tasks.retrieval_metrics import RETRIEVAL_METRICS, retrieval_scores
from sparse_deploy.errors import ConfigError, DataError
from sparse_deploy.gate.metric import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from sparse_deploy.config.schema import DataSection

_DEFAULT_POOLING = Pooling()
# Smallest cosine of equal vectors, for a model and its INT8 form.
_SAME_COSINE = 0.98


@dataclass(frozen=True)
class SentenceEmbedding(Task):
    """One vector per text.

    Scored by correlations on pairs with a similarity in ``label``; without labels by retrieval: the second text of a
    row is a relevant document for the first, among the documents of all rows.

    Attributes:
        labelled: whether rows have a similarity.
    """

    text_columns: tuple[str, ...] = ("sentence1", "sentence2")
    pooling: Pooling | None = _DEFAULT_POOLING
    labelled: bool = True

    kind: ClassVar[TaskKind] = TaskKind.EMBEDDING
    head: ClassVar[Head] = Head.NONE
    outputs: ClassVar[tuple[Output, ...]] = (Output("sentence_embedding"),)
    known_metrics: ClassVar[Mapping[str, Metric]] = {**CORRELATIONS, **RETRIEVAL_METRICS}
    default_metrics: ClassVar[tuple[str, ...]] = ("spearman", "pearson")
    text_counts: ClassVar[tuple[int, ...]] = (2,)
    own_scores: ClassVar[tuple[str, ...]] = ("prediction", "logits", *RETRIEVAL_METRICS)

    def __post_init__(self) -> None:
        if not self.metrics and not self.labelled:
            object.__setattr__(self, "metrics", ("ndcg@10", "recall@1", "recall@10"))
        super().__post_init__()
        allowed = CORRELATIONS if self.labelled else RETRIEVAL_METRICS
        if wrong := [name for name in self.metrics if name not in allowed]:
            data = "pairs with a similarity" if self.labelled else "pairs without labels"
            raise ConfigError(f"task {self.name}: expected metrics of {data} ({', '.join(allowed)}), found {wrong[0]}")

    @property
    def columns(self) -> tuple[str, ...]:
        """See :attr:`Task.columns`."""
        return (*self.text_columns, "label") if self.labelled else self.text_columns

    @property
    def num_outputs(self) -> int:
        """See :attr:`Task.num_outputs`; it is the hidden size, which is not part of the task."""
        return 0

    def output_shapes(self, labels: int, width: int) -> list[tuple[int, ...]]:
        """See :meth:`Task.output_shapes`."""
        return [(width,)]

    def check_row(self, row: object) -> Row:
        """See :meth:`Task.check_row`."""
        if self.labelled:
            return super().check_row(row)
        return {column: check_text(row, column) for column in self.text_columns}

    def encode(
        self, examples: list[Row], tokenizer: "PreTrainedTokenizerFast", data: "DataSection", name: str
    ) -> EncodedSplit:
        """See :meth:`Task.encode`; each text is a separate feature, each document occurs once.

        Without labels an example has all documents of a query as a list.
        """
        if not self.labelled:
            examples = self._grouped(examples)
        texts, example_of, seen = [], [], set()
        for number, example in enumerate(examples):
            own = [example[column] for column in self.text_columns]
            if not self.labelled:
                own = [own[0], *(text for text in own[1] if text not in seen)]
                seen.update(own[1:])
            texts += own
            example_of += [number] * len(own)
        encoding = tokenizer(
            texts, truncation=True, max_length=data.max_length, padding=False, return_token_type_ids=True
        )
        cut = {of for of, one in zip(example_of, encoding.encodings or (), strict=False) if one.overflowing}
        return EncodedSplit(name, features_of(encoding), np.array(example_of), examples, None, len(cut))

    def encode_unlabelled(
        self, rows: Sequence[tuple[str, ...]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> list[Feature]:
        """See :meth:`Task.encode_unlabelled`; each text separately."""
        encoding = tokenizer(
            [text for row in rows for text in row],
            truncation=True,
            max_length=data.max_length,
            padding=False,
            return_token_type_ids=True,
        )
        return features_of(encoding)

    def training_columns(
        self, batch: dict[str, list[Any]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> dict[str, list[Any]]:
        """See :meth:`Task.training_columns`.

        Raises:
            ConfigError: always; sentence-transformers has the losses for this.
        """
        raise ConfigError(
            f"task {self.name}: sentence encoders are not fine-tuned by sparse-deploy; use sentence-transformers, then "
            f"export the folder that it saved"
        )

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :meth:`Task.score`; ``prediction`` is a pair's cosine, or the row of the best document."""
        vectors = np.stack([output[0] for output in outputs]).astype(np.float64)
        if vectors.ndim != 2:
            raise DataError(f"{self.name}: expected one vector per text, found arrays of shape {vectors.shape[1:]}")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        rows = self._similarities(split, vectors) if self.labelled else self._retrieved(split, vectors)
        return SplitScore(self.metrics_of_rows(rows), rows)

    def metrics_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """See :meth:`Task.metrics_of_rows`."""
        if self.labelled:
            return correlations(rows, self.metrics)
        return {name: float(np.mean([row[name] for row in rows])) for name in self.metrics}

    def same_predictions(self, expected: Sequence[FloatArray], found: Sequence[FloatArray], kept: FloatArray) -> float:
        """See :meth:`Task.same_predictions`: vectors whose cosine is 0.98 or more."""
        lengths = np.linalg.norm(expected[0], axis=1) * np.linalg.norm(found[0], axis=1)
        cosines = (expected[0] * found[0]).sum(axis=1) / lengths.clip(min=1e-12)
        return float((cosines >= _SAME_COSINE).sum())

    def prediction_of(self, outputs: RowOutputs) -> list[float]:
        """See :meth:`Task.prediction_of`: the vector, of unit length."""
        vector = outputs[0].astype(np.float64)
        unit: list[float] = (vector / max(float(np.linalg.norm(vector)), 1e-12)).tolist()
        return unit

    def answer_fields(self, labels: Sequence[str], width: int) -> tuple[AnswerField, ...]:
        """See :meth:`Task.answer_fields`."""
        return (AnswerField("sentence_embedding", "FP32", (width,)),)

    def answers(
        self, asked: Sequence[ServedText], outputs: Sequence[Sequence[RowOutputs]], labels: Sequence[str], limit: int
    ) -> dict[str, AnswerValues]:
        """The vector of each text."""
        return {"sentence_embedding": np.stack([windows[0][0] for windows in outputs])}

    def _similarities(self, split: EncodedSplit, vectors: FloatArray) -> list[Row]:
        cosines = (vectors[::2] * vectors[1::2]).sum(axis=1)
        return [
            {"id": example["id"], "label": example["label"], "prediction": float(one), "logits": [float(one)]}
            for example, one in zip(split.examples, cosines, strict=True)
        ]

    def _retrieved(self, split: EncodedSplit, vectors: FloatArray) -> list[Row]:
        document = self.text_columns[1]
        asked = np.flatnonzero(np.diff(split.example_of, prepend=-1))  # the first feature of an example is its query
        documents = np.setdiff1d(np.arange(len(vectors)), asked)
        known = dict.fromkeys(text for example in split.examples for text in example[document])
        place_of = {text: place for place, text in enumerate(known)}  # in the order of encode
        rows = []
        for example, query in zip(split.examples, asked, strict=True):
            scores: npt.NDArray[np.float64] = vectors[documents] @ vectors[query]
            relevance = np.zeros(len(documents))
            relevance[[place_of[text] for text in example[document]]] = 1.0
            best = int(scores.argmax())
            rows.append(
                {
                    "id": example["id"],
                    "label": int(relevance.argmax()),
                    "prediction": best,
                    "logits": [float(scores[best])],
                    **retrieval_scores(relevance, scores),
                }
            )
        return rows

    def _grouped(self, examples: list[Row]) -> list[Row]:
        query, document = self.text_columns
        grouped: dict[str, Row] = {}
        for example in examples:
            known = grouped.setdefault(example[query], {"id": example["id"], query: example[query], document: []})
            if example[document] not in known[document]:
                known[document].append(example[document])
        return list(grouped.values())

    def _check_target(self, row: Row) -> float:
        found = row["label"]
        if found is None or found in (-1, ""):
            raise no_label(found)
        number = number_of(found)
        if number is None:
            raise RowProblem("unknown label", f"unknown label {quote(found)}; expected a similarity as a number")
        return number
