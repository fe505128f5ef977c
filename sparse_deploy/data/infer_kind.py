# SPDX-License-Identifier: Apache-2.0
"""The kind of a task from the columns of the data, for users who name a file and a column but no task."""

import itertools
from typing import TYPE_CHECKING, Any

from sparse_deploy.data.tables import Table
from sparse_deploy.data.tasks import TaskKind
from sparse_deploy.data.tasks.regression import number_of
from sparse_deploy.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sparse_deploy.config.schema import DataSection

_ROWS = 1000


def infer_kind(data: "DataSection") -> TaskKind:
    """The kind of task of labelled data.

    Lists of words with a list of labels mean token classification, other lists of labels multi-label classification;
    objects with ``text`` and ``answer_start`` mean question answering; fractions regression; otherwise one label per
    row.

    Raises:
        ConfigError: no label column.
        DataError: no row has a label.
    """
    table = Table(str(data.source), data.train_split, data.config)
    rows = [row for _, row in itertools.islice(table.rows("skip"), _ROWS) if isinstance(row, dict)]
    if not rows:
        raise DataError(f"{table.name}: expected at least one row, found none")
    if data.label_column is None and "answers" in rows[0]:
        return TaskKind.QUESTION_ANSWERING
    column = data.label_column or "label"
    if column not in rows[0]:
        raise ConfigError(
            f"{table.name}: no column {column!r} to score against; it has {', '.join(rows[0])}; name one with "
            f"--label-column"
        )
    values = [row[column] for row in rows if row.get(column) not in (None, "")]
    if not values:
        raise DataError(f"{table.name}: expected labels in column {column}, found none")
    if all(isinstance(value, dict) for value in values):
        return TaskKind.QUESTION_ANSWERING
    if all(isinstance(value, list) for value in values):
        words = [name for name, value in rows[0].items() if name != column and isinstance(value, list)]
        return TaskKind.TOKEN_CLASSIFICATION if words else TaskKind.MULTI_LABEL
    return TaskKind.REGRESSION if _fractions(values) else TaskKind.CLASSIFICATION


def _fractions(values: list[Any]) -> bool:
    numbers = [number_of(value) for value in values]
    known = [number for number in numbers if number is not None]
    return len(known) == len(values) and any(number != int(number) for number in known)
