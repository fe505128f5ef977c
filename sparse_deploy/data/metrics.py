# SPDX-License-Identifier: Apache-2.0
"""Scores of a whole split and of each of its examples, from the raw outputs of any runtime."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparse_deploy.data.features import EncodedSplit
from sparse_deploy.data.squad import WindowMap, best_answer
from sparse_deploy.data.tasks import Task, TaskKind
from sparse_deploy.errors import DataError

if TYPE_CHECKING:
    from transformers import EvalPrediction

FloatArray = npt.NDArray[np.floating[Any]]
Outputs = Sequence[tuple[FloatArray, ...]]
POSITIVE_LABEL = 1
_PARAGRAPH_DIGITS = 12
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class SplitScore:
    """Scores of one split.

    Attributes:
        metrics: ``task.metrics`` and, except for SQuAD, ``loss`` (mean cross entropy, or mean squared error). Shares
            0 to 1, correlations -1 to 1, SQuAD's 0 to 100.
        rows: one JSON-ready object per example, in the order of the split. Each has ``id`` and ``prediction``;
            classification ``label``, ``correct``, ``logits``; regression ``label``, ``score`` (negative squared
            error, so that higher is better everywhere), ``logits``; SQuAD ``answers``, ``exact_match``, ``f1``,
            ``logits`` (the highest start and end logit of its context tokens) and ``paragraph`` (a hash of the
            context: questions of one paragraph are no independent examples).
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]


def score_split(
    task: Task, split: EncodedSplit, outputs: Outputs, *, max_answer_length: int = 30, n_best: int = 20
) -> SplitScore:
    """Score what a model answered on a split.

    Args:
        task: the split's task.
        split: the encoded split.
        outputs: per feature ``(logits [labels],)``, or for SQuAD ``(start_logits, end_logits)``, each at least
            ``[tokens]`` of that feature (padding behind it is cut off).
        max_answer_length: longest SQuAD answer in tokens.
        n_best: start and end tokens considered per SQuAD window.

    Raises:
        DataError: fewer or more outputs than features, outputs of another width, or NaN or infinity in them.
    """
    if len(outputs) != len(split.features):
        raise DataError(
            f"{split.name}: expected one output for each of {len(split.features)} features, found {len(outputs)}"
        )
    for number, output in enumerate(outputs):
        if not all(np.isfinite(part).all() for part in output):
            raise DataError(
                f"{split.name}: the model answered feature {number} with NaN or infinity; its file is damaged"
            )
    if task.kind is TaskKind.QUESTION_ANSWERING:
        return _score_questions(task, split, outputs, max_answer_length, n_best)
    widths = {output[0].shape for output in outputs}
    if widths != {(task.num_outputs,)}:
        raise DataError(
            f"{task.name}: expected {task.num_outputs} logits per example, found "
            f"{', '.join(str(list(shape)) for shape in sorted(widths))}; use a model that was fine-tuned on this task"
        )
    logits = np.stack([output[0] for output in outputs]).astype(np.float64)
    labels = np.array([example["label"] for example in split.examples])
    if task.kind is TaskKind.REGRESSION:
        return _score_regression(task, split, logits, labels)
    return _score_classification(task, split, logits, labels)


