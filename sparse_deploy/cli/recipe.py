# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy recipe``."""

from pathlib import Path
from typing import Annotated

import typer

from sparse_deploy.cli.data_options import (
    DATA,
    DATA_CONFIG,
    LABEL_COLUMN,
    ON_PROBLEM,
    TASK,
    TEXT_COLUMN,
    data_overrides,
    task_overrides,
)


def recipe_command(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or package:NAME/PATH.")],
    data: Annotated[str | None, DATA] = None,
    data_config: Annotated[str | None, DATA_CONFIG] = None,
    text_column: Annotated[list[str] | None, TEXT_COLUMN] = None,
    label_column: Annotated[str | None, LABEL_COLUMN] = None,
    on_problem: Annotated[str | None, ON_PROBLEM] = None,
    task: Annotated[str | None, TASK] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Set a recipe key: finetune.epochs=1. Repeatable.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept weights without a safetensors file, from a trusted author.")
    ] = False,
) -> None:
    """Write a first recipe for a model and, with --data, for own data.

    It has every key that differs from the default; docs/recipes.md lists all keys.
    """
    from sparse_deploy.artifacts import write_text_atomically
    from sparse_deploy.config.writer import recipe_text
    from sparse_deploy.stages.default_recipe import recipe_for_data, recipe_of_checkpoint

    named = data_overrides(
        data=data, config=data_config, text_column=text_column, label_column=label_column, on_problem=on_problem
    )
    changes = [*named, *task_overrides(task), *(overrides or [])]
    if data is None:
        found = recipe_of_checkpoint(model, changes, allow_pickle=allow_pickle)
    else:
        name = output.stem if output else None
        found = recipe_for_data(model, {"source": data}, name=name, overrides=changes, allow_pickle=allow_pickle)
    text = recipe_text(found)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text_atomically(output, text)
    typer.echo(f"{output}: sparse-deploy finetune -c {output}", err=True)
