# SPDX-License-Identifier: Apache-2.0
"""The sentence of a verdict: the test, the figures, and the remedy."""

import math
from typing import Literal

from sparse_deploy.config.schema import Goal
from sparse_deploy.results import Evidence

Verdict = Literal["pass", "fail", "inconclusive"]

NO_LATENCY = "the run measured no latency (--no-latency)"
NO_DRIFT = "it needs --against a baseline with this cell, from the same checkpoint, rows and batch size"
# Closer numbers are the same one with another rounding.
_EQUAL = 1e-9


def verdict_of(p_pass: float, p_fail: float, alpha: float) -> Verdict:
    """The verdict of a pair of p-values."""
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
    """The result of a paired test, in points.

    Args:
        goal: the tested goal.
        cell: id of the cell.
        baseline: id of the baseline cell.
        values: the metric of the cell and of the baseline.
        evidence: with corrected p-values.
        margin: allowed drop, in the metric's own unit.
        scale: points per unit of the metric.
        alone: the verdict without the correction.
        tests: how many were corrected together.
    """
    value, reference = (f"{scale * figure:.2f}" for figure in values)
    drop = scale * evidence.drop
    apart = f"{_points(drop)} points {'below' if drop > 0 else 'above'}" if abs(drop) > _EQUAL else "equal to"
    verdict = verdict_of(evidence.p_pass, evidence.p_fail, 1.0 - evidence.confidence)
    sure = _sure(verdict, scale * evidence.low, scale * evidence.high)
    return (
        f"{goal.metric} of {cell} is {apart} {baseline} ({value} against {reference}; "
        f"{100 * evidence.confidence:g} % sure of {sure}); {_allowed(scale * margin)}: "
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
    """The result of a goal on a ratio with an interval (value, low, high)."""
    ratio, low, high = interval
    so = " Only for information: gate.quiet_machine is not set." if informational else ""
    return (
        f"p50 latency of {cell} is {ratio:.3g} times that of {baseline} ({100 * confidence:g} % interval {low:.3g} to "
        f"{high:.3g}); {limit_of(goal)} is {goal.value:g}: {verdict}.{so}"
    )


def compared_sentence(goal: Goal, cell: str, value: float, bound: float, origin: str, *, passed: bool) -> str:
    """The result of a goal on a figure that is compared as it is."""
    if not (math.isfinite(value) and math.isfinite(bound)):
        return f"{goal.metric} of {cell} is {value:g} and the bound is {bound:g} ({origin}): not comparable."
    shown, limit = _distinct_numbers(value, bound)
    if goal.type == "at-most":
        relation = "stays within" if passed else "exceeds"
    else:
        relation = "reaches" if passed else "misses"
    return f"{goal.metric} {shown} of {cell} {relation} the bound {limit} ({origin})."


def limit_of(goal: Goal) -> str:
    """The name of the value of an absolute goal."""
    return "the largest allowed" if goal.type == "at-most" else "the threshold"


def origin_of(goal: Goal, baseline: str, reference: float) -> str:
    """Where the bound of a relative goal comes from."""
    if goal.type == "max-degradation":
        return f"{baseline} {_number(reference)} less the allowed {_number(goal.value)}"
    return f"{_number(goal.value)} % of {baseline} {_number(reference)}"


def goal_name(goal: Goal) -> str:
    """A goal in the words of the recipe."""
    return f"goal {goal.metric} {goal.type} {_number(goal.value)}"


def selection(names: tuple[str, ...]) -> str:
    """Which runtimes or precisions a goal names."""
    return ", ".join(names) or "any"


def _sure(verdict: Verdict, low: float, high: float) -> str:
    """The bound that the verdict rests on; of an open one, both, and it is sure of each alone."""
    if verdict == "pass":
        return f"at most {_signed(high)}"
    if verdict == "fail":
        return f"at least {_signed(low)}"
    return f"at least {_signed(low)}, and of at most {_signed(high)}"


def _allowed(margin: float) -> str:
    return f"allowed are {_points(margin)}" if margin >= 0 else f"demanded is a gain of {_points(margin)}"


def _help(verdict: Verdict, evidence: Evidence, alone: Verdict, tests: int) -> str:
    if verdict != "inconclusive":
        return ""
    why = f" ({alone} if it were the only one of the run's {tests} tests)" if alone != verdict else ""
    if evidence.rows_needed is None:
        return f"{why}; no number of rows would decide a drop so close to the margin"
    return f"{why}; {evidence.rows:,} rows were compared, about {evidence.rows_needed:,} would decide"


def _points(value: float) -> str:
    """Points without a sign, two decimals, more where those would read 0.00."""
    size = abs(value)
    return f"{size:.2f}" if size >= 0.005 or size == 0 else f"{size:.1g}"


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else ''}{_points(value)}"


def _distinct_numbers(value: float, bound: float) -> tuple[str, str]:
    """Both numbers as text, with enough digits that a near miss does not read ``0.9 misses 0.9``."""
    close = math.isclose(value, bound, rel_tol=_EQUAL)
    for digits in range(5, 17):
        texts = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if close or texts[0] != texts[1]:
            break
    return texts


def _number(value: float) -> str:
    return f"{value:.5g}"
