# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy demo``: fine-tune, prune, export and measure with embedded text."""

from pathlib import Path
from typing import Annotated

import typer

from sparse_deploy.cli.progress import QuietOption, progress_bar

_NEXT = """Next steps, with your own fine-tuned model and typical input text:
  sparse-deploy prune MODEL --pattern unstructured --target 0.7 --text texts.txt --output runs/sparse
  sparse-deploy export runs/sparse --text texts.txt --output runs/deployment
  sparse-deploy bench runs/deployment --data rows.csv --text-column TEXT --label-column LABEL --baseline MODEL --gate
  sparse-deploy serve runs/deployment"""


def demo_command(
    output: Annotated[Path, typer.Option(help="Folder for the models, the deployment and the report.")] = Path(
        "runs/demo"
    ),
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-c", help="A recipe other than the embedded minilm-demo.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key: finetune.epochs=1. Repeatable.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Prune, export and measure a MiniLM classifier on text inside the package. Needs no network.

    Trains the MiniLM encoder (the demo extra) for a minute as a dense sentiment classifier, prunes it to 50 % zeros
    without training, exports FP32, INT8 and sparse files, and measures dense against sparse in every runtime.
    """
    from sparse_deploy.config import load_recipe
    from sparse_deploy.report.demo_summary import demo_lines
    from sparse_deploy.stages.demo import embedded_recipe, run_demo

    settings = load_recipe(recipe or embedded_recipe(), overrides or [])
    with progress_bar("demo", quiet=quiet) as progress:
        run = run_demo(settings, output, progress=progress)
    pruned = run.pruned
    zeros = pruned.sparsity["model.safetensors"]
    for line in demo_lines(run.report, zeros, pruned.details["text"]["texts"], pruned.details["seconds"]):
        typer.echo(line)
    taken = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in run.seconds.items())
    typer.echo(f"\nTook {sum(run.seconds.values()):.0f} s: {taken}")
    typer.echo(f"Report: {output / 'report' / 'report.html'}\n\n{_NEXT}")
