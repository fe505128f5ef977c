# SPDX-License-Identifier: Apache-2.0
"""Gates as annotations of a GitHub Actions run: one line per finding, in the runner's command syntax.

The runner reads both streams of a step; a line that starts with ``::`` is a command (``ActionCommand.cs`` and
``ScriptHandler.cs`` of actions/runner). It shows at most 10 errors and 10 warnings per step and drops the rest.
"""

from collections.abc import Sequence

from sparse_deploy.report.verdict import Policy, gate_name, worst_first
from sparse_deploy.results import GateResult

SHOWN_PER_KIND = 10
_TITLE = "sparse-deploy gate"


def annotations(gates: Sequence[GateResult], policy: Policy) -> list[str]:
    """An error per failed gate and a warning per inconclusive gate, worst first; none for informational gates.

    Args:
        gates: every result of a run.
        policy: ``gate.on_inconclusive`` of the recipe; under ``fail`` an inconclusive gate is an error.

    Returns:
        At most 10 lines of each kind; with more findings, the tenth line has the number of the remaining ones.
    """
    missed = [gate for gate in worst_first(gates) if gate.verdict != "pass" and not gate.informational]
    errors = [gate for gate in missed if gate.verdict == "fail" or policy == "fail"]
    return _lines("error", errors) + _lines("warning", [gate for gate in missed if gate not in errors])


def _lines(kind: str, gates: Sequence[GateResult]) -> list[str]:
    shown = gates if len(gates) <= SHOWN_PER_KIND else gates[: SHOWN_PER_KIND - 1]
    lines = [_line(kind, f"{_TITLE}: {gate.cell}, {gate_name(gate)}", gate.explanation) for gate in shown]
    if rest := gates[len(shown) :]:
        cells = ", ".join(dict.fromkeys(gate.cell for gate in rest))
        lines.append(_line(kind, f"{_TITLE}: {len(rest)} more", f"{len(rest)} more gates of {cells}; see the report."))
    return lines


def _line(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_escape_property(title)}::{_escape_data(message)}"


def _escape_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")
