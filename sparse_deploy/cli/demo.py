# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy demo``: the main job on the embedded default."""

from pathlib import Path
from typing import Annotated

import typer

from sparse_deploy.cli.progress import QuietOption, progress_bar

_NEXT = """Next, with your own fine-tuned model and text of the kind that it will read:
  sparse-deploy prune MODEL --pattern 1:2 --text texts.txt --output runs/sparse
  sparse-deploy export runs/sparse --text texts.txt --output runs/deployment
  sparse-deploy bench runs/deployment --data rows.csv --text-column TEXT --label-column LABEL --baseline MODEL
  sparse-deploy serve runs/deployment"""


def demo_command(
    output: Annotated[Path, typer.Option(help="Folder for the checkpoint, the deployment and the report.")] = Path(
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
    """Fine-tune, export and measure a sparse MiniLM on the text that the package carries. Needs no network.

    Takes the real MiniLM encoder (the demo extra), prunes it to 70 % while it learns the sentiment task, exports
    FP32 and INT8 for ONNX Runtime and OpenVINO, and measures every runtime. Ends with a table and report.html.
    """
    from sparse_deploy.cli.bench import print_report
    from sparse_deploy.config import load_recipe
    from sparse_deploy.stages.demo import embedded_recipe, run_demo

    settings = load_recipe(recipe or embedded_recipe(), overrides or [])
    with progress_bar("demo", quiet=quiet) as progress:
        report = run_demo(settings, output, progress=progress)
    print_report(report)
    typer.echo(f"\nreport: {output / 'report' / 'report.html'}\n\n{_NEXT}")
