# SPDX-License-Identifier: Apache-2.0
"""Labelled text from a local folder, from the hub, or from the embedded demo, checked row by row."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.demo_text import demo_rows
from sparse_deploy.data.own_data import own_split
from sparse_deploy.data.problems import Problems, RowProblem
from sparse_deploy.data.row_checks import Row
from sparse_deploy.data.tables import Table
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import DataError, one_line

if TYPE_CHECKING:
    import datasets

SUFFIXES = (".jsonl.gz", ".jsonl")


def load_split(
    task: Task,
    split: str,
    data_dir: Path | None,
    *,
    data: DataSection | None = None,
    limit: int | None = None,
    shuffle_seed: int | None = None,
    note: Callable[[str], None] = lambda message: None,
) -> "datasets.Dataset":
    """Load one split of a task.

    Args:
        task: the task.
        split: split name, such as ``train`` or ``validation_matched``.
        data_dir: folder with ``<task>/<split>.jsonl.gz`` or ``.jsonl``; None means the hub. The demo
            task uses its embedded text if the folder has no ``demo``.
        data: the recipe's section: the user's data, and the treatment of bad rows.
        limit: largest number of rows to keep, after the shuffle.
        shuffle_seed: seed of the shuffle; None means file order.
        note: called with a sentence per kind of skipped row.

    Returns:
        The columns ``task.columns``. Labels are ids (int64), scores of a regression float64.

    Raises:
        DataError: the data is missing, unreadable, or has an unusable row; the message has the file and the row.
    """
    import datasets

    data = data or DataSection()
    problems = Problems(f"{task.hub_dataset} ({split})", data.on_problem)
    if data.source:
        problems.source = data.source
        rows = own_split(task, split, data, problems)
    elif data_dir is not None and not (task.name == "demo" and not (data_dir / task.name).is_dir()):
        path = split_file(task, split, data_dir)
        problems.source = str(path)
        rows = _checked_rows(task, Table(str(path)).rows(data.on_problem, problems), problems)
    elif task.name == "demo":
        rows = _demo_split(split)
    elif task.hub_dataset:
        rows = _checked_rows(task, enumerate(_from_hub(task, split), start=1), problems)
    else:
        raise DataError(
            f"{task.name}: expected labelled rows; name them with --data FILE --label-column COLUMN (data.source and "
            f"data.label_column in a recipe)"
        )
    for line in problems.summary():
        note(line)
    if shuffle_seed is not None:
        rows = [rows[i] for i in np.random.default_rng(shuffle_seed).permutation(len(rows))]
    return datasets.Dataset.from_list(rows[:limit])


def row_sha256(task: Task, row: Row) -> str:
    """Fingerprint of one checked row: its texts and its label."""
    return values_sha256([row[column] for column in task.columns if column in row])


def values_sha256(values: Sequence[Any]) -> str:
    """Fingerprint of the values of a row, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()[:16]


def _demo_split(split: str) -> list[Row]:
    try:
        return demo_rows(split)
    except KeyError:
        raise DataError(f"demo has the splits train and validation, not {split!r}") from None


def split_file(task: Task, split: str, data_dir: Path) -> Path:
    """The file of a split.

    Raises:
        DataError: the file is missing.
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


def _from_hub(task: Task, split: str) -> list[Any]:
    import datasets

    try:
        loaded = datasets.load_dataset(task.hub_dataset, task.hub_config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = one_line(error)
        raise DataError(
            f"{task.name}: split {split!r} of {task.hub_dataset} is not available on the hub: {reason}; pass "
            f"--data-dir with a folder that holds {task.name}/{split}.jsonl.gz"
        ) from error
    rows: list[Any] = loaded.to_list()
    return rows


def _checked_rows(task: Task, rows: Iterable[tuple[int, Any]], problems: Problems) -> list[Row]:
    """The usable rows of a task.

    Raises:
        DataError: there is no usable row, or an unusable one under the policy ``error``.
    """
    checked = []
    for number, row in rows:
        try:
            checked.append(task.check_row(row))
        except RowProblem as problem:
            problems.add(number, problem)
    if not checked:
        left_out = f"; {'; '.join(problems.summary())}" if problems.total else ""
        raise DataError(f"{problems.source}: the split is empty; expected at least one row{left_out}")
    return checked
