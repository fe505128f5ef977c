# SPDX-License-Identifier: Apache-2.0
"""The verdict on a whole run from its gates and the recipe's policy, and the exit code."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from sparse_deploy.errors import ExitCode
from sparse_deploy.results import GateResult

Policy = Literal["more-rows", "fail", "warn"]
Verdict = Literal["pass", "fail", "inconclusive"]


class WholeVerdict(NamedTuple):
    """The verdict of all gates.

    Attributes:
        verdict: the worst of all gates that are not informational; the policy does not change it.
        exit_code: exit code of ``bench``.
        failed, inconclusive, passed: numbers of gates that are not informational.
        informational: number of informational gates.
    """

    verdict: Verdict
    exit_code: ExitCode
    failed: int
    inconclusive: int
    passed: int
    informational: int

    @property
    def sentence(self) -> str:
        """The verdict in one line, such as ``fail: 1 of 7 gates failed, 2 inconclusive``."""
        counted = self.failed + self.inconclusive + self.passed
        if not counted:
            return "pass: no gates, or informational ones only"
        parts = [f"{self.failed} of {counted} gates failed"] if self.failed else []
        if self.inconclusive:
            parts.append(f"{self.inconclusive} inconclusive" if parts else f"{self.inconclusive} of {counted} gates")
        return f"{self.verdict}: {', '.join(parts) or f'{counted} gates'}"


def whole_verdict(gates: Sequence[GateResult], policy: Policy) -> WholeVerdict:
    """The verdict of all gates, without informational ones.

    Args:
        gates: every result of a run.
        policy: ``gate.on_inconclusive`` of the recipe. It sets the exit code of an inconclusive run: ``more-rows`` 4,
            ``fail`` 3, ``warn`` 0.
    """
    counted = [gate.verdict for gate in gates if not gate.informational]
    failed, undecided = counted.count("fail"), counted.count("inconclusive")
    verdict: Verdict = "fail" if failed else "inconclusive" if undecided else "pass"
    if failed or (undecided and policy == "fail"):
        code = ExitCode.GATE_FAILED
    else:
        code = ExitCode.INCONCLUSIVE if undecided and policy == "more-rows" else ExitCode.OK
    return WholeVerdict(verdict, code, failed, undecided, counted.count("pass"), len(gates) - len(counted))


def worst_first(gates: Sequence[GateResult]) -> list[GateResult]:
    """Failures, then inconclusive, then passed gates; in each group the largest miss of the bound first."""
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    return sorted(gates, key=lambda gate: (gate.informational, order[gate.verdict], -_excess(gate)))


def gate_name(gate: GateResult) -> str:
    """The goal of a gate as text, such as ``accuracy max-degradation 0.01``."""
    return f"{gate.goal.metric} {gate.goal.type} {gate.goal.value:g}"


def _excess(gate: GateResult) -> float:
    """The distance of a value beyond its bound, as a share of the larger of the two."""
    if gate.value is None or gate.bound is None:
        return 0.0
    scale = max(abs(gate.value), abs(gate.bound)) or 1.0
    miss = (gate.bound - gate.value) / scale
    return -miss if gate.goal.type == "at-most" else miss
