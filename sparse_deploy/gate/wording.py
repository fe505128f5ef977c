# SPDX-License-Identifier: Apache-2.0
"""The texts of verdicts: the figures, the test's result, and the remedy."""

import math
from typing import Literal

from sparse_deploy.config.schema import Goal
from sparse_deploy.results import Evidence

Verdict = Literal["pass", "fail", "inconclusive"]

NO_LATENCY = "the run measured no latency (--no-latency)"
NO_DRIFT = "expected --against with a baseline that has this cell, of the same checkpoint, rows and batch size"
# Numbers with a smaller difference are equal up to rounding.
_EQUAL = 1e-9


def verdict_of(p_pass: float, p_fail: float, alpha: float) -> Verdict:
    """The verdict from the two p-values."""
    if p_pass <= alpha:
        return "pass"
    return "fail" if p_fail <= alpha else "inconclusive"


def paired_sentence(
    goal: Goal,
    cell: str,
    baseline: str,
    values: tuple[float, float],
    evidence: Evidence,
    *,
    margin: float,
    scale: float,
    alone: Verdict,
    tests: int,
) -> str:
    """The result of a paired test as a sentence, in points.

    Args:
        goal: the tested goal.
        cell: id of the cell.
        baseline: id of the baseline cell.
        values: the metric of the cell and of the baseline.
        evidence: evidence with corrected p-values.
        margin: allowed drop, in the metric's own unit.
        scale: points per unit of the metric.
        alone: the verdict without the correction.
        tests: number of tests that were corrected together.
    """
    value, reference = (f"{scale * figure:.2f}" for figure in values)
    drop = scale * evidence.drop
    apart = f"{_points(drop)} points {'below' if drop > 0 else 'above'}" if abs(drop) > _EQUAL else "equal to"
    verdict = verdict_of(evidence.p_pass, evidence.p_fail, 1.0 - evidence.confidence)
    bounds = _bounds(verdict, scale * evidence.low, scale * evidence.high)
    return (
        f"{goal.metric} of {cell} is {apart} {baseline} ({value} against {reference}; "
        f"drop {bounds} with {100 * evidence.confidence:g} % confidence); {_allowed(scale * margin)}: "
        f"{verdict}{_help(verdict, evidence, alone, tests)}."
    )


def ratio_sentence(
    goal: Goal,
    cell: str,
    baseline: str,
    interval: tuple[float, float, float],
    confidence: float,
    verdict: Verdict,
    *,
    informational: bool,
) -> str:
    """The result of a goal on a latency ratio as a sentence; the interval is (value, low, high)."""
    ratio, low, high = interval
    note = " This goal is informational, because gate.quiet_machine is not set." if informational else ""
    return (
        f"p50 latency of {cell} is {ratio:.3g} times that of {baseline} ({100 * confidence:g} % interval {low:.3g} to "
        f"{high:.3g}); {limit_of(goal)} is {goal.value:g}: {verdict}.{note}"
    )


def compared_sentence(goal: Goal, cell: str, value: float, bound: float, origin: str, *, passed: bool) -> str:
    """The result of a goal on a figure that is compared without a test, as a sentence."""
    if not (math.isfinite(value) and math.isfinite(bound)):
        return f"{goal.metric} of {cell} is {value:g} and the bound is {bound:g} ({origin}): not comparable."
    shown, limit = _distinct_numbers(value, bound)
    relations = ("is within", "exceeds") if goal.type == "at-most" else ("reaches", "misses")
    return f"{goal.metric} {shown} of {cell} {relations[0 if passed else 1]} the bound {limit} ({origin})."


def limit_of(goal: Goal) -> str:
    """The name of an absolute goal's value."""
    return "the largest allowed" if goal.type == "at-most" else "the threshold"


def origin_of(goal: Goal, baseline: str, reference: float) -> str:
    """The computation of a relative goal's bound."""
    if goal.type == "max-degradation":
        return f"{baseline} {_number(reference)} minus the allowed {_number(goal.value)}"
    return f"{_number(goal.value)} % of {baseline} {_number(reference)}"


def goal_name(goal: Goal) -> str:
    """A goal in the form of the recipe."""
    return f"goal {goal.metric} {goal.type} {_number(goal.value)}"


def selection(names: tuple[str, ...]) -> str:
    """The runtimes or precisions of a goal."""
    return ", ".join(names) or "any"


def _bounds(verdict: Verdict, low: float, high: float) -> str:
    """The bound that decides the verdict; for an inconclusive one both bounds, each with the given confidence."""
    if verdict == "pass":
        return f"at most {_signed(high)}"
    if verdict == "fail":
        return f"at least {_signed(low)}"
    return f"at least {_signed(low)} and at most {_signed(high)}, each"


def _allowed(margin: float) -> str:
    return f"the allowed drop is {_points(margin)}" if margin >= 0 else f"the required gain is {_points(margin)}"


def _help(verdict: Verdict, evidence: Evidence, alone: Verdict, tests: int) -> str:
    if verdict != "inconclusive":
        return ""
    uncorrected = f" ({alone} without the correction for {tests} tests)" if alone != verdict else ""
    if evidence.rows_needed is None:
        return f"{uncorrected}; the drop is too close to the margin for a verdict with any number of rows"
    return f"{uncorrected}; {evidence.rows:,} rows were compared, about {evidence.rows_needed:,} are needed"


def _points(value: float) -> str:
    """Points without a sign: two decimals, or one digit if two decimals would give 0.00."""
    size = abs(value)
    return f"{size:.2f}" if size >= 0.005 or size == 0 else f"{size:.1g}"


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else ''}{_points(value)}"


def _distinct_numbers(value: float, bound: float) -> tuple[str, str]:
    """Both numbers as text, with enough digits to show that they differ (not ``0.9 misses 0.9``)."""
    close = math.isclose(value, bound, rel_tol=_EQUAL)
    for digits in range(5, 17):
        texts = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if close or texts[0] != texts[1]:
            break
    return texts


def _number(value: float) -> str:
    return f"{value:.5g}"
