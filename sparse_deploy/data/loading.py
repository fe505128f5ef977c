# SPDX-License-Identifier: Apache-2.0
"""Labelled text from a local folder, from the hub, or from the embedded demo, checked row by row."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_deploy.data.demo_text import demo_rows
from sparse_deploy.data.tasks import Task, TaskKind
from sparse_deploy.errors import DataError

if TYPE_CHECKING:
    import datasets

Row = dict[str, Any]
SUFFIXES = (".jsonl.gz", ".jsonl")
MAX_STSB_SCORE = 5.0


class _RowError(Exception):
    """What is wrong with one row; the file and the row number are added where they are known."""


def load_split(
    task: Task, split: str, data_dir: Path | None, *, limit: int | None = None, shuffle_seed: int | None = None
) -> "datasets.Dataset":
    """Load one split of a task.

    Args:
        task: which task.
        split: split name, such as ``train`` or ``validation_matched``.
        data_dir: folder that holds ``<task>/<split>.jsonl.gz`` or ``.jsonl``; the hub is asked when None. The demo
            task falls back to its embedded text when the folder has no ``demo``.
        limit: keep only so many rows, after the shuffle.
        shuffle_seed: shuffle with this seed; file order when None.

    Returns:
        The columns ``task.columns``. Labels are ids (int64), scores of a regression float64.

    Raises:
        DataError: missing, unreadable, or a row that the task can't use; names the file and the row.
    """
    import datasets

    if data_dir is not None and not (task.name == "demo" and not (data_dir / task.name).is_dir()):
        path = split_file(task, split, data_dir)
        rows = _checked_rows(task, _read_jsonl(path), str(path))
    elif task.name == "demo":
        rows = _demo_split(split)
    else:
        source = f"{task.hub_dataset} ({split})"
        rows = _checked_rows(task, _from_hub(task, split), source)
    if shuffle_seed is not None:
        rows = [rows[i] for i in np.random.default_rng(shuffle_seed).permutation(len(rows))]
    return datasets.Dataset.from_list(rows[:limit])


def row_sha256(task: Task, row: Row) -> str:
    """Fingerprint of one checked row, 16 hexadecimal digits: its texts and what it is scored against."""
    text = json.dumps([row[column] for column in task.columns], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _demo_split(split: str) -> list[Row]:
    try:
        return demo_rows(split)
    except KeyError:
        raise DataError(f"demo has the splits train and validation, not {split!r}") from None


def split_file(task: Task, split: str, data_dir: Path) -> Path:
    """The file that holds a split.

    Raises:
        DataError: there is none.
    """
    folder = data_dir / task.name
    for suffix in SUFFIXES:
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    if not data_dir.is_dir():
        found = "no such folder"
    elif not folder.is_dir():
        found = f"found no folder {task.name!r}"
    else:
        found = f"found {', '.join(sorted(p.name for p in folder.iterdir())) or 'an empty folder'}"
    raise DataError(f"{data_dir}: expected {task.name}/{split}.jsonl.gz or {task.name}/{split}.jsonl, {found}")


def _read_jsonl(path: Path) -> list[Any]:
    rows: list[Any] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for line in lines:
                rows.append(json.loads(line))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{path}, row {len(rows) + 1}: expected one JSON object per line, found broken JSON ({error}); repair or "
            f"remove the line"
        ) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: unreadable after row {len(rows)} ({error}); expected UTF-8 JSON lines"
            f"{', gzip-compressed' if path.suffix == '.gz' else ''}; copy or download the file again"
        ) from error
    return rows


def _from_hub(task: Task, split: str) -> list[Any]:
    import datasets

    try:
        loaded = datasets.load_dataset(task.hub_dataset, task.hub_config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{task.name}: split {split!r} of {task.hub_dataset} is not to be had from the hub: {reason}; pass "
            f"--data-dir with a folder that holds {task.name}/{split}.jsonl.gz"
        ) from error
    rows: list[Any] = loaded.to_list()
    return rows


def _checked_rows(task: Task, rows: Sequence[Any], source: str) -> list[Row]:
    if not rows:
        raise DataError(f"{source}: the split is empty; expected at least one row")
    check = _checked_question if task.kind is TaskKind.QUESTION_ANSWERING else _checked_example
    checked = []
    for number, row in enumerate(rows, start=1):
        try:
            _check_text(task, row)
            checked.append(check(task, row))
        except _RowError as error:
            raise DataError(f"{source}, row {number}: {error}") from error
    return checked


def _check_text(task: Task, row: object) -> None:
    if not isinstance(row, dict):
        raise _RowError(f"expected a JSON object with {', '.join(task.columns)}, found {_quote(row)}")
    missing = [column for column in task.columns if column not in row]
    if missing:
        raise _RowError(f"expected the columns {', '.join(task.columns)}; {', '.join(missing)} missing, found {[*row]}")
    for column in task.text_columns:
        if not isinstance(row[column], str):
            raise _RowError(f"{column}: expected text, found {_quote(row[column])}")
        if not row[column].strip():
            raise _RowError(f"{column}: the text is empty; remove the row or give it text")


def _checked_example(task: Task, row: Row) -> Row:
    label = _score(row["label"]) if task.kind is TaskKind.REGRESSION else _label_id(task, row["label"])
    return {**{column: row[column] for column in task.text_columns}, "label": label}


def _label_id(task: Task, label: object) -> int:
    if label in task.labels:
        return task.labels.index(label)
    if label is None or label == -1:
        raise _RowError(f"no label (found {_quote(label)}); scoring and training need labelled rows, use another split")
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(task.labels):
        return label
    known = ", ".join(f"{i} {name}" for i, name in enumerate(task.labels))
    raise _RowError(f"unknown label {_quote(label)}; {task.name} knows {known}")


def _score(label: object) -> float:
    if label is None or label == -1:
        raise _RowError(f"no label (found {_quote(label)}); scoring and training need labelled rows, use another split")
    if isinstance(label, bool) or not isinstance(label, int | float) or not 0.0 <= label <= MAX_STSB_SCORE:
        raise _RowError(f"unknown label {_quote(label)}; expected a similarity score from 0 to {MAX_STSB_SCORE:g}")
    return float(label)


def _checked_question(task: Task, row: Row) -> Row:
    answers = row["answers"]
    texts, starts = (answers.get("text"), answers.get("answer_start")) if isinstance(answers, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise _RowError(
            f"answers: expected {{text: [...], answer_start: [...]}} of equal length, found {_quote(answers)}"
        )
    if not texts:
        raise _RowError("no answer; SQuAD v1.1 has one for each question (v2 data are not supported)")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or not text:
            raise _RowError(f"answers: expected text and its integer offset, found {_quote([text, start])}")
        found = row["context"][start : start + len(text)] if start >= 0 else ""
        if found != text:
            raise _RowError(f"answer {_quote(text)} is not at offset {start} of the context, which has {_quote(found)}")
    return {
        "id": str(row["id"]),
        **{column: row[column] for column in task.text_columns},
        "answers": {"text": texts, "answer_start": starts},
    }


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
