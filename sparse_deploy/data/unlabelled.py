# SPDX-License-Identifier: Apache-2.0
"""Unlabelled text from a file, a folder or the hub: for calibration, pruning and parity without labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sparse_deploy.data.problems import Policy, Problems, RowProblem
from sparse_deploy.data.row_checks import check_text
from sparse_deploy.data.tables import Table
from sparse_deploy.errors import ConfigError, DataError


@dataclass(frozen=True)
class Texts:
    """Texts read from a source.

    Attributes:
        rows: one text each, or two for pairs.
        columns: their columns.
        problems: skipped rows.
        seen: number of valid rows of the source.
    """

    rows: list[tuple[str, ...]]
    columns: tuple[str, ...]
    problems: Problems
    seen: int = field(default=0)


def read_texts(
    source: str,
    columns: Sequence[str] = (),
    *,
    limit: int | None = None,
    seed: int = 0,
    policy: Policy = "error",
    split: str = "train",
    config: str | None = None,
) -> Texts:
    """Read all texts, or a uniform sample.

    Args:
        source: file (.txt, .csv, .tsv, .jsonl, .parquet; plain, .gz or .zst), folder of ``datasets``, or hub name.
        columns: one column, or two for pairs; empty means the only text column.
        limit: size of the sample; None means all texts in the source's order. Only the sample is kept in memory.
        seed: seed of the sample.
        policy: treatment of rows without text.
        split: split of a folder or a data set of the hub.
        config: configuration of a data set of the hub.

    Raises:
        ConfigError: a missing source or column, or several possible columns.
        DataError: the source is unreadable or has no text, or a row has no text under the policy ``error``.
    """
    table = Table(source, split, config)
    chosen = choose_text_columns(table, columns)
    problems = Problems(table.name, policy)
    rng = np.random.default_rng(seed)
    kept: list[tuple[str, ...]] = []
    seen = 0
    for number, row in table.rows(policy, problems):
        try:
            texts = tuple(check_text(row, column) for column in chosen)
        except RowProblem as problem:
            problems.add(number, problem)
            continue
        seen += 1
        if limit is None or len(kept) < limit:
            kept.append(texts)
        elif (place := int(rng.integers(seen))) < limit:  # reservoir sampling (Vitter 1985, algorithm R)
            kept[place] = texts
    if not kept:
        raise DataError(f"{table.name}: expected text in column {', '.join(chosen)}, found no row with any")
    if limit is not None:
        kept = [kept[place] for place in rng.permutation(len(kept))]
    return Texts(kept, chosen, problems, seen)


def choose_text_columns(table: Table, wanted: Sequence[str], apart: Sequence[str] = ()) -> tuple[str, ...]:
    """The text columns.

    Args:
        table: the data.
        wanted: columns given by the user; empty means the only text column.
        apart: columns that are not text, such as the label.

    Raises:
        ConfigError: a missing column, or several possible columns.
    """
    row = next((row for _, row in table.rows("skip") if isinstance(row, dict)), None)
    if row is None:
        raise DataError(f"{table.name}: expected at least one row, found none")
    missing = [column for column in wanted if column not in row]
    if missing:
        raise ConfigError(f"{table.name}: no column {missing[0]!r}; it has {', '.join(row)}")
    if wanted:
        return tuple(wanted)
    texts = [name for name, value in row.items() if isinstance(value, str) and name not in apart]
    if len(texts) != 1:
        named = ", ".join(texts)
        raise ConfigError(
            f"{table.name}: expected the name of the column with the text, as it has "
            f"{f'several: {named}' if texts else 'none'}; name it with --text-column (or --column)"
        )
    return (texts[0],)
