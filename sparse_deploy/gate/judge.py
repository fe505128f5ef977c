# SPDX-License-Identifier: Apache-2.0
"""Gates: whether the measured cells meet the goals of the recipe. Pure functions of what was measured."""

import math
from collections.abc import Callable, Mapping, Sequence

from sparse_deploy.config.schema import Goal
from sparse_deploy.errors import ConfigError
from sparse_deploy.results import Cell, GateResult

SPARSITY_METRIC = "sparsity"

# Values are compared as measured, never rounded first: a gate on two decimals lets 0.9457 pass for 0.95. The epsilon
# only covers binary fractions, so that an exact tie such as 0.91 - 0.90 <= 0.01 passes.
RELATIVE_EPSILON = 1e-9

Judge = Callable[[Goal, Cell, Cell], GateResult]


def evaluate_goals(goals: Sequence[Goal], cells: Sequence[Cell], baseline: Cell) -> tuple[GateResult, ...]:
    """Judge every goal on every cell that it binds.

    Values are compared without rounding; a tie passes (relative epsilon 1e-9), NaN and infinite values fail.

    Args:
        goals: the recipe's goals.
        cells: what was measured.
        baseline: the cell that relative goals refer to; one of ``cells`` or from an earlier report. Relative goals
            skip it, since compared with itself it says nothing.

    Returns:
        One result per goal and cell, in that order.

    Raises:
        ConfigError: a goal binds no measured cell, or names a metric that a cell lacks or that is better when lower.
    """
    return tuple(
        _JUDGES[goal.type](goal, cell, baseline) for goal in goals for cell in _bound_cells(goal, cells, baseline)
    )


def metric_value(cell: Cell, metric: str) -> float | None:
    """A task metric of a cell, or its share of zeros for ``sparsity``; None when the cell has no such figure."""
    if metric == SPARSITY_METRIC:
        return cell.sparsity.sparsity_of_prunable if cell.sparsity else None
    return cell.metrics.get(metric)


def _judge_threshold(goal: Goal, cell: Cell, baseline: Cell) -> GateResult:
    value = _required_value(goal, cell)
    return _result(goal, cell, value, None, goal.value, "the threshold")


def _judge_max_degradation(goal: Goal, cell: Cell, baseline: Cell) -> GateResult:
    value, reference = _required_value(goal, cell), _required_value(goal, baseline)
    origin = f"{baseline.id} {_number(reference)} less the allowed {_number(goal.value)}"
    return _result(goal, cell, value, reference, reference - goal.value, origin)


def _judge_percent_of_baseline(goal: Goal, cell: Cell, baseline: Cell) -> GateResult:
    value, reference = _required_value(goal, cell), _required_value(goal, baseline)
    origin = f"{_number(goal.value)} % of {baseline.id} {_number(reference)}"
    return _result(goal, cell, value, reference, goal.value / 100.0 * reference, origin)


# A type of goal is one function here; one that needs per-example data reads the predictions that the cells name.
_JUDGES: Mapping[str, Judge] = {
    "threshold": _judge_threshold,
    "max-degradation": _judge_max_degradation,
    "percent-of-baseline": _judge_percent_of_baseline,
}
_ABSOLUTE_TYPES = frozenset({"threshold"})


def _bound_cells(goal: Goal, cells: Sequence[Cell], baseline: Cell) -> list[Cell]:
    bound = [
        cell
        for cell in cells
        if (not goal.runtimes or cell.runtime in goal.runtimes)
        and (not goal.precisions or cell.precision in goal.precisions)
        and (goal.type in _ABSOLUTE_TYPES or cell != baseline)
    ]
    if not bound:
        measured = ", ".join(cell.id for cell in cells) or "none"
        besides = "" if goal.type in _ABSOLUTE_TYPES else f" besides the baseline {baseline.id}"
        raise ConfigError(
            f"{_goal_name(goal)}: expected at least one measured cell{besides} of runtimes {_selection(goal.runtimes)} "
            f"and precisions {_selection(goal.precisions)}; measured: {measured}. Correct goals, or bench those cells."
        )
    return bound


def _required_value(goal: Goal, cell: Cell) -> float:
    if "loss" in goal.metric.split("_"):
        raise ConfigError(
            f"{_goal_name(goal)}: a goal needs a metric that is better when higher; found {goal.metric!r}"
        )
    value = metric_value(cell, goal.metric)
    if value is None:
        known = [name for name in sorted(cell.metrics) if "loss" not in name.split("_")]
        known += [SPARSITY_METRIC] if cell.sparsity else []
        raise ConfigError(
            f"{_goal_name(goal)}: {cell.id} has no metric {goal.metric!r}; known metrics: {', '.join(known) or 'none'}"
        )
    return value


def _result(goal: Goal, cell: Cell, value: float, reference: float | None, bound: float, origin: str) -> GateResult:
    finite = math.isfinite(value) and math.isfinite(bound)
    scale = max(abs(value), abs(bound), abs(reference or 0.0))
    passed = finite and value >= bound - RELATIVE_EPSILON * scale
    if finite:
        shown, limit = _distinct_numbers(value, bound)
        relation = "reaches" if passed else "misses"
        sentence = f"{goal.metric} {shown} of {cell.id} {relation} the bound {limit} ({origin})."
    else:
        sentence = f"{goal.metric} of {cell.id} is {value:g} and the bound is {bound:g} ({origin}): not comparable."
    return GateResult(
        goal=goal,
        cell=cell.id,
        value=value,
        baseline=reference,
        bound=bound,
        verdict="pass" if passed else "fail",
        explanation=sentence,
    )


def _distinct_numbers(value: float, bound: float) -> tuple[str, str]:
    """Both numbers as text, with enough digits that a near miss does not read ``0.9 misses 0.9``."""
    close = math.isclose(value, bound, rel_tol=RELATIVE_EPSILON)
    for digits in range(5, 17):
        texts = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if close or texts[0] != texts[1]:
            break
    return texts


def _number(value: float) -> str:
    return f"{value:.5g}"


def _goal_name(goal: Goal) -> str:
    return f"goal {goal.metric} {goal.type} {_number(goal.value)}"


def _selection(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "any"
