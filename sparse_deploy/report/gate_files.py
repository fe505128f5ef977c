# SPDX-License-Identifier: Apache-2.0
"""The files that ``bench --gate`` adds to the report: ``gate.json``, ``junit.xml`` and ``gate.md``."""

from pathlib import Path
from typing import Final, Literal

from sparse_deploy.artifacts import write_text_atomically
from sparse_deploy.report.ci_summary import render_summary
from sparse_deploy.report.junit import render_junit
from sparse_deploy.report.verdict import Policy, Verdict, whole_verdict
from sparse_deploy.results import BenchReport, Figures, GateResult

GATE_NAME, JUNIT_NAME, SUMMARY_NAME = "gate.json", "junit.xml", "gate.md"
GATE_SCHEMA_VERSION: Final = 1


class GateFile(Figures):
    """``gate.json``: the verdict for programs.

    Within a schema version, fields are only added; names and meanings do not change.

    Attributes:
        verdict: the worst of all gates that are not informational; ``policy`` does not change it.
        exit_code: exit code of the command, as decided by the gates.
        policy: ``gate.on_inconclusive`` of the recipe.
        failed, inconclusive, passed: numbers of gates that are not informational.
        informational: number of informational gates.
        against: the stored baseline of the comparisons; None for the run's own baseline cell.
        gates: every gate with its evidence.
    """

    schema_version: Literal[1] = GATE_SCHEMA_VERSION
    verdict: Verdict
    exit_code: int
    policy: Policy
    failed: int
    inconclusive: int
    passed: int
    informational: int
    created: str
    name: str
    deployment: str
    task: str
    examples: int
    baseline: str
    against: str | None
    gates: tuple[GateResult, ...]


def write_gate_files(report: BenchReport, folder: Path, policy: Policy) -> None:
    """Write the three files, each atomically, ``gate.json`` last.

    Args:
        report: the report, with its gates.
        folder: existing folder of the report.
        policy: ``gate.on_inconclusive`` of the recipe.

    Raises:
        ArtifactError: a file can't be written.
    """
    write_text_atomically(folder / JUNIT_NAME, render_junit(report, policy))
    write_text_atomically(folder / SUMMARY_NAME, render_summary(report, policy))
    write_text_atomically(folder / GATE_NAME, gate_file(report, policy).model_dump_json(indent=1) + "\n")


def gate_file(report: BenchReport, policy: Policy) -> GateFile:
    """The content of ``gate.json``."""
    whole = whole_verdict(report.gates, policy)
    return GateFile(
        verdict=whole.verdict,
        exit_code=int(whole.exit_code),
        policy=policy,
        failed=whole.failed,
        inconclusive=whole.inconclusive,
        passed=whole.passed,
        informational=whole.informational,
        created=report.created,
        name=report.name,
        deployment=report.deployment,
        task=report.task,
        examples=report.examples,
        baseline=report.baseline,
        against=report.settings.get("against"),
        gates=report.gates,
    )
