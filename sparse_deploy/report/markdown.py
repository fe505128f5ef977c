# SPDX-License-Identifier: Apache-2.0
"""A report as GitHub-flavoured Markdown; text from recipes and labels can't add markup, rows or HTML."""

from collections.abc import Iterable

from sparse_deploy.report.findings import headline
from sparse_deploy.report.sections import machine_line, measured_line, reproduce_command, sections
from sparse_deploy.report.tables import Table
from sparse_deploy.results import BenchReport


def render_markdown(report: BenchReport) -> str:
    """The whole report as Markdown text."""
    lines = [f"# {escape_markdown(report.name)}", ""]
    lines += [
        f"* **{found.question}: {escape_markdown(found.answer)}.** {escape_markdown(found.detail)}"
        for found in headline(report)
    ]
    lines += ["", f"Measured: {escape_markdown(measured_line(report))}", ""]
    lines += [f"Machine: {escape_markdown(machine_line(report))}", "", f"Date: {escape_markdown(report.created)}", ""]
    for section in sections(report):
        lines += [f"## {section.title}", ""]
        lines += [escape_markdown(section.note), ""] if section.note else []
        lines += [*table_lines(section.table), ""]
    # Indented, not fenced, so that no text inside can close the block.
    lines += ["## How to reproduce", "", f"    {reproduce_command(report)}", ""]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """Make text safe inside a paragraph or a table cell: one line, no HTML, no column break, no link or emphasis."""
    flat = " ".join(text.split())
    for character in ("\\", "`", "*", "|"):
        flat = flat.replace(character, "\\" + character)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def table_lines(table: Table) -> list[str]:
    """A table as the lines of a Markdown table."""
    # The first column has the row's name; columns of figures are right-aligned.
    rule = ["---", *("---:" if _is_numeric(table, column) else "---" for column in range(1, len(table.headers)))]
    return [_line(table.headers), "| " + " | ".join(rule) + " |", *(_line(row) for row in table.rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"


def _is_numeric(table: Table, column: int) -> bool:
    return any(row[column][:1].isdigit() or row[column][:1] in "+-" for row in table.rows if row[column])
