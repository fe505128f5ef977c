# SPDX-License-Identifier: Apache-2.0
"""Options for own data, as overrides of a recipe; the same texts in every command."""

import json
from collections.abc import Sequence
from typing import Any

import typer

from sparse_deploy.errors import ConfigError

DATA = typer.Option(
    "--data",
    help="Labelled rows: .csv, .tsv, .jsonl or .parquet (plain, .gz, .zst), a folder of datasets, or a hub name.",
)
DATA_CONFIG = typer.Option("--data-config", help="Configuration of a data set of the hub.")
TEXT_COLUMN = typer.Option("--text-column", help="Column with the text; twice for pairs. Default: the only one.")
LABEL_COLUMN = typer.Option("--label-column", help="Column with the labels.")
ON_PROBLEM = typer.Option("--on-problem", help="Rows that can't be used: error (default) or skip, with a list.")
TASK = typer.Option(
    "--task",
    help="text-classification, multi-label-classification, regression, text-ranking, token-classification, "
    "question-answering or sentence-embedding; default: the kind of the model or the data.",
)


def data_overrides(
    *,
    data: str | None = None,
    config: str | None = None,
    text_column: Sequence[str] | None = None,
    label_column: str | None = None,
    on_problem: str | None = None,
    validate_on_all: bool = False,
) -> list[str]:
    """Overrides of ``data``.

    Args:
        data: ``--data``.
        config: ``--data-config``.
        text_column: ``--text-column``.
        label_column: ``--label-column``.
        on_problem: ``--on-problem``.
        validate_on_all: use all rows as validation rows, instead of a part of them.

    Raises:
        ConfigError: a configuration without data.
    """
    policy = [_set("on_problem", on_problem)] if on_problem else []
    named = {"text_columns": list(text_column or ()), "label_column": label_column}
    if data is None:
        if config is not None:
            raise ConfigError("--data-config: expected --data, found none")
        return [_set(key, value) for key, value in named.items() if value] + policy
    settings = {"source": data, "config": config, "validation_source": data if validate_on_all else None, **named}
    return [_set(key, value) for key, value in settings.items()] + policy


def text_overrides(text: str | None, column: Sequence[str] | None) -> list[str]:
    """Overrides for ``--text`` and ``--column``.

    Raises:
        ConfigError: a column without text.
    """
    if text is None:
        if column:
            raise ConfigError("--column: expected --text, the file that has it, found none")
        return []
    return [_set("unlabelled", {"source": text, "columns": list(column or ())})]


def task_overrides(task: str | None) -> list[str]:
    """Overrides for ``--task``."""
    return [f"task={json.dumps({'type': task})}"] if task else []


def _set(key: str, value: Any) -> str:
    return f"data.{key}={json.dumps(value)}"
