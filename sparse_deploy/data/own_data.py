# SPDX-License-Identifier: Apache-2.0
"""Own labelled data: its splits, and a seeded validation split if it has none."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_deploy.data.problems import Problems, RowProblem
from sparse_deploy.data.row_checks import Row
from sparse_deploy.data.tables import Table, split_names
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sparse_deploy.config.schema import DataSection

TRAIN, VALIDATION = "train", "validation"


def own_split(task: Task, split: str, data: "DataSection", problems: Problems) -> list[Row]:
    """The checked rows of a split.

    Args:
        task: the task, which defines the columns.
        split: ``train`` or ``validation``.
        data: ``source`` is set.
        problems: counts skipped rows.

    Raises:
        ConfigError: a missing file, split or column.
        DataError: the data is unreadable, empty, or has an unusable row under the policy ``error``.
    """
    table = validation_table(data)
    if table is None:
        train, validation = seeded_split(task, _checked(task, TRAIN, data, problems), data)
        return train if split == TRAIN else validation
    rows = _checked(task, split, data, problems)
    if split == TRAIN:
        rows = _without_repeats(task, rows, data, problems)
    return [row for _, row in rows]


def validation_table(data: "DataSection") -> Table | None:
    """The table of the validation rows; None if they are a seeded part of the training rows."""
    if data.validation_source:
        return Table(data.validation_source, data.validation_split or data.train_split, data.config)
    names = split_names(str(data.source), data.config)
    if data.validation_split and data.validation_split not in names:
        raise ConfigError(
            f"data.validation_split: {data.source} has the splits {', '.join(names)}, not {data.validation_split!r}"
        )
    chosen = data.validation_split or (VALIDATION if VALIDATION in names else None)
    return Table(str(data.source), chosen, data.config) if chosen and chosen != data.train_split else None


def source_table(data: "DataSection") -> Table:
    """The table of the rows of ``bench`` without a held-out part: the validation rows, else all rows."""
    return validation_table(data) or Table(str(data.source), data.train_split, data.config)


def raw_rows(
    task: Task, split: str, data: "DataSection", problems: Problems | None = None
) -> Iterator[tuple[int, Row]]:
    """Unchecked rows, with the label column renamed to the task's name for it.

    Raises:
        ConfigError: no label column.
    """
    table = Table(str(data.source), data.train_split, data.config)
    if split == VALIDATION:
        table = validation_table(data) or table
    if task.target not in task.columns:  # pairs without labels
        yield from table.rows(data.on_problem, problems)
        return
    column = data.label_column or task.target
    for number, row in table.rows(data.on_problem, problems):
        if isinstance(row, dict):
            if number == 1 and column not in row:
                raise ConfigError(
                    f"{table.name}: no column {column!r} to score against; it has {', '.join(row)}; name one with "
                    f"--label-column"
                )
            row = {**row, task.target: row.get(column)}
        yield number, row


def seeded_split(task: Task, rows: Sequence[tuple[int, Row]], data: "DataSection") -> tuple[list[Row], list[Row]]:
    """Training and validation rows: equal for equal rows, seed and share.

    Rows of one group (the same text, context or query) stay together; the share is that of each stratum (label).

    Raises:
        DataError: too few rows.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, (_, row) in enumerate(rows):
        groups[task.group_of(row)].append(place)
    strata: dict[object, list[list[int]]] = defaultdict(list)
    for places in groups.values():
        strata[task.stratum_of(rows[places[0]][1])].append(places)
    rng = np.random.default_rng(data.split_seed)
    chosen: set[int] = set()
    owed = 0.0  # so that several small strata together give their share
    for members in strata.values():
        owed += data.validation_share * sum(len(places) for places in members)
        for index in rng.permutation(len(members)):
            if owed < 0.5:
                break
            chosen.update(members[index])
            owed -= len(members[index])
    if not chosen or len(chosen) == len(rows):
        raise DataError(
            f"{data.source}: {len(rows)} rows can't be split into training and validation rows at "
            f"data.validation_share {data.validation_share:g}; give more rows, or data.validation_source"
        )
    parts: tuple[list[Row], list[Row]] = [], []
    for place, (_, row) in enumerate(rows):
        parts[place in chosen].append(row)
    return parts


def describe_split(data: "DataSection") -> str:
    """The source of the validation rows, for users."""
    table = validation_table(data)
    if table is not None:
        return f"validation rows: {table.name}"
    return (
        f"validation rows: {data.validation_share:.0%} of {data.source}, held out with seed {data.split_seed}, evenly "
        f"over the labels"
    )


def _checked(task: Task, split: str, data: "DataSection", problems: Problems) -> list[tuple[int, Row]]:
    checked: list[tuple[int, Row]] = []
    for number, row in raw_rows(task, split, data, problems):
        try:
            checked.append((number, task.check_row(row)))
        except RowProblem as problem:
            problems.add(number, problem)
    if not checked:
        raise DataError("; ".join([f"{problems.source}: found no row that can be used", *problems.summary()]))
    return checked


def _without_repeats(
    task: Task, rows: list[tuple[int, Row]], data: "DataSection", problems: Problems
) -> list[tuple[int, Row]]:
    """Training rows without texts of validation rows, which would make every figure too good."""
    held_out: dict[str, int] = {}
    for number, row in raw_rows(task, VALIDATION, data, Problems(problems.source, "skip")):
        try:
            held_out.setdefault(_texts(task, task.check_row(row)), number)
        except RowProblem:
            continue  # reported when the validation rows are loaded
    kept = []
    for number, row in rows:
        twin = held_out.get(_texts(task, row))
        if twin is None:
            kept.append((number, row))
        else:
            problems.add(
                number, RowProblem("also a validation row", f"the same text is validation row {twin}; train on others")
            )
    return kept


def _texts(task: Task, row: dict[str, Any]) -> str:
    return "\n".join(str(row[column]) for column in task.text_columns)
