# SPDX-License-Identifier: Apache-2.0
"""The gate's verdict as a short Markdown text, for ``gate.md`` and for the summary page of a GitHub Actions job."""

from pathlib import Path

from sparse_deploy.errors import ConfigError
from sparse_deploy.report.markdown import escape_markdown, table_lines
from sparse_deploy.report.sections import machine_line, measured_line
from sparse_deploy.report.tables import gate_rows
from sparse_deploy.report.verdict import Policy, gate_name, whole_verdict, worst_first
from sparse_deploy.results import BenchReport

# GitHub refuses a step's summary above 1 MiB completely, so the text is shorter and leaves space for other summaries.
MAX_BYTES = 1_000_000
_CUT = "*This text was truncated; `report.md` is complete.*"
_EXPLAINED = 50


def render_summary(report: BenchReport, policy: Policy, *, max_bytes: int = MAX_BYTES) -> str:
    """The verdict, the missed goals with reasons, and the table of all goals.

    Args:
        report: the report, with its gates.
        policy: ``gate.on_inconclusive`` of the recipe.
        max_bytes: limit of the text (UTF-8); lines at the end beyond it are replaced by a note.
    """
    whole = whole_verdict(report.gates, policy)
    lines = [f"## sparse-deploy gate: {whole.verdict.upper()}", ""]
    lines += [f"{whole.sentence[0].upper()}{whole.sentence[1:]}; exit code {whole.exit_code}.", ""]
    missed = [gate for gate in worst_first(report.gates) if gate.verdict != "pass" and not gate.informational]
    lines += [
        f"* **{escape_markdown(f'{gate.verdict}: {gate.cell}, {gate_name(gate)}.')}** "
        f"{escape_markdown(gate.explanation)}"
        for gate in missed[:_EXPLAINED]
    ]
    lines += [""] if missed else []
    table = gate_rows(report)
    lines += [*table_lines(table), ""] if table.rows else []
    lines += [escape_markdown(f"{report.name}: {measured_line(report)}"), "", escape_markdown(machine_line(report)), ""]
    return _fit(lines, max_bytes)


def append_step_summary(path: Path, report: BenchReport, policy: Policy) -> None:
    """Append the summary to the file in ``$GITHUB_STEP_SUMMARY``, within the remaining limit of the step.

    Raises:
        ConfigError: the file can't be written.
    """
    try:
        used = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as stream:
            stream.write(render_summary(report, policy, max_bytes=MAX_BYTES - used))
    except OSError as error:
        raise ConfigError(f"GITHUB_STEP_SUMMARY: can't append to {path}: {error.strerror}") from error


def _fit(lines: list[str], max_bytes: int) -> str:
    text = "\n".join(lines)
    if len(text.encode()) <= max_bytes:
        return text
    room = max_bytes - len(f"\n\n{_CUT}\n".encode())
    kept: list[str] = []
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join([*kept, "", _CUT, ""]) if kept else ""
