# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy sweep``."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_deploy.cli.progress import QuietOption, progress_bar

if TYPE_CHECKING:
    from sparse_deploy.sweep.engine import Engine
    from sparse_deploy.sweep.summary import SweepSummary

_PIPED_WIDTH = 200


class EngineName(StrEnum):
    """The engine that runs the cells."""

    LOCAL = "local"
    RAY = "ray"


def sweep_command(
    sweep: Annotated[Path, typer.Argument(help="Sweep file; see docs/sweeps.md.")],
    engine: Annotated[
        EngineName,
        typer.Option(
            help="Processes of this machine; or tasks of Ray: on the cluster of RAY_ADDRESS, where --output and "
            "--data-dir must be on storage shared by all nodes, or on a local Ray."
        ),
    ] = EngineName.LOCAL,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the cells and the summary; default: runs/SWEEP-NAME.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with TASK/SPLIT.jsonl.gz; default: the Hugging Face hub.")
    ] = None,
    cpus_per_task: Annotated[
        int | None,
        typer.Option(min=1, help="CPUs to which a cell is bound; default: 2, or all if there are fewer."),
    ] = None,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Export and measure variants of one recipe, as many in parallel as the CPUs allow.

    A cell is identified by a hash of all its inputs. After Ctrl-C or a kill, the same command skips finished cells and
    resumes the others. A failed cell does not stop the others and is retried by the next run. The exit code is the
    worst one of the cells, in the order 1, 5, 2, 3, 4, 0.
    """
    from sparse_deploy.sweep.grid import load_sweep
    from sparse_deploy.sweep.run import run_sweep

    wanted = load_sweep(sweep)
    folder = output or Path("runs") / wanted.name
    with progress_bar(f"sweep {wanted.name}", quiet=quiet) as progress:
        summary = run_sweep(wanted, folder, _open(engine, cpus_per_task), data_dir=data_dir, progress=progress)
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
    else:
        print_summary(summary)
        typer.echo(f"summary: {folder / 'summary.md'}", err=True)
    raise typer.Exit(summary.exit_code)


def print_summary(summary: "SweepSummary") -> None:
    """Print the table of a sweep on standard error, and the messages of cells with an exit code other than 0."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from sparse_deploy.sweep.summary import notes, summary_table

    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(stderr=True, highlight=False, markup=False, width=_PIPED_WIDTH)
    found = summary_table(summary)
    table = Table(box=box.SIMPLE, title=f"{summary.name}: {len(summary.cells)} cells", title_justify="left")
    for header in found.headers:
        table.add_column(header, overflow="fold")
    for row in found.rows:
        table.add_row(*row)
    console.print(table)
    for line in notes(summary):
        console.print(line, soft_wrap=True)


def _open(name: EngineName, cpus_per_task: int | None) -> "Engine":
    from sparse_deploy.sweep.local import LocalEngine, default_cpus_per_task

    cpus = cpus_per_task or default_cpus_per_task()
    if name is EngineName.LOCAL:
        return LocalEngine(cpus)
    from sparse_deploy.sweep.ray import RayEngine

    return RayEngine(cpus)
