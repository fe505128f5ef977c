# SPDX-License-Identifier: Apache-2.0
"""Verdicts: whether the measured cells meet the goals of the recipe. Pure functions of the measurements.

A drop of a task metric is estimated from a sample of examples; its paired test has three verdicts. Counted or measured
figures (a threshold, zeros, bytes) are compared without a test.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparse_deploy.config.schema import GateSection, Goal
from sparse_deploy.errors import ConfigError
from sparse_deploy.gate import wording
from sparse_deploy.gate.comparison import compare_rows, split_metric
from sparse_deploy.gate.figures import (
    AGAINST_BASELINE,
    AGAINST_ITSELF,
    COMPANIONS,
    LATENCY_METRIC,
    SPARSITY_METRIC,
    Contestant,
    figure,
)
from sparse_deploy.gate.holm import holm
from sparse_deploy.gate.metric import Metric
from sparse_deploy.results import Cell, Evidence, GateResult

RELATIVE_TYPES = ("max-degradation", "percent-of-baseline")

# Values are compared without rounding: a gate on two decimals would accept 0.9457 for 0.95. The epsilon
# only covers binary fractions, so that an exact tie such as 0.91 - 0.90 <= 0.01 passes.
RELATIVE_EPSILON = 1e-9


@dataclass(frozen=True)
class _Pairing:
    """One paired test before the correction: its inputs and its result."""

    goal: Goal
    metric: Metric
    cell: Contestant
    baseline: Contestant
    value: float
    reference: float
    margin: float
    evidence: Evidence


def judge_goals(
    goals: Sequence[Goal],
    cells: Sequence[Contestant],
    baseline: Contestant,
    settings: GateSection,
    metrics: Mapping[str, Metric],
) -> tuple[GateResult, ...]:
    """Test every goal on every cell that it applies to, except ``latency_ratio``; see :func:`judge_latency`.

    ``max-degradation`` and ``percent-of-baseline`` of a task metric are paired tests, corrected together. All other
    goals compare figures without rounding; a tie passes (relative epsilon 1e-9). NaN and infinite values fail.

    Args:
        goals: the recipe's goals.
        cells: the measured cells.
        baseline: baseline of relative goals: one of ``cells``, which these goals then skip, or a stored baseline.
        settings: the recipe's ``gate`` section.
        metrics: the task's metrics, by name.

    Returns:
        One result per goal and cell, in that order.

    Raises:
        ConfigError: a goal applies to no measured cell, or its metric is missing in a cell or not allowed in goals.
    """
    drafts: list[GateResult | _Pairing] = []
    for goal in goals:
        _check_metric(goal)
        bound = _bound_cells(goal, cells, baseline)
        if goal.metric != LATENCY_METRIC:
            drafts += [_judge(goal, cell, baseline, settings, metrics) for cell in bound]
    tested = [draft for draft in drafts if isinstance(draft, _Pairing)]
    verdicts = iter(_verdicts(tested, settings))
    return tuple(next(verdicts) if isinstance(draft, _Pairing) else draft for draft in drafts)


def judge_latency(
    goals: Sequence[Goal], cells: Sequence[Cell], baseline: Cell, settings: GateSection
) -> tuple[GateResult, ...]:
    """Test the goals on ``latency_ratio``, p50 of the cell over p50 of the baseline in the same run.

    The result is inconclusive if the interval of the ratio includes the bound, or if the measurement was unstable. It
    is informational unless the recipe declares the machine quiet.

    Args:
        goals: the recipe's goals; goals on other metrics are skipped.
        cells: the timed cells.
        baseline: one of ``cells``, because a ratio to another run would compare two machines.
        settings: the recipe's ``gate`` section.

    Raises:
        ConfigError: a goal applies to no measured cell.
    """
    return tuple(
        _judge_ratio(goal, cell, baseline, informational=not settings.quiet_machine)
        for goal in goals
        if goal.metric == LATENCY_METRIC
        for cell in _bound(goal, cells, baseline)
    )


def _judge(
    goal: Goal, cell: Contestant, baseline: Contestant, settings: GateSection, metrics: Mapping[str, Metric]
) -> GateResult | _Pairing:
    if goal.metric in AGAINST_ITSELF and (cell.cell.drift is None):
        return _unmeasured(goal, cell.cell, wording.NO_DRIFT)
    value = _required(goal, cell, baseline)
    if goal.type not in RELATIVE_TYPES:
        return _compared(goal, cell.cell, value, None, goal.value, wording.limit_of(goal))
    reference = _required(goal, baseline, baseline)
    margin = _margin(goal, reference)
    if goal.metric == SPARSITY_METRIC or not (math.isfinite(value) and math.isfinite(reference)):
        origin = wording.origin_of(goal, baseline.cell.id, reference)
        return _compared(goal, cell.cell, value, reference, reference - margin, origin)
    metric = metrics[split_metric(goal.metric, cell.rows).metric]
    evidence = _test(goal, metric, cell, baseline, margin, settings, tests=1)
    return _Pairing(goal, metric, cell, baseline, value, reference, margin, evidence)


def _margin(goal: Goal, reference: float) -> float:
    return goal.value if goal.type == "max-degradation" else (1.0 - goal.value / 100.0) * reference


def _test(
    goal: Goal,
    metric: Metric,
    cell: Contestant,
    baseline: Contestant,
    margin: float,
    settings: GateSection,
    *,
    tests: int,
) -> Evidence:
    """The paired test of a goal, at the confidence of the most significant of ``tests`` tests."""
    suffix = split_metric(goal.metric, cell.rows).suffix
    confidence = goal.confidence or settings.confidence
    return compare_rows(
        metric,
        baseline.rows[suffix],
        cell.rows[suffix],
        margin=margin,
        confidence=1.0 - (1.0 - confidence) / tests,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def _verdicts(pairings: Sequence[_Pairing], settings: GateSection) -> list[GateResult]:
    """Correct all paired tests of the run together, with passes and fails as separate families."""
    correct = holm if settings.correction == "holm" else tuple
    passes = correct([pairing.evidence.p_pass for pairing in pairings])
    fails = correct([pairing.evidence.p_fail for pairing in pairings])
    corrected = len(pairings) if settings.correction == "holm" else 1
    return [
        _verdict(pairing, p_pass, p_fail, settings, tests=corrected)
        for pairing, p_pass, p_fail in zip(pairings, passes, fails, strict=True)
    ]


def _verdict(pairing: _Pairing, p_pass: float, p_fail: float, settings: GateSection, *, tests: int) -> GateResult:
    goal, cell, found = pairing.goal, pairing.cell.cell, pairing.evidence
    alpha = 1.0 - found.confidence
    verdict = wording.verdict_of(p_pass, p_fail, alpha)
    needed = None
    if verdict == "inconclusive":
        strict = (
            found
            if tests == 1
            else _test(goal, pairing.metric, pairing.cell, pairing.baseline, pairing.margin, settings, tests=tests)
        )
        needed = strict.rows_needed
    evidence = found.model_copy(update={"p_pass": p_pass, "p_fail": p_fail, "rows_needed": needed})
    return GateResult(
        goal=goal,
        cell=cell.id,
        value=pairing.value,
        baseline=pairing.reference,
        bound=pairing.reference - pairing.margin,
        verdict=verdict,
        explanation=wording.paired_sentence(
            goal,
            cell.id,
            pairing.baseline.cell.id,
            (pairing.value, pairing.reference),
            evidence,
            margin=pairing.margin,
            scale=pairing.metric.points,
            alone=wording.verdict_of(found.p_pass, found.p_fail, alpha),
            tests=tests,
        ),
        evidence=evidence,
    )


def _judge_ratio(goal: Goal, cell: Cell, baseline: Cell, *, informational: bool) -> GateResult:
    speedup = cell.speedup
    if speedup is None or not (cell.stable and baseline.stable):
        why = wording.NO_LATENCY if speedup is None else cell.instability or baseline.instability
        return _unmeasured(goal, cell, why, informational=informational)
    ratio, low, high = 1.0 / speedup.value, 1.0 / speedup.high, 1.0 / speedup.low
    at_most = goal.type == "at-most"
    clears, misses = (high <= goal.value, low > goal.value) if at_most else (low >= goal.value, high < goal.value)
    verdict: wording.Verdict = "pass" if clears else "fail" if misses else "inconclusive"
    return GateResult(
        goal=goal,
        cell=cell.id,
        value=ratio,
        baseline=None,
        bound=goal.value,
        verdict=verdict,
        explanation=wording.ratio_sentence(
            goal, cell.id, baseline.id, (ratio, low, high), speedup.confidence, verdict, informational=informational
        ),
        informational=informational,
    )


def _unmeasured(goal: Goal, cell: Cell, why: str, *, informational: bool = False) -> GateResult:
    return GateResult(
        goal=goal,
        cell=cell.id,
        value=None,
        baseline=None,
        bound=goal.value,
        verdict="inconclusive",
        explanation=f"{goal.metric} of {cell.id} was not measured: {why}.",
        informational=informational,
    )


def _compared(goal: Goal, cell: Cell, value: float, reference: float | None, bound: float, origin: str) -> GateResult:
    finite = math.isfinite(value) and math.isfinite(bound)
    slack = RELATIVE_EPSILON * max(abs(value), abs(bound), abs(reference or 0.0))
    within = value <= bound + slack if goal.type == "at-most" else value >= bound - slack
    return GateResult(
        goal=goal,
        cell=cell.id,
        value=value,
        baseline=reference,
        bound=bound,
        verdict="pass" if finite and within else "fail",
        explanation=wording.compared_sentence(goal, cell.id, value, bound, origin, passed=within),
    )


def _check_metric(goal: Goal) -> None:
    name = wording.goal_name(goal)
    if "loss" in goal.metric.split("_"):
        raise ConfigError(f"{name}: expected a metric that is better when higher, found {goal.metric!r}")
    if goal.type in RELATIVE_TYPES and goal.metric in (*AGAINST_BASELINE, *AGAINST_ITSELF):
        raise ConfigError(f"{name}: {goal.metric} is already a comparison; use type at-most or threshold")


def _bound_cells(goal: Goal, cells: Sequence[Contestant], baseline: Contestant) -> list[Contestant]:
    others = [cell.cell for cell in cells]
    bound = _bound(goal, others, baseline.cell)
    return [cell for cell in cells if any(cell.cell is one for one in bound)]


def _bound(goal: Goal, cells: Sequence[Cell], baseline: Cell) -> list[Cell]:
    relative = goal.type in RELATIVE_TYPES or goal.metric in AGAINST_BASELINE
    bound = [
        cell
        for cell in cells
        if (not goal.runtimes or cell.runtime in goal.runtimes)
        and (not goal.precisions or cell.precision in goal.precisions)
        and not (relative and cell is baseline)
    ]
    if not bound:
        measured = ", ".join(cell.id for cell in cells) or "none"
        other = f" other than the baseline {baseline.id}" if relative else ""
        raise ConfigError(
            f"{wording.goal_name(goal)}: expected at least one measured cell{other} of runtimes "
            f"{wording.selection(goal.runtimes)} and precisions {wording.selection(goal.precisions)}; measured: "
            f"{measured}. Correct the goals, or measure such cells."
        )
    return bound


def _required(goal: Goal, contestant: Contestant, baseline: Contestant) -> float:
    """The figure of a goal."""
    value = figure(goal.metric, contestant, baseline)
    if value is None:
        names = [name for name in sorted(contestant.cell.metrics) if "loss" not in name.split("_")]
        names += [name for name in COMPANIONS if figure(name, contestant, baseline) is not None]
        raise ConfigError(
            f"{wording.goal_name(goal)}: {contestant.cell.id} has no metric {goal.metric!r}; known metrics: "
            f"{', '.join(names) or 'none'}"
        )
    return value
