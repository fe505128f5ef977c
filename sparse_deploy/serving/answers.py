# SPDX-License-Identifier: Apache-2.0
"""What a model's logits mean: labels and scores, a number, or a span of the context."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.data.squad import WindowMap, best_span
from sparse_deploy.serving.inference_protocol import Tensor

Outputs = tuple[NDArray[np.float32], ...]


def classification(labels: Sequence[str], outputs: Sequence[Outputs]) -> list[Tensor]:
    """The likeliest label of each text, its probability, and those of all labels.

    Args:
        labels: by id.
        outputs: ``(logits,)`` of ``[labels]`` per text.
    """
    logits = np.stack([row[0] for row in outputs])
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    best = probabilities.argmax(axis=1)
    rows = len(outputs)
    return [
        Tensor("label", (rows,), [labels[index] for index in best]),
        Tensor("score", (rows,), probabilities[np.arange(rows), best]),
        Tensor("probabilities", probabilities.shape, probabilities),
        Tensor("logits", logits.shape, logits),
    ]


def regression(outputs: Sequence[Outputs]) -> list[Tensor]:
    """The number that the model gives each text."""
    return [Tensor("score", (len(outputs),), np.array([row[0][0] for row in outputs], dtype=np.float32))]


def question_answering(
    contexts: Sequence[str],
    windows: Sequence[Sequence[WindowMap]],
    outputs: Sequence[Sequence[Outputs]],
    max_answer_length: int,
) -> list[Tensor]:
    """The best span of each context.

    Args:
        contexts: original texts.
        windows: of each question.
        outputs: ``(start_logits, end_logits)`` of each window of each question.
        max_answer_length: longest answer in tokens.

    Returns:
        The answer, its score (sum of both logits), and where it lies: first and past-the-end character. A context
        without a token answers with an empty text, characters 0 to 0 and the lowest score that FP32 has.
    """
    answers, scores, starts, ends = [], [], [], []
    for context, maps, logits in zip(contexts, windows, outputs, strict=True):
        best = best_span(maps, logits, max_answer_length=max_answer_length)
        score, start, end = best or (float(np.finfo(np.float32).min), 0, 0)
        answers.append(context[start:end])
        scores.append(score)
        starts.append(start)
        ends.append(end)
    rows = len(contexts)
    return [
        Tensor("answer", (rows,), answers),
        Tensor("score", (rows,), np.array(scores, dtype=np.float32)),
        Tensor("start", (rows,), np.array(starts, dtype=np.int64)),
        Tensor("end", (rows,), np.array(ends, dtype=np.int64)),
    ]


def tensors(names: Sequence[str], outputs: Sequence[Outputs]) -> list[Tensor]:
    """The model's own outputs, for tensors that came in.

    Args:
        names: of the outputs.
        outputs: per row, each of one length.
    """
    stacked = [np.stack([row[index] for row in outputs]) for index in range(len(names))]
    return [Tensor(name, values.shape, values) for name, values in zip(names, stacked, strict=True)]
