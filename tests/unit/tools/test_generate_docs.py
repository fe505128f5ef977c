# SPDX-License-Identifier: Apache-2.0
"""The generated pages agree with their sources, and the check finds outdated ones."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from sparse_deploy.config.schema import Recipe
from sparse_deploy.errors import ExitCode

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tools" / "generate_docs.py"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_docs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["recipes.md", "cli.md"])
def test_committed_page_is_up_to_date(generator, page):
    expected = generator.PAGES[page]()
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == expected, "run .venv/bin/python tools/generate_docs.py"


def test_check_fails_on_a_changed_page_and_writes_nothing(generator, tmp_path, capsys):
    assert generator.main(["--docs", str(tmp_path)]) == 0
    assert generator.main(["--docs", str(tmp_path), "--check"]) == 0
    page = tmp_path / "recipes.md"
    changed = page.read_text(encoding="utf-8").replace("5 x 0.0001, 32", "5 x 0.0002, 32", 1)
    page.write_text(changed, encoding="utf-8")
    assert generator.main(["--docs", str(tmp_path), "--check"]) == 1
    assert "out of date: recipes.md" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == changed


def test_every_key_of_the_schema_has_a_meaning(generator):
    page = generator.recipes_page()
    rows = [line for line in page[page.index("## Keys") :].splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(model.model_fields) for _, model in generator._sections(Recipe))
    assert not [row for row in rows if row.endswith("|  |")]


def test_docstring_attributes_with_shared_and_wrapped_entries(generator):
    class Example:
        """Summary.

        Attributes:
            begin, end: share of the
                training, ``0`` to 1.
            other: see :func:`a.b.name`.
        """

    assert generator._attribute_texts(Example) == {
        "begin": "Share of the training, `0` to 1.",
        "end": "Share of the training, `0` to 1.",
        "other": "See `name`.",
    }


def test_exit_codes_are_all_explained(generator):
    table = generator.exit_code_table()
    assert all(f"| {int(code)} | {code.name} |" in table for code in ExitCode)


def _sample_app() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)

    @app.command("export")
    def export(
        checkpoint: Annotated[Path, typer.Argument(help="Folder.")],
        opset: Annotated[int, typer.Option(help="Operator set.", min=17)] = 20,
    ) -> None:
        """Write portable files."""

    @app.callback()
    def root() -> None:
        """Root."""

    return app


def test_command_reference_has_help_arguments_and_defaults(generator):
    text = generator.command_reference(_sample_app(), "prog")
    assert "## `prog export`\n\nWrite portable files." in text
    assert "Folder.  [required]" in text
    assert "Operator set.  [default: 20; x>=17]" in text


def test_pages_do_not_depend_on_the_terminal(tmp_path):
    pages = []
    for columns, term in (("40", "dumb"), ("200", "xterm-256color")):
        folder = tmp_path / columns
        command = [sys.executable, str(SCRIPT), "--docs", str(folder)]
        subprocess.run(command, check=True, env={**os.environ, "COLUMNS": columns, "TERM": term, "FORCE_COLOR": "1"})
        pages.append({page.name: page.read_bytes() for page in folder.iterdir()})
    assert pages[0] == pages[1]
