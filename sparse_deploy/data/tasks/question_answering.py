# SPDX-License-Identifier: Apache-2.0
"""Answers as spans of a context, with or without unanswerable questions (SQuAD v2)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparse_deploy.data.encoded import (
    EncodedSplit,
    FloatArray,
    RowOutputs,
    ServedText,
    SplitScore,
    WindowMap,
)  # fmt: skip
from sparse_deploy.data.problems import RowProblem
from sparse_deploy.data.row_checks import Row, quote
from sparse_deploy.data.squad import answer_positions, best_span, no_answer_score, squad_scores, tokenize_windows
from sparse_deploy.data.tasks.base import (
    AnswerField,
    AnswerValues,
    Head,
    Output,
    Task,
    TaskKind,
    features_of,
    inputs_of,
)  # fmt: skip
from sparse_deploy.errors import DataError
from sparse_deploy.gate.metric import Metric, PairedTest, by_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from sparse_deploy.config.schema import DataSection

_PARAGRAPH_DIGITS = 12
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Answers as spans of a context.

    Attributes:
        unanswerable: whether a question may have no answer in its context; the answer is then an empty text if the
            score of the first token is higher than that of any span.
    """

    text_columns: tuple[str, ...] = ("question", "context")
    unanswerable: bool = False

    kind: ClassVar[TaskKind] = TaskKind.QUESTION_ANSWERING
    head: ClassVar[Head] = Head.QUESTION
    outputs: ClassVar[tuple[Output, ...]] = (Output("start_logits", per_token=True), Output("end_logits", True))
    known_metrics: ClassVar[Mapping[str, Metric]] = by_name(
        Metric("f1", PairedTest.MEAN, 100.0), Metric("exact_match", PairedTest.MEAN, 100.0)
    )
    default_metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    target: ClassVar[str] = "answers"
    text_counts: ClassVar[tuple[int, ...]] = (2,)
    request_texts: ClassVar[tuple[str, str]] = ("question", "context")
    shared_scores: ClassVar[tuple[str, ...]] = ("paragraph",)
    own_scores: ClassVar[tuple[str, ...]] = ("prediction", "logits", "exact_match", "f1")

    @property
    def columns(self) -> tuple[str, ...]:
        """See :attr:`Task.columns`; ``id`` is optional for own data."""
        return ("id", *self.text_columns, "answers") if self.hub_dataset else (*self.text_columns, "answers")

    @property
    def num_outputs(self) -> int:
        """See :attr:`Task.num_outputs`: start and end."""
        return 2

    def output_shapes(self, labels: int, width: int) -> list[tuple[int, ...]]:
        """See :meth:`Task.output_shapes`."""
        return [(-1,), (-1,)]

    def input_settings(self, data: "DataSection") -> dict[str, int]:
        """See :meth:`Task.input_settings`."""
        return {
            "max_length": data.max_length, "doc_stride": data.doc_stride, "max_answer_length": data.max_answer_length,
        }  # fmt: skip

    def group_of(self, row: Row) -> str:
        """See :meth:`Task.group_of`: the context."""
        return str(row[self.text_columns[1]])

    def stratum_of(self, row: Row) -> object:
        """See :meth:`Task.stratum_of`: answerable or not."""
        return bool(row["answers"]["text"])

    def check_row(self, row: object) -> Row:
        """See :meth:`Task.check_row`."""
        checked = super().check_row(row)
        assert isinstance(row, dict)  # noqa: S101 - checked there
        return {"id": str(row["id"]), **checked} if "id" in row else checked

    def encode(
        self, examples: list[Row], tokenizer: "PreTrainedTokenizerFast", data: "DataSection", name: str
    ) -> EncodedSplit:
        """See :meth:`Task.encode`."""
        question, context = self.text_columns
        encoding, windows, example_of = tokenize_windows(
            [example[question] for example in examples],
            [example[context] for example in examples],
            tokenizer,
            data.max_length,
            data.doc_stride,
        )
        return EncodedSplit(name, features_of(encoding), example_of, examples, windows)

    def training_columns(
        self, batch: dict[str, list[Any]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> dict[str, list[Any]]:
        """See :meth:`Task.training_columns`: one row per window with ``start_positions`` and ``end_positions``.

        They are the position of the first token if the window does not contain the answer, or there is none.
        """
        question, context = self.text_columns
        encoding, windows, example_of = tokenize_windows(
            batch[question], batch[context], tokenizer, data.max_length, data.doc_stride
        )
        positions = [
            answer_positions(window, batch["answers"][example], ids.index(tokenizer.cls_token_id))
            for window, example, ids in zip(windows, example_of, encoding["input_ids"], strict=True)
        ]
        return {
            **inputs_of(encoding),
            "start_positions": [start for start, _ in positions],
            "end_positions": [end for _, end in positions],
        }

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: "DataSection") -> SplitScore:
        """See :meth:`Task.score`.

        Rows have ``answers``, ``exact_match``, ``f1``, ``logits`` (the highest start and end logit of the context's
        tokens) and ``paragraph`` (a hash of the context, because questions of a paragraph are not independent).
        """
        if split.windows is None:
            raise DataError(f"{split.name}: expected a split encoded with windows, found one without")
        rows: list[dict[str, Any]] = []
        bounds = np.searchsorted(split.example_of, np.arange(len(split.examples) + 1))
        for example, first, last in zip(split.examples, bounds[:-1], bounds[1:], strict=True):
            windows = split.windows[first:last]
            logits = [
                _cut(output, len(window.spans)) for output, window in zip(outputs[first:last], windows, strict=True)
            ]
            context = example[self.text_columns[1]]
            _, start, end = self._best(windows, logits, data.max_answer_length) or (_LOWEST, 0, 0)
            answers = list(example["answers"]["text"])
            exact_match, f1 = squad_scores(context[start:end], answers)
            rows.append(
                {
                    "id": example["id"],
                    "answers": answers,
                    "prediction": context[start:end],
                    "exact_match": exact_match,
                    "f1": f1,
                    "logits": _highest(windows, logits),
                    "paragraph": hashlib.sha256(context.encode()).hexdigest()[:_PARAGRAPH_DIGITS],
                }
            )
        return SplitScore(self.metrics_of_rows(rows), rows)

    def metrics_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """See :meth:`Task.metrics_of_rows`."""
        return {name: float(np.mean([row[name] for row in rows])) for name in self.metrics}

    def same_predictions(self, expected: Sequence[FloatArray], found: Sequence[FloatArray], kept: FloatArray) -> float:
        """See :meth:`Task.same_predictions`: start and end count one half each."""
        same = 0.0
        for one, other in zip(expected, found, strict=True):
            places = [np.where(kept.astype(bool), side, -np.inf).argmax(axis=1) for side in (one, other)]
            same += float((places[0] == places[1]).sum())
        return same / len(expected)

    def prediction_of(self, outputs: RowOutputs) -> list[int]:
        """See :meth:`Task.prediction_of`: the most probable first and last token."""
        return [int(output.argmax()) for output in outputs]

    def answer_fields(self, labels: Sequence[str], width: int) -> tuple[AnswerField, ...]:
        """See :meth:`Task.answer_fields`."""
        fields = (
            AnswerField("answer", "BYTES"),
            AnswerField("score", "FP32"),
            AnswerField("start", "INT64"),
            AnswerField("end", "INT64"),
        )
        return (*fields, AnswerField("no_answer_score", "FP32")) if self.unanswerable else fields

    def answers(
        self, asked: Sequence[ServedText], outputs: Sequence[Sequence[RowOutputs]], labels: Sequence[str], limit: int
    ) -> dict[str, AnswerValues]:
        """The best span of each context: its text, its score (sum of both logits), first and past-the-end character.

        A context without a token, and a question without an answer, get an empty text, characters 0 to 0; without a
        token the score is the lowest FP32 number.
        """
        found: list[tuple[str, float, int, int]] = []
        for text, logits in zip(asked, outputs, strict=True):
            pairs = [(row[0], row[1]) for row in logits]
            score, start, end = self._best(text.windows, pairs, limit) or (_LOWEST, 0, 0)
            found.append((text.texts[1][start:end], score, start, end))
        texts, scores, starts, ends = ([row[part] for row in found] for part in range(4))
        answer: dict[str, AnswerValues] = {
            "answer": [str(text) for text in texts],
            "score": np.array(scores, dtype=np.float32),
            "start": np.array(starts, dtype=np.int64),
            "end": np.array(ends, dtype=np.int64),
        }
        if self.unanswerable:
            none = [no_answer_score([(row[0], row[1]) for row in logits]) for logits in outputs]
            answer["no_answer_score"] = np.array(none, dtype=np.float32)
        return answer

    def _best(
        self, windows: Sequence[WindowMap], logits: Sequence[tuple[FloatArray, ...]], limit: int
    ) -> tuple[float, int, int] | None:
        """Score, first and past-the-end character of the answer; an empty span if no span has a higher score."""
        best = best_span(windows, logits, max_answer_length=limit)
        if self.unanswerable and (best is None or no_answer_score(logits) > best[0]):
            return no_answer_score(logits), 0, 0
        return best

    def _check_target(self, row: Row) -> dict[str, list[Any]]:
        answers = row["answers"]
        texts, starts = (
            (answers.get("text"), answers.get("answer_start")) if isinstance(answers, dict) else (None, None)
        )
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise RowProblem(
                "no answers",
                f"answers: expected {{text: [...], answer_start: [...]}} of equal length, found {quote(answers)}",
            )
        if not texts and not self.unanswerable:
            raise RowProblem(
                "no answer",
                "no answer; SQuAD v1.1 has one for each question, and data with unanswerable ones (SQuAD v2) need "
                "task.unanswerable: true",
            )
        for text, start in zip(texts, starts, strict=True):
            if not isinstance(text, str) or not isinstance(start, int) or not text:
                raise RowProblem(
                    "damaged answer", f"answers: expected text and its integer offset, found {quote([text, start])}"
                )
            context = row[self.text_columns[1]]
            found = context[start : start + len(text)] if start >= 0 else ""
            if found != text:
                raise RowProblem(
                    "misplaced answer",
                    f"answer {quote(text)} is not at offset {start} of the context, which has {quote(found)}",
                )
        return {"text": texts, "answer_start": starts}


def _highest(windows: Sequence[WindowMap], logits: Sequence[tuple[FloatArray, ...]]) -> list[float]:
    """The highest start and end logit over the context tokens of all windows.

    A maximum changes at most as much as its inputs, so these two never overstate the change of a question's logits.
    """
    inside: list[npt.NDArray[np.bool_]] = [window.spans[:, 0] >= 0 for window in windows]
    return [
        float(
            np.concatenate([part[index][mask] for part, mask in zip(logits, inside, strict=True)]).max(initial=_LOWEST)
        )
        for index in (0, 1)
    ]


def _cut(output: RowOutputs, tokens: int) -> tuple[FloatArray, FloatArray]:
    if len(output) != 2 or any(part.ndim != 1 or len(part) < tokens for part in output):
        shapes = [list(part.shape) for part in output]
        raise DataError(f"expected start and end logits for {tokens} tokens, found arrays of shape {shapes}")
    return output[0][:tokens], output[1][:tokens]
