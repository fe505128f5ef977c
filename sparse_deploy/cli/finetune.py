# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy finetune``."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from sparse_deploy.cli.progress import QuietOption, progress_bar


def finetune_command(
    recipe: Annotated[Path, typer.Option("--recipe", "-c", help="Recipe file, such as export_configs/NAME.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key: finetune.epochs=1. Repeatable.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with TASK/SPLIT.jsonl.gz; the Hugging Face hub when omitted.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="New checkpoint folder; runs/RECIPE-NAME when omitted.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Hub id, folder, or package:NAME/PATH; overrides the recipe.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away an interrupted run instead of resuming it.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept weights without a safetensors file, from a trusted author.")
    ] = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Fine-tune on GLUE or SQuAD with the zeros of the model locked (or made, by a pruning schedule).

    An interrupted run (Ctrl-C, a kill, a crash) resumes from its newest whole checkpoint with the same command.
    For several processes: torchrun --standalone --nproc_per_node 2 -m sparse_deploy finetune ...
    """
    from sparse_deploy.config import load_recipe

    changes = list(overrides or [])
    changes += [f"model.name_or_path={json.dumps(model)}"] if model else []
    changes += [f"model.revision={json.dumps(revision)}"] if revision else []
    settings = load_recipe(recipe, changes)
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


def _figures(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
