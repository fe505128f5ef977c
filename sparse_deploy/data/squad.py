# SPDX-License-Identifier: Apache-2.0
"""SQuAD: sliding windows over a context, and the best answer span from start and end logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparse_deploy.data.encoded import WindowMap as WindowMap
from sparse_deploy.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import BatchEncoding, PreTrainedTokenizerFast

IntArray = npt.NDArray[np.int64]
# BERT's limit for the question, so that the window has tokens for the context (Devlin et al. 2019, run_squad).
MAX_QUESTION_TOKENS = 64


@dataclass(frozen=True)
class Answer:
    """A predicted answer.

    Attributes:
        text: part of the context; empty if no span was possible.
        score: sum of the start and end logits.
    """

    text: str
    score: float


def tokenize_windows(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: "PreTrainedTokenizerFast",
    max_length: int,
    doc_stride: int,
) -> tuple["BatchEncoding", list[WindowMap], IntArray]:
    """Split question-context pairs into overlapping windows of at most ``max_length`` tokens.

    Args:
        questions: questions; leading spaces are removed, and the text is truncated to 64 tokens.
        contexts: one context per question.
        tokenizer: a fast tokenizer.
        max_length: tokens per window, special tokens included.
        doc_stride: overlap of two windows in tokens.

    Returns:
        The encoding with one entry per window, the windows' maps, and the example index of each window.

    Raises:
        ConfigError: the overlap is too large for the window.
    """
    plain = [question.lstrip() for question in questions]
    offsets = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    cut = [cut_question(question, own) for question, own in zip(plain, offsets, strict=True)]
    longest = max(tokens for _, tokens in cut)
    room = max_length - longest - tokenizer.num_special_tokens_to_add(pair=True)
    if doc_stride >= room:
        raise ConfigError(
            f"data.max_length {max_length} leaves {room} context tokens next to a question of {longest}, so windows "
            f"can't overlap by data.doc_stride {doc_stride}; lower data.doc_stride or raise data.max_length"
        )
    encoding = tokenizer(
        [question for question, _ in cut],
        list(contexts),
        truncation="only_second",
        max_length=max_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        padding=False,
    )
    maps = [window_map(window, 1) for window in encoding.encodings or ()]
    return encoding, maps, np.asarray(encoding["overflow_to_sample_mapping"], dtype=np.int64)


def window_map(window: "Encoding", text: int) -> WindowMap:
    """The positions of a window's tokens in one of its texts: 0 for the first, 1 for the second."""
    inside = np.array([sequence == text for sequence in window.sequence_ids])
    return WindowMap(np.where(inside[:, None], np.array(window.offsets, dtype=np.int64).reshape(-1, 2), -1))


def cut_question(question: str, offsets: Sequence[tuple[int, int]]) -> tuple[str, int]:
    """A question, truncated to the largest number of tokens.

    Args:
        question: the question without leading spaces.
        offsets: first and past-the-end character of each token, without special tokens.

    Returns:
        The question, and its tokens.
    """
    if len(offsets) <= MAX_QUESTION_TOKENS:
        return question, len(offsets)
    return question[: offsets[MAX_QUESTION_TOKENS - 1][1]], MAX_QUESTION_TOKENS


def answer_positions(window: WindowMap, answers: dict[str, Any], cls_index: int) -> tuple[int, int]:
    """Training targets of one window: tokens of the first answer, or CLS twice if the window does not contain it."""
    if not answers["text"]:
        return cls_index, cls_index
    start = answers["answer_start"][0]
    return window.tokens_of(start, start + len(answers["text"][0])) or (cls_index, cls_index)


def best_answer(
    context: str,
    windows: Sequence[WindowMap],
    logits: Sequence[tuple[npt.NDArray[Any], ...]],
    *,
    max_answer_length: int = 30,
    n_best: int = 20,
) -> Answer:
    """The span with the highest sum of start and end logit over all windows of one question.

    Args:
        context: original text.
        windows: the windows of this question.
        logits: ``(start_logits, end_logits)`` per window, each ``[tokens]``.
        max_answer_length: longest span in tokens.
        n_best: start and end tokens considered per window (Devlin et al. 2019, run_squad).

    Returns:
        The answer. With equal scores the first window, then the earliest and shortest span is taken.
    """
    best = best_span(windows, logits, max_answer_length=max_answer_length, n_best=n_best)
    if best is None:
        return Answer("", float("-inf"))
    score, first, last = best
    return Answer(context[first:last], score)


def best_span(
    windows: Sequence[WindowMap],
    logits: Sequence[tuple[npt.NDArray[Any], ...]],
    *,
    max_answer_length: int = 30,
    n_best: int = 20,
) -> tuple[float, int, int] | None:
    """Score, first and past-the-end character of :func:`best_answer`; None if no span is possible."""
    best: tuple[float, int, int] | None = None
    for window, (start_logits, end_logits) in zip(windows, logits, strict=True):
        candidate = _best_span(window.spans, start_logits, end_logits, max_answer_length, n_best)
        if candidate is not None and (best is None or candidate[0] > best[0]):
            best = candidate
    return best


def no_answer_score(logits: Sequence[tuple[npt.NDArray[Any], ...]]) -> float:
    """Score of "no answer": the lowest score of the windows' first tokens (SQuAD v2's baseline)."""
    return min(float(start_logits[0] + end_logits[0]) for start_logits, end_logits in logits)


def squad_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Official exact match and F1 of one answer, 0 to 100, the best over the accepted answers.

    A question without an accepted answer scores 100 if the prediction is empty (evaluate-v2.0.py).
    """
    if not answers or not prediction.strip():
        same = 100.0 * (not answers and not prediction.strip())
        return same, same
    from torchmetrics.functional.text import squad

    result = squad(
        [{"prediction_text": prediction, "id": ""}],
        [{"answers": {"text": list(answers), "answer_start": [0] * len(answers)}, "id": ""}],
    )
    return float(result["exact_match"]), float(result["f1"])


def _best_span(
    spans: IntArray, start_logits: npt.NDArray[Any], end_logits: npt.NDArray[Any], max_tokens: int, n_best: int
) -> tuple[float, int, int] | None:
    """Score, first and past-the-end character of the best span of one window."""
    context = np.flatnonzero(spans[:, 0] >= 0)
    starts = np.sort(context[np.argsort(-start_logits[context], kind="stable")[:n_best]])
    ends = np.sort(context[np.argsort(-end_logits[context], kind="stable")[:n_best]])
    tokens = ends[None, :] - starts[:, None] + 1
    scores = np.where(
        (tokens >= 1) & (tokens <= max_tokens), start_logits[starts][:, None] + end_logits[ends][None, :], -np.inf
    )
    if not scores.size or not np.isfinite(scores.max()):
        return None
    start, end = np.unravel_index(int(scores.argmax()), scores.shape)
    return float(scores[start, end]), int(spans[starts[start], 0]), int(spans[ends[end], 1])
