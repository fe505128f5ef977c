# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy inspect``."""

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sparse_deploy.inspection.inspect import Inspection
    from sparse_deploy.inspection.tables import Rows

_PIPED_WIDTH = 120
_MOST_ROWS = 100


def inspect_command(
    path: Annotated[
        str, typer.Argument(help="Checkpoint (folder, hub id, package:NAME/PATH), .onnx, .xml, or deployment folder.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on standard output.")] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Exclude tensors whose name contains this, instead of embeddings and heads. Repeatable."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help=f"Show all tensors, also beyond {_MOST_ROWS}.")] = False,
) -> None:
    """Show the zeros of a model per tensor, their pattern, and whether they help on this CPU.

    With a manifest these are the required zeros; a lost zero ends the command with exit code 5.
    """
    from sparse_deploy.inspection.inspect import inspect_path

    found = inspect_path(path, exclude=tuple(exclude) if exclude else None)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        print_inspection(found, most_rows=None if full else _MOST_ROWS)


def print_inspection(found: "Inspection", *, most_rows: int | None = None) -> None:
    """Print an inspection as tables on standard output.

    Args:
        found: the inspection.
        most_rows: largest number of tensors to show; default: all.
    """
    from rich.console import Console

    from sparse_deploy.inspection.tables import benefit_rows, file_rows, tensor_rows

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_PIPED_WIDTH)
    console.print(f"{found.kind} {found.path}", style="bold")
    tensors = tensor_rows(found)
    _print_table(console, tensors, most_rows)
    if most_rows is not None and len(tensors.rows) > most_rows:
        console.print(f" ... {len(tensors.rows) - most_rows} more tensors; --full shows them\n")
    _print_table(console, file_rows(found), None)
    console.print(_legend(found))
    for warning in found.warnings:
        console.print(f"Warning: {warning}.")
    cpu = f"{found.machine.cpu_model}: {' '.join(found.machine.flags)}"
    console.print(f"\nEffect of these zeros on this CPU ({cpu})", style="bold")
    for heading, finding in benefit_rows(found.findings):
        _print_hanging(console, f"* {heading}. {finding.explanation}", indent=2)
        for condition in finding.conditions:
            met = "yes" if condition.holds else "no "
            _print_hanging(console, f"  {met} {condition.text}: {condition.found}", indent=6)


def _print_hanging(console: "Console", text: str, *, indent: int) -> None:
    console.print(textwrap.fill(text, console.width, subsequent_indent=" " * indent), soft_wrap=True)


def _print_table(console: "Console", table: "Rows", most_rows: int | None) -> None:
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for position, header in enumerate(table.headers):
        shown.add_column(header, justify="left" if position == 0 else "right", overflow="fold")
    for row in table.rows[:most_rows]:
        shown.add_row(*row)
    console.print(shown)


def _legend(found: "Inspection") -> str:
    left_out = sorted({name for file in found.files for name in file.left_out})
    zeros = (
        "Zeros are the required zeros of the manifest, each found in its position; INT8 rounding added +N more."
        if found.contract
        else "Zeros are all stored zeros; there is no manifest with required zeros."
    )
    examples = f" (such as {left_out[0]})" if left_out else ""
    return f"{zeros}\nExcluded by name ({', '.join(found.exclude)}): {len(left_out)} matrices{examples}."
