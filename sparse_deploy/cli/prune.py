# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy prune``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_deploy.cli.progress import QuietOption, progress_bar

if TYPE_CHECKING:
    from sparse_deploy.artifacts import Manifest


def prune_command(
    model: Annotated[str, typer.Argument(help="Fine-tuned model: folder, hub id, or package:NAME/PATH.")],
    pattern: Annotated[str, typer.Option(help="unstructured, N:M (N kept) such as 1:2, or a block OUTxIN: 4x1, 1x4.")],
    output: Annotated[Path, typer.Option(help="New checkpoint folder.")],
    text: Annotated[
        str | None,
        typer.Option(help="Unlabelled text like the model's input: .txt (one text per line), .jsonl, .csv, .parquet."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Column with the text; give it twice for a model that reads pairs.")
    ] = None,
    target: Annotated[float | None, typer.Option(help="Share of zeros, such as 0.7; omitted for N:M.")] = None,
    speed: Annotated[
        float | None,
        typer.Option(help="Instead of a target: required speed-up of the matrix products over dense INT8 on this CPU."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Instead of a target: the most zeros that change at most this share of the predictions on held-out "
            "text (without a head: 1 - cosine of the mean embeddings)."
        ),
    ] = None,
    allocation: Annotated[
        str,
        typer.Option(help="uniform, or sensitivity: more zeros in matrices with less effect on the output."),
    ] = "uniform",
    method: Annotated[str, typer.Option(help="second-order, or magnitude, which reads no text.")] = "second-order",
    recover: Annotated[
        float | None,
        typer.Option(help="Minutes of distillation from the dense model on the same text, after pruning."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Number of randomly drawn texts for the method.")] = 1024,
    max_length: Annotated[int, typer.Option(help="Length in tokens at which texts are truncated.")] = 128,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Also keep parameters dense whose name contains this. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random draw of texts.")] = 42,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit on the hub.")] = "main",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept weights without a safetensors file, from a trusted author.")
    ] = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Make a fine-tuned model sparse in minutes, without labels and without training.

    Works on any encoder with any head. The method (second order) selects the zeros and adjusts the other weights so
    that the output of each layer on the text changes least. The result is a checkpoint for export, and for finetune
    with sparsity.mode: lock.
    """
    from sparse_deploy.config.data_section import TextSource
    from sparse_deploy.config.loader import settings_from_options
    from sparse_deploy.config.pruning import PruneSettings
    from sparse_deploy.config.schema import DEFAULT_EXCLUDE

    settings = settings_from_options(
        PruneSettings,
        {
            "pattern": pattern,
            "target": target,
            "speed": speed,
            "max_drop": max_drop,
            "allocation": allocation,
            "method": method,
            "samples": samples,
            "max_length": max_length,
            "exclude": (*DEFAULT_EXCLUDE, *(exclude or ())),
            "seed": seed,
            "recovery": None if recover is None else {"minutes": recover},
        },
    )

    from sparse_deploy.stages.prune import prune

    with progress_bar(f"prune {pattern}", quiet=quiet) as progress:
        manifest = prune(
            model,
            settings,
            output,
            text=TextSource(source=text, columns=tuple(column or ())) if text else None,
            revision=revision,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(_summary(output, manifest)))
        return
    _tell(output, manifest)


def _summary(output: Path, manifest: "Manifest") -> dict[str, Any]:
    record = manifest.sparsity["model.safetensors"]
    details = manifest.details
    return {
        "schema_version": 1,
        "output": str(output),
        "method": details["method"],
        "sparsity": record.sparsity_of_prunable,
        "sparsity_of_model": record.sparsity_of_model,
        "seconds": details["seconds"],
        "text": details["text"],
        "shares": details["shares"],
        "plan": details["plan"],
        "answers": details.get("answers"),
        "recovery": details.get("recovery"),
    }


def _tell(output: Path, manifest: "Manifest") -> None:
    record, details = manifest.sparsity["model.safetensors"], manifest.details
    for line in (details["text"] or {}).get("left_out", ()):
        typer.echo(f"  {line}", err=True)
    words = f"{record.sparsity_of_prunable:.1%} of the prunable weights are zero ({details['settings']['pattern']}"
    typer.echo(f"{output}: {words}, {details['method']}, {details['seconds']:.0f} s)", err=True)
    if text := details["text"]:
        tokens = f", {details['tokens']} tokens" if "tokens" in details else ""
        typer.echo(f"  from {text['texts']} of {text['of']} texts{tokens}", err=True)
    if errors := details.get("output_error"):
        worst = max(errors, key=errors.__getitem__)
        mean = sum(errors.values()) / len(errors)
        typer.echo(
            f"  change of a layer's output: {mean:.1%} of its square on average, at most {errors[worst]:.1%} ({worst})",
            err=True,
        )
    if details["plan"]["allocation"] == "sensitivity":
        _tell_plan(details)
    if recovery := details.get("recovery"):
        before, best = recovery["history"][0], recovery["best"]
        typer.echo(
            f"  recovery: {recovery['steps']} steps in {recovery['seconds']:.0f} s; loss on {recovery['held_out']} "
            f"held-out texts {before['loss']:.4f} before, {best['loss']:.4f} at step {best['step']}, which was kept",
            err=True,
        )
    if answers := details.get("answers"):
        typer.echo(
            f"  against the dense model on {answers['texts']} held-out texts: {answers['drop']:.4f} {answers['unit']}",
            err=True,
        )


def _tell_plan(details: dict[str, Any]) -> None:
    """The share of zeros of each matrix, and the trials of the plan."""
    plan = details["plan"]
    typer.echo(f"  matrix products predicted {plan['predicted_speed']:.2f} times as fast as dense INT8", err=True)
    for trial in plan.get("trials", ()):
        typer.echo(f"  trial: {trial['zeros']:.1%} zeros, drop {trial['drop']:.4f}", err=True)
    for name, share in details["shares"].items():
        typer.echo(f"  {share:6.1%}  {name}", err=True)
