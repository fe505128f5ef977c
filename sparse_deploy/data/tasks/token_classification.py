# SPDX-License-Identifier: Apache-2.0
"""One label per word: entities in IOB2 tags.

A row's words are joined by spaces and tokenized as text, like a server's texts; a word has the label of its first
token, and its other tokens are not in the loss.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sparse_deploy.data.encoded import (
    EncodedSplit,
    FloatArray,
    IntArray,
    RowOutputs,
    ServedText,
    SplitScore,
    softmax,
)  # fmt: skip
from sparse_deploy.data.problems import RowProblem
from sparse_deploy.data.row_checks import Row, quote
from sparse_deploy.data.tasks.base import AnswerField, AnswerValues, Head, Output, Task, TaskKind, inputs_of, no_label
from sparse_deploy.data.tasks.entities import OUTSIDE, entities_of
from sparse_deploy.data.tasks.label_metrics import counts_of, precision_recall_f1, summed
from sparse_deploy.errors import DataError
from sparse_deploy.gate.metric import Metric, PairedTest, by_name

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast

    from sparse_deploy.config.schema import DataSection

# The label that PyTorch's cross entropy ignores.
_NO_LABEL = -100
# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip


@dataclass(frozen=True)
class TokenClassification(Task):
    """One label per word."""

    text_columns: tuple[str, ...] = ("tokens",)

    kind: ClassVar[TaskKind] = TaskKind.TOKEN_CLASSIFICATION
    head: ClassVar[Head] = Head.TOKEN
    outputs: ClassVar[tuple[Output, ...]] = (Output("logits", per_token=True),)
    known_metrics: ClassVar[Mapping[str, Metric]] = by_name(
        Metric("f1", PairedTest.COUNTS),
        Metric("precision", PairedTest.COUNTS),
        Metric("recall", PairedTest.COUNTS),
        Metric("token_accuracy", PairedTest.MEAN),
    )
    default_metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall")
    text_counts: ClassVar[tuple[int, ...]] = (1,)
    own_scores: ClassVar[tuple[str, ...]] = ("prediction", "logits", "counts", "token_accuracy")

    def encode(
        self, examples: list[Row], tokenizer: "PreTrainedTokenizerFast", data: "DataSection", name: str
    ) -> EncodedSplit:
        """See :meth:`Task.encode`."""
        encoding, words = self._tokenize_words([example[self.text_columns[0]] for example in examples], tokenizer, data)
        plain = self.encode_texts([{**e, self.text_columns[0]: " ".join(e[self.text_columns[0]])} for e in examples],
                                  tokenizer, data, name)  # fmt: skip
        truncated = sum(bool(one.overflowing) for one in encoding.encodings or ())
        return dataclasses.replace(plain, examples=examples, words=words, truncated=truncated)

    def training_columns(
        self, batch: dict[str, list[Any]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> dict[str, list[Any]]:
        """See :meth:`Task.training_columns`."""
        encoding, words = self._tokenize_words(batch[self.text_columns[0]], tokenizer, data)
        order = self.order
        labels = []
        for word_of, tags in zip(words, batch["label"], strict=True):
            row = np.full(len(word_of), _NO_LABEL)
            for token, word in first_tokens(word_of):
                row[token] = order[tags[word]]
            labels.append(row.tolist())
        return {**inputs_of(encoding), "labels": labels}

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :meth:`Task.score`.

        Rows have ``label`` and ``prediction`` (ids per word; outside for truncated words), ``counts`` of entities, and
        ``logits``, the highest of each label over the tokens (a maximum changes at most as much as its inputs).
        """
        assert split.words is not None  # noqa: S101 - set by encode
        order = self.order
        outside = self.labels.index(OUTSIDE) if OUTSIDE in self.labels else 0
        rows = []
        for example, words, output in zip(split.examples, split.words, outputs, strict=True):
            if output[0].ndim != 2 or output[0].shape[1] != len(self.labels):
                raise DataError(
                    f"{self.name}: expected {len(self.labels)} logits per token, found an array of shape "
                    f"{list(output[0].shape)}; use a model that was fine-tuned on this task"
                )
            logits = output[0][:, order]
            said = [outside] * len(example["label"])
            for token, word in first_tokens(words):
                said[word] = int(logits[token].argmax())
            row = {"id": example["id"], "label": list(example["label"]), "prediction": said}
            tags = [self._named(row[key]) for key in ("label", "prediction")]
            rows.append(
                {
                    **row,
                    "counts": counts_of(*({*entities_of(side)} for side in tags)),
                    "token_accuracy": float(np.mean(np.array(row["label"]) == np.array(said))),
                    "logits": logits.max(axis=0).tolist(),
                }
            )
        return SplitScore(self.metrics_of_rows(rows), rows)

    def metrics_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """See :meth:`Task.metrics_of_rows`."""
        precision, recall, f1 = precision_recall_f1(*summed(rows))
        found = {"f1": f1, "precision": precision, "recall": recall}
        return {
            name: found[name] if name in found else float(np.mean([row[name] for row in rows])) for name in self.metrics
        }

    def same_predictions(self, expected: Sequence[FloatArray], found: Sequence[FloatArray], kept: FloatArray) -> float:
        """See :meth:`Task.same_predictions`: the share of tokens with the same label, per row."""
        same = (expected[0].argmax(axis=-1) == found[0].argmax(axis=-1)) & kept.astype(bool)
        return float((same.sum(axis=1) / kept.sum(axis=1)).sum())

    def answer_fields(self, labels: Sequence[str], width: int) -> tuple[AnswerField, ...]:
        """See :meth:`Task.answer_fields`."""
        return (AnswerField("entities", "BYTES"),)

    def answers(
        self, asked: Sequence[ServedText], outputs: Sequence[Sequence[RowOutputs]], labels: Sequence[str], limit: int
    ) -> dict[str, AnswerValues]:
        """Entities of each text, a JSON list of objects in the form of Hugging Face's pipeline.

        Each has ``entity_group``, ``score`` (the mean of its words' probabilities), ``word`` (its text), ``start`` and
        ``end`` (characters).
        """
        found = []
        for text, windows in zip(asked, outputs, strict=True):
            spans, words = text.windows[0].spans, words_of_text(text.texts[0], text.windows[0].spans)
            probabilities = softmax(windows[0][0])
            first = first_tokens(words)
            places = [np.flatnonzero(words == word) for _, word in first]
            tags = [labels[int(probabilities[token].argmax())] for token, _ in first]
            entities = []
            for entity in entities_of(tags):
                start = int(spans[places[entity.begin][0], 0])
                end = int(spans[places[entity.end - 1][-1], 1])
                score = np.mean([probabilities[first[word][0]].max() for word in range(entity.begin, entity.end)])
                entities.append(
                    {
                        "entity_group": entity.type,
                        "score": round(float(score), 6),
                        "word": text.texts[0][start:end],
                        "start": start,
                        "end": end,
                    }
                )
            found.append(json.dumps(entities, ensure_ascii=False))
        return {"entities": found}

    def _named(self, ids: Sequence[int]) -> list[str]:
        return [self.labels[one] for one in ids]

    def _tokenize_words(
        self, rows: Sequence[Sequence[str]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> tuple["BatchEncoding", list[IntArray]]:
        encoding = tokenizer(
            [" ".join(words) for words in rows],
            truncation=True,
            max_length=data.max_length,
            padding=False,
            return_token_type_ids=True,
            return_offsets_mapping=True,
        )
        found = []
        for number, words in enumerate(rows):
            ends = np.cumsum([len(word) + 1 for word in words]) - 1
            inside = np.array([sequence == 0 for sequence in encoding.sequence_ids(number)])
            spans = np.asarray(encoding["offset_mapping"][number], dtype=np.int64).reshape(-1, 2)
            # The last character decides, because the first may be the space before the word.
            word_of = np.searchsorted(ends, spans[:, 1] - 1, side="right")
            found.append(np.where(inside & (spans[:, 1] > spans[:, 0]), word_of, -1).astype(np.int64))
        return encoding, found

    def _check_text(self, row: Row, column: str) -> list[str]:
        words = row[column]
        if isinstance(words, str):
            words = words.split()
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise RowProblem("no text", f"{column}: expected a list of words, found {quote(words)}")
        if not words or not all(word.strip() for word in words):
            raise RowProblem("empty text", f"{column}: the text is empty; remove the row or give it words")
        return [" ".join(word.split()).replace(" ", "_") for word in words]

    def _check_target(self, row: Row) -> list[int]:
        tags = row["label"].split() if isinstance(row["label"], str) else row["label"]
        if not isinstance(tags, list):
            raise no_label(tags)
        words = row[self.text_columns[0]]
        count = len(words.split() if isinstance(words, str) else words)
        if len(tags) != count:
            raise RowProblem("other number of labels", f"expected a label for each of {count} words, found {len(tags)}")
        return [self.label_id(tag) for tag in tags]


def first_tokens(words: IntArray) -> list[tuple[int, int]]:
    """The first token of each word, and the word."""
    known = np.flatnonzero(words >= 0)
    _, first = np.unique(words[known], return_index=True)
    return [(int(token), int(words[token])) for token in known[np.sort(first)]]


def words_of_text(text: str, spans: IntArray) -> IntArray:
    """The word of each token of a text.

    Words are separated by white space or punctuation: a token begins a word unless it follows the previous token
    without a gap and both are letters or digits there. In scripts without spaces each token is a word.

    Args:
        text: the text of the request.
        spans: ``[tokens, 2]``, see :class:`sparse_deploy.data.encoded.WindowMap`.
    """
    words = np.full(len(spans), -1, dtype=np.int64)
    word, last = -1, -1
    for token, (start, end) in enumerate(spans):
        while start < end and start >= 0 and text[start].isspace():
            start += 1
        if start < 0 or start >= end:
            continue
        joined = (
            last == start
            and start > 0
            and all(one.isalnum() and not _unspaced(one) for one in text[start - 1 : start + 1])
        )
        word += not joined
        words[token] = word
        last = end
    return words


def _unspaced(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _UNSPACED)
