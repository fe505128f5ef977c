# SPDX-License-Identifier: Apache-2.0
"""Task metrics of a cell over complete validation splits, with the prediction of every example."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.artifacts import write_text_atomically
from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.features import EncodedSplit, encode_split, load_tokenizer
from sparse_deploy.data.loading import load_split, row_sha256, values_sha256
from sparse_deploy.data.metrics import Scorer, score_split
from sparse_deploy.data.own_data import source_table
from sparse_deploy.data.tasks import Task, TaskKind
from sparse_deploy.data.unlabelled import read_texts
from sparse_deploy.errors import ArtifactError
from sparse_deploy.evaluation.requests import Requests
from sparse_deploy.measurement.interleave import Worker

PREDICTIONS_FOLDER = "predictions"
Row = dict[str, Any]


@dataclass(frozen=True)
class ValidationSplit:
    """A split to score.

    Attributes:
        suffix: suffix of its metrics' names; empty for the main split.
        encoded: rows and model inputs.
        requests: the same inputs for the workers.
        digests: fingerprint of every row, in order; see :func:`sparse_deploy.data.loading.row_sha256`.
    """

    suffix: str
    encoded: EncodedSplit
    requests: Requests
    digests: tuple[str, ...]

    def qualified(self, metric: str) -> str:
        """The metric's name with the suffix."""
        return f"{metric}_{self.suffix}" if self.suffix else metric


@dataclass(frozen=True)
class CellScore:
    """The scores of a cell.

    Attributes:
        metrics: metrics of all splits; names of a second split's metrics have its suffix.
        rows: per-example results by suffix, see :class:`sparse_deploy.data.encoded.SplitScore`, each with the row's
            fingerprint as ``sha256``.
    """

    metrics: dict[str, float]
    rows: dict[str, list[Row]]


def load_validation(
    task: Task,
    data: DataSection,
    model_folder: Path,
    data_dir: Path | None,
    note: Callable[[str], None] = lambda message: None,
) -> tuple[ValidationSplit, ...]:
    """Load and encode every validation split of a task with the model's tokenizer.

    Args:
        task: the task.
        data: the recipe's section.
        model_folder: folder of the tokenizer.
        data_dir: folder with the text of named tasks; None means the hub.
        note: called with a sentence per kind of skipped row.

    Raises:
        DataError: a split is missing or unusable.
        CheckpointError: the folder has no usable tokenizer.
    """
    tokenizer = load_tokenizer(model_folder)
    splits = []
    for suffix, name in task.validation_splits.items():
        rows = load_split(task, name, data_dir, data=data, limit=data.validation_samples, note=note)
        encoded = encode_split(task, rows, tokenizer, data, name=name)
        requests = Requests.from_features(encoded.features, tokenizer.pad_token_id or 0)
        digests = tuple(row_sha256(task, example) for example in encoded.examples)
        splits.append(ValidationSplit(suffix, encoded, requests, digests))
    return tuple(splits)


def load_unlabelled(
    task: Task,
    data: DataSection,
    model_folder: Path,
    note: Callable[[str], None] = lambda message: None,
) -> tuple[ValidationSplit]:
    """Load and encode texts without labels, for :class:`sparse_deploy.data.agreement.ModelAgreement`.

    Args:
        task: task of the model. For a task of pairs, the next text completes a row with one text.
        data: the recipe's section; ``source`` is set.
        model_folder: folder of the tokenizer.
        note: called with a sentence per kind of skipped row.

    Raises:
        ConfigError: a missing column, or several possible columns.
        DataError: the data is unreadable or has no text.
        CheckpointError: the folder has no usable tokenizer.
    """
    table = source_table(data)
    own = task.text_columns if set(task.text_columns) <= set(table.columns()) else ()
    read = read_texts(
        table.source, data.text_columns or own, policy=data.on_problem, split=table.split, config=table.config
    )
    for line in read.problems.summary():
        note(line)
    rows = read.rows[: data.validation_samples]
    if task.kind is TaskKind.EMBEDDING:  # each text has a separate vector
        rows = [(text,) for row in rows for text in row]
    tokenizer = load_tokenizer(model_folder)
    features = task.encode_unlabelled(rows, tokenizer, data)
    examples = [{"id": number, "texts": list(row)} for number, row in enumerate(rows)]
    encoded = EncodedSplit("texts without labels", features, np.arange(len(rows)), examples, None)
    digests = tuple(values_sha256(row) for row in rows)
    return (ValidationSplit("", encoded, Requests.from_features(features, tokenizer.pad_token_id or 0), digests),)


def score_cell(
    rival: Worker, task: Scorer, splits: Sequence[ValidationSplit], scratch: Path, *, batch_size: int, data: DataSection
) -> CellScore:
    """Run every request of every split and score the outputs.

    Args:
        rival: the opened worker of the cell.
        task: scorer of the outputs.
        splits: see :func:`load_validation`.
        scratch: folder for the files that are exchanged with the worker.
        batch_size: requests per batch.
        data: the window settings that the splits were encoded with.

    Raises:
        WorkerError: the worker ended.
        DataError: the outputs have a wrong width, or NaN.
    """
    metrics: dict[str, float] = {}
    rows: dict[str, list[Row]] = {}
    for split in splits:
        outputs = _answer(rival, task, split, scratch, batch_size)
        score = score_split(task, split.encoded, outputs, data)
        metrics |= {split.qualified(name): value for name, value in score.metrics.items()}
        rows[split.suffix] = [row | {"sha256": sha} for row, sha in zip(score.rows, split.digests, strict=True)]
    return CellScore(metrics, rows)


def write_predictions(report_dir: Path, cell: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Store per-example results as JSON lines, one file per split.

    Args:
        report_dir: the report's folder.
        cell: id of the cell.
        rows: results by the split's suffix.

    Returns:
        The main split's file, relative to the report.
    """
    folder = report_dir / PREDICTIONS_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{folder}: can't make the folder: {error}; choose another --report") from error
    for suffix, lines in rows.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text_atomically(folder / predictions_file(cell, suffix), text)
    return f"{PREDICTIONS_FOLDER}/{predictions_file(cell, next(iter(rows)))}"


def predictions_file(cell: str, suffix: str) -> str:
    """Name of the file with a cell's per-example results on one split."""
    return f"{cell}-{suffix}.jsonl" if suffix else f"{cell}.jsonl"


def _answer(
    rival: Worker, task: Scorer, split: ValidationSplit, scratch: Path, batch_size: int
) -> list[tuple[NDArray[np.floating[Any]], ...]]:
    questions = scratch / f"requests-{split.suffix or 'main'}.npz"
    answers = scratch / "answers.npz"
    if not questions.is_file():
        split.requests.save(questions)
    rival.call(
        "predict", requests=str(questions), batch_size=batch_size, output=str(answers), per_token=list(task.per_token)
    )
    with np.load(answers, allow_pickle=False) as stored:
        ends = np.cumsum(stored["sizes"])[:-1]
        columns = [np.split(stored[name], ends) for name in stored.files if name != "sizes"]
    return list(zip(*columns, strict=True))