def metrics_of_rows(task: Task, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``task.metrics`` over some of :attr:`SplitScore.rows`; what they say of all rows is in ``metrics``.

    Args:
        task: the rows' task.
        rows: at least one.
    """
    if task.kind is TaskKind.QUESTION_ANSWERING:
        return {name: float(np.mean([row[name] for row in rows])) for name in task.metrics}
    predictions, labels = (np.array([row[key] for row in rows]) for key in ("prediction", "label"))
    if task.kind is TaskKind.REGRESSION:
        return _correlations(task, predictions, labels)
    return _label_metrics(task, predictions, labels)


def compute_metrics_for(task: Task) -> "Callable[[EvalPrediction], dict[str, float]]":
    """The ``compute_metrics`` of a Hugging Face Trainer for a classification or regression task.

    The Trainer adds the loss itself. Not for SQuAD, whose score needs the text: use :func:`score_split`.
    """

    def compute(prediction: "EvalPrediction") -> dict[str, float]:
        outputs = prediction.predictions
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs, dtype=np.float64)
        labels = np.asarray(prediction.label_ids)
        if task.kind is TaskKind.REGRESSION:
            return _correlations(task, logits.reshape(-1), labels.reshape(-1))
        return _label_metrics(task, logits.argmax(axis=-1), labels)

    return compute


def _score_classification(
    task: Task, split: EncodedSplit, logits: npt.NDArray[np.float64], labels: npt.NDArray[Any]
) -> SplitScore:
    from scipy.special import log_softmax

    predictions = logits.argmax(axis=-1)
    loss = -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean()
    rows = [
        {
            "id": example["id"],
            "label": example["label"],
            "prediction": int(prediction),
            "correct": bool(prediction == example["label"]),
            "logits": row.tolist(),
        }
        for example, prediction, row in zip(split.examples, predictions, logits, strict=True)
    ]
    return SplitScore({**_label_metrics(task, predictions, labels), "loss": float(loss)}, rows)


def _score_regression(
    task: Task, split: EncodedSplit, logits: npt.NDArray[np.float64], labels: npt.NDArray[Any]
) -> SplitScore:
    predictions = logits[:, 0]
    squared = (predictions - labels) ** 2
    rows = [
        {
            "id": example["id"],
            "label": example["label"],
            "prediction": float(prediction),
            "score": -float(error),
            "logits": [float(prediction)],
        }
        for example, prediction, error in zip(split.examples, predictions, squared, strict=True)
    ]
    return SplitScore({**_correlations(task, predictions, labels), "loss": float(squared.mean())}, rows)


def _label_metrics(task: Task, predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, float]:
    from sklearn import metrics

    binary = {"pos_label": POSITIVE_LABEL, "zero_division": 0.0}
    scorers: dict[str, Callable[[], float]] = {
        "accuracy": lambda: metrics.accuracy_score(labels, predictions),
        "f1": lambda: metrics.f1_score(labels, predictions, **binary),
        "precision": lambda: metrics.precision_score(labels, predictions, **binary),
        "recall": lambda: metrics.recall_score(labels, predictions, **binary),
        "matthews": lambda: metrics.matthews_corrcoef(labels, predictions),
    }
    return {name: float(scorers[name]()) for name in task.metrics}


def _correlations(task: Task, predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, float]:
    from scipy import stats

    # A constant has no correlation with anything (scipy: NaN and a warning); as a score that is 0.
    if np.ptp(predictions) == 0.0 or np.ptp(labels) == 0.0 or not np.isfinite(predictions).all():
        return dict.fromkeys(task.metrics, 0.0)
    scorers = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    return {name: float(scorers[name](predictions, labels).statistic) for name in task.metrics}


def _score_questions(
    task: Task, split: EncodedSplit, outputs: Outputs, max_answer_length: int, n_best: int
) -> SplitScore:
    if split.windows is None:
        raise DataError(f"{split.name}: expected a split encoded with windows, found one without")
    rows: list[dict[str, Any]] = []
    bounds = np.searchsorted(split.example_of, np.arange(len(split.examples) + 1))
    for example, first, last in zip(split.examples, bounds[:-1], bounds[1:], strict=True):
        windows = split.windows[first:last]
        logits = [_cut(output, len(window.spans)) for output, window in zip(outputs[first:last], windows, strict=True)]
        answer = best_answer(example["context"], windows, logits, max_answer_length=max_answer_length, n_best=n_best)
        answers = list(example["answers"]["text"])
        exact_match, f1 = squad_scores(answer.text, answers)
        rows.append(
            {
                "id": example["id"],
                "answers": answers,
                "prediction": answer.text,
                "exact_match": exact_match,
                "f1": f1,
                "logits": _highest(windows, logits),
                "paragraph": hashlib.sha256(example["context"].encode()).hexdigest()[:_PARAGRAPH_DIGITS],
            }
        )
    return SplitScore(metrics_of_rows(task, rows), rows)


def _highest(windows: Sequence[WindowMap], logits: Sequence[tuple[FloatArray, ...]]) -> list[float]:
    """The highest start and end logit over the context tokens of all windows.

    A maximum moves by no more than its inputs do, so these two never overstate how far a question's logits moved.
    """
    inside = [window.spans[:, 0] >= 0 for window in windows]
    return [
        float(
            np.concatenate([part[index][mask] for part, mask in zip(logits, inside, strict=True)]).max(initial=_LOWEST)
        )
        for index in (0, 1)
    ]


def squad_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Official exact match and F1 of one answer, 0 to 100, the best over the accepted answers (0.3 ms per call)."""
    from torchmetrics.functional.text import squad

    result = squad(
        [{"prediction_text": prediction, "id": ""}],
        [{"answers": {"text": list(answers), "answer_start": [0] * len(answers)}, "id": ""}],
    )
    return float(result["exact_match"]), float(result["f1"])


def _cut(output: tuple[FloatArray, ...], tokens: int) -> tuple[FloatArray, FloatArray]:
    if len(output) != 2 or any(part.ndim != 1 or len(part) < tokens for part in output):
        shapes = [list(part.shape) for part in output]
        raise DataError(f"expected start and end logits for {tokens} tokens, found arrays of shape {shapes}")
    return output[0][:tokens], output[1][:tokens]
