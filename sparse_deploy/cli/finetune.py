# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy finetune``."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from sparse_deploy.cli.progress import QuietOption, progress_bar
from sparse_deploy.errors import ConfigError

if TYPE_CHECKING:
    from sparse_deploy.config import Recipe


def finetune_command(
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            "-c",
            help="Recipe file, such as export_configs/NAME.yaml; if omitted, one is made from --model and --data and "
            "stored in the checkpoint as recipe.yaml.",
        ),
    ] = None,
    data: Annotated[str | None, DATA] = None,
    data_config: Annotated[str | None, DATA_CONFIG] = None,
    text_column: Annotated[list[str] | None, TEXT_COLUMN] = None,
    label_column: Annotated[str | None, LABEL_COLUMN] = None,
    on_problem: Annotated[str | None, ON_PROBLEM] = None,
    task: Annotated[str | None, TASK] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key: finetune.epochs=1. Repeatable.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with TASK/SPLIT.jsonl.gz; default: the Hugging Face hub.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="New checkpoint folder; default: runs/RECIPE-NAME.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Hub id, folder, or package:NAME/PATH; overrides the recipe.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted run instead of resuming it.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept weights without a safetensors file, from a trusted author.")
    ] = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Fine-tune on own data, GLUE or SQuAD, with a keep mask of the model's zeros or a pruning schedule.

    An interrupted run (Ctrl-C, kill, crash) resumes from its newest complete checkpoint with the same command.
    For several processes: torchrun --standalone --nproc_per_node 2 -m sparse_deploy finetune ...
    """
    from sparse_deploy.config import load_recipe

    named = data_overrides(
        data=data, config=data_config, text_column=text_column, label_column=label_column, on_problem=on_problem
    )
    changes = [*named, *task_overrides(task), *(overrides or [])]
    changes += [f"model.name_or_path={json.dumps(model)}"] if model else []
    changes += [f"model.revision={json.dumps(revision)}"] if revision else []
    if recipe is not None:
        settings = load_recipe(recipe, changes)
    else:
        settings = recipe_for_model(model, data, output.name if output else None, changes, allow_pickle=allow_pickle)
    target = output or Path("runs") / settings.name

    from sparse_deploy.stages.finetune import finetune

    with progress_bar(f"finetune {settings.name}", quiet=quiet) as progress:
        manifest = finetune(
            settings, target, data_dir=data_dir, restart=restart, allow_pickle=allow_pickle, progress=progress
        )
    if manifest is None or int(os.environ.get("RANK", "0")) != 0:
        return
    record = manifest.sparsity["model.safetensors"]
    metrics = manifest.details["metrics"]
    qat = manifest.details.get("qat")
    if as_json:
        summary = {"output": str(target), "metrics": metrics, "sparsity": record.sparsity_of_prunable}
        phases = {"qat": {"metrics": qat["metrics"], "steps": qat["steps"]}} if qat else {}
        typer.echo(json.dumps({"schema_version": 1, **summary, **phases}))
        return
    precision = manifest.details["precision"]
    zeros = f"{record.sparsity_of_prunable:.1%} of the prunable weights are zero"
    typer.echo(f"{target}: {_figures(metrics)}; {zeros}", err=True)
    typer.echo(f"  trained in {precision['chosen']}: {precision['reason']}", err=True)
    if qat:
        found = qat["metrics"]
        typer.echo(
            f"  quantization-aware phase, {qat['steps']} steps: {_figures(found['fp32_before'])} before; with fake "
            f"INT8 {_figures(found['fake_int8_after'])}",
            err=True,
        )


def recipe_for_model(
    model: str | None, data: str | None, name: str | None, changes: list[str], *, allow_pickle: bool
) -> "Recipe":
    """A recipe from the options of the command line.

    Raises:
        ConfigError: no model or no data.
    """
    from sparse_deploy.stages.default_recipe import recipe_for_data

    if model is None or data is None:
        missing = "--model" if model is None else "--data"
        raise ConfigError(f"finetune: expected --recipe, or --model and --data; {missing} is missing")
    return recipe_for_data(model, {"source": data}, name=name, overrides=changes, allow_pickle=allow_pickle)


def _figures(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
