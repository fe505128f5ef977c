# SPDX-License-Identifier: Apache-2.0
"""Rows as model inputs, in numpy only: output of tasks, input of runtimes and of scoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating[Any]]
Feature = dict[str, IntArray]
# One array per output of a model, for one row, without padding.
RowOutputs = tuple[FloatArray, ...]


@dataclass(frozen=True)
class WindowMap:
    """The positions of one window's tokens in a text.

    Attributes:
        spans: ``[tokens, 2]`` first and past-the-end character of each token of the text; -1 for all other tokens.
    """

    spans: IntArray

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """First and last token of the characters ``start`` to ``end`` (exclusive).

        Returns:
            Token indices, or None if the window does not contain the complete span.
        """
        inside = np.flatnonzero(self.spans[:, 0] >= 0)
        if not inside.size or self.spans[inside[0], 0] > start or self.spans[inside[-1], 1] < end:
            return None
        covering = inside[(self.spans[inside, 1] > start) & (self.spans[inside, 0] < end)]
        return (int(covering[0]), int(covering[-1])) if covering.size else None


@dataclass(frozen=True)
class EncodedSplit:
    """A split as model inputs, with the data for scoring.

    Attributes:
        name: split name.
        features: unpadded inputs, each array int64 ``[tokens]``; several per example for windows and pairs of texts.
        example_of: ``[features]`` row of ``examples`` of each feature, ascending.
        examples: the units of scoring, each with an ``id`` (row number, or SQuAD's id): a row, or all rows of one
            query.
        windows: one map per feature if text is split into windows, else None.
        truncated: number of truncated examples.
        words: per feature ``[tokens]`` the word of each token, -1 for none, if words are labelled.
    """

    name: str
    features: list[Feature]
    example_of: IntArray
    examples: list[dict[str, Any]]
    windows: list[WindowMap] | None
    truncated: int = 0
    words: list[IntArray] | None = None

    @property
    def lengths(self) -> IntArray:
        """``[features]`` tokens of each feature."""
        return np.array([len(feature["input_ids"]) for feature in self.features], dtype=np.int64)


@dataclass(frozen=True)
class SplitScore:
    """Scores of one split.

    Attributes:
        metrics: metrics of the task, in their unit, and ``loss`` if it is a mean over rows.
        rows: one JSON-ready object per example, in the order of the split. Each has ``id``, ``prediction``, the
            columns of the task's metrics (:class:`sparse_deploy.gate.metric.PairedTest`), and ``logits`` if two
            models can be compared by them.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class ServedText:
    """One text, or pair of texts, of a request.

    Attributes:
        texts: the texts of the request.
        windows: a map per computed sequence, into the text from which the task reads spans.
    """

    texts: tuple[str, ...]
    windows: Sequence[WindowMap]


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: FloatArray) -> FloatArray:
    """Probabilities of one logit each."""
    # This form never computes exp of a large positive number, which overflows.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(logits.dtype)
