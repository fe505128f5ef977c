# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy export``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sparse_deploy.cli.data_options import TASK, task_overrides, text_overrides
from sparse_deploy.cli.progress import QuietOption, progress_bar
from sparse_deploy.config.schema import Int8Mode, Recipe, Target


def export_command(
    checkpoint: Annotated[
        str, typer.Argument(help="Fine-tuned checkpoint: folder, hub id, package:NAME/PATH, or an .onnx file.")
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            "-c",
            help="Recipe file, or the name of a shipped recipe; when omitted, task, labels and inputs come from the "
            "checkpoint, and FP32, INT8 (static with --text, else dynamic) and sparse files are written.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="With an .onnx file of another tool: folder with the model's config.json and tokenizer."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Unlabelled text for calibration of INT8 and for parity: .txt, .csv, .jsonl, .parquet, ..."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Column of --text; twice for pairs. Default: the only text column.")
    ] = None,
    task: Annotated[str | None, TASK] = None,
    int8: Annotated[
        Int8Mode | None, typer.Option("--int8", help="How to quantize; overrides quantization.mode of the recipe.")
    ] = None,
    target: Annotated[
        list[Target] | None,
        typer.Option(help="Write this file even if the recipe does not: IR, model_sparse.onnx, its IR. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="New deployment folder; runs/NAME, or runs/RECIPE-NAME-deployment with a recipe."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with TASK/SPLIT.jsonl.gz; default: the Hugging Face hub.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key: export.atol=1e-3. Repeatable.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept weights without a safetensors file, from a trusted author.")
    ] = False,
    sign: Annotated[
        Path | None,
        typer.Option(
            help="Private key (elliptic curve, PEM) to sign the deployment with; `serve --verify-key` checks it."
        ),
    ] = None,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Export a fine-tuned checkpoint to ONNX and OpenVINO files, FP32, INT8 and sparse, with every zero checked.

    Each file is read back: it must have each zero of the checkpoint and agree with PyTorch on real text. The folder is
    written only if all checks pass. Exit code 4: there are too few rows to decide quantization.accuracy.
    """
    from sparse_deploy.config import load_recipe
    from sparse_deploy.stages.default_recipe import recipe_of_checkpoint

    changes = [*text_overrides(text, column), *task_overrides(task), *(overrides or [])]
    if checkpoint.endswith(".onnx"):
        settings, folder = _recipe_of_file(checkpoint, tokenizer, changes, output)
    elif recipe is not None:
        settings = load_recipe(recipe, changes)
        folder = output or Path("runs") / f"{settings.name}-deployment"
    else:
        settings = recipe_of_checkpoint(checkpoint, changes, allow_pickle=allow_pickle)
        folder = output or _free_folder(Path("runs") / settings.name, checkpoint)

    from sparse_deploy.stages.export import export_deployment, with_options
    from sparse_deploy.stages.export_onnx import export_onnx_file

    with progress_bar(f"export {settings.name}", quiet=quiet) as progress:
        if checkpoint.endswith(".onnx") and tokenizer is not None:
            settings = with_options(settings, int8, target or ())
            manifest = export_onnx_file(Path(checkpoint), tokenizer, settings, folder, sign_key=sign, progress=progress)
        else:
            manifest = export_deployment(
                checkpoint,
                settings,
                folder,
                int8=int8,
                targets=target or (),
                data_dir=data_dir,
                allow_pickle=allow_pickle,
                sign_key=sign,
                progress=progress,
            )
    sizes = {record.path: record.bytes for record in manifest.files}
    for xml in [name for name in sizes if name.endswith(".xml")]:
        sizes[xml] += sizes[xml.removesuffix("xml") + "bin"]
    files = {
        name: {
            "bytes": sizes[name],
            "sparsity": record.sparsity_of_prunable,
            "zeros": record.zeros,
            "parity": manifest.details["parity"].get(name),
        }
        for name, record in manifest.sparsity.items()
    }
    if as_json:
        details = {name: manifest.details.get(name) for name in ("sparse", "int8_search", "int8_weights", "unchecked")}
        found = {"output": str(folder), "task": manifest.task, "files": files, **details}
        typer.echo(json.dumps({"schema_version": 1, **found}))
        _end(manifest.details)
        return
    typer.echo(f"{folder}: {len(files)} model files, every zero of the checkpoint kept", err=True)
    for name, record in manifest.sparsity.items():
        line = f"  {name:<26}{sizes[name] / 1e6:9.1f} MB  {record.sparsity_of_prunable:6.1%} zeros"
        parity = files[name]["parity"]
        typer.echo(line + (f"  max difference {parity['max_abs']:.2g}" if parity else ""), err=True)
    for name, reason in manifest.details.get("unchecked", {}).items():
        typer.echo(f"  {name}: its results were not checked: {reason}", err=True)
    if sparse := manifest.details.get("sparse"):
        typer.echo(f"  sparse operators: {_sparse_line(sparse)}", err=True)
    if int8 := manifest.details.get("int8_weights"):
        asked = " (auto, for this machine)" if settings.quantization.target_cpu == "auto" else ""
        where = "only on CPUs with VNNI" if int8["saturates_without_vnni"] else "on every x86 CPU"
        typer.echo(
            f"  INT8 weights for target_cpu {int8['target_cpu']}{asked}: {int8['bits']} bits, exact {where}", err=True
        )
    if search := manifest.details.get("int8_search"):
        typer.echo(f"  INT8 search: {_search_line(search)}", err=True)
    _end(manifest.details)


def _recipe_of_file(path: str, tokenizer: Path | None, changes: list[str], output: Path | None) -> tuple[Recipe, Path]:
    """The settings and the output folder for an ONNX file of another tool."""
    from sparse_deploy.errors import ConfigError
    from sparse_deploy.stages.export_onnx import recipe_of_onnx

    if tokenizer is None:
        raise ConfigError(f"{path}: an ONNX file needs --tokenizer FOLDER, with the model's config.json and tokenizer")
    settings = recipe_of_onnx(Path(path), tokenizer, changes)
    return settings, output or Path("runs") / settings.name


def _free_folder(folder: Path, checkpoint: str) -> Path:
    """``runs/NAME``, or another name if that is the checkpoint itself."""
    same = Path(checkpoint).exists() and folder.exists() and Path(checkpoint).resolve() == folder.resolve()
    return folder.with_name(f"{folder.name}-deployment") if same else folder


def _sparse_line(details: dict[str, Any]) -> str:
    """The number of replaced layers, and the reasons for those that were not."""
    line = f"{len(details['encoder_layers'])} encoder layers, {len(details['linears'])} single matrices"
    if left := details["left_standard"]:
        name, reason = next(iter(left.items()))
        line += f"; {len(left)} left standard (such as {name}: {reason})"
    return f"{line}; checked with {details['checked_with']}" if "checked_with" in details else line


def _search_line(details: dict[str, Any]) -> str:
    """The result of the accuracy-driven search."""
    kept, trials = details["fp32_operators"], len(details["trials"])
    line = (
        f"{details['verdict']} after {trials} trial{'' if trials == 1 else 's'}, {len(kept)} of {details['operators']} "
        f"operators in FP32; {details['metric']} drops by {details['drop']:.4f}, at most {details['high']:.4f} with "
        f"{details['confidence']:.0%}"
    )
    return f"{line}; {details['explanation']}" if "explanation" in details else line


def _end(details: dict[str, Any]) -> None:
    """Exit code 4 if the search was inconclusive; the deployment is complete."""
    from sparse_deploy.errors import ExitCode

    if (details.get("int8_search") or {}).get("verdict") == "inconclusive":
        raise typer.Exit(ExitCode.INCONCLUSIVE)
