# SPDX-License-Identifier: Apache-2.0
"""Gates pass at the bound and fail just below it, and refuse goals that would check nothing."""

import math

import pytest

from sparse_deploy.config.schema import Goal
from sparse_deploy.errors import ConfigError
from sparse_deploy.gate.judge import evaluate_goals
from sparse_deploy.results import Cell
from sparse_deploy.sparsity.statistics import SparsityRecord, TensorRecord


def cell(cell_id: str, accuracy: float, zeros: int | None = None) -> Cell:
    runtime, precision = cell_id.split("-")
    record = None
    if zeros is not None:
        tensor = TensorRecord(
            name="w", shape=(10, 100), zeros=zeros, required_zeros=zeros, pattern="unstructured", mask_sha256="0" * 64
        )
        record = SparsityRecord(tensors=(tensor,))
    return Cell(
        id=cell_id, runtime=runtime, precision=precision, file="m", metrics={"accuracy": accuracy, "loss": 0.3},
        sparsity=record,
    )  # fmt: skip


def verdict(goal_type: str, bound: float, value: float, baseline: float = 0.91) -> str:
    reference = cell("pytorch-fp32", baseline)
    cells = (reference, cell("onnxruntime-int8", value))
    goal = Goal(metric="accuracy", type=goal_type, value=bound, runtimes=("onnxruntime",))
    (result,) = evaluate_goals((goal,), cells, reference)
    return result.verdict


@pytest.mark.parametrize(
    ("goal_type", "bound", "at_bound"),
    [
        ("threshold", 0.9, 0.9),
        ("max-degradation", 0.01, 0.90),  # 0.91 - 0.90 is 0.010000000000000009 in binary
        ("max-degradation", 0.0, 0.91),
        ("percent-of-baseline", 99.0, 0.9009),  # 0.99 * 0.91
        ("percent-of-baseline", 100.0, 0.91),
    ],
)
def test_a_tie_passes_and_a_hair_less_fails(goal_type: str, bound: float, at_bound: float):
    assert verdict(goal_type, bound, at_bound) == "pass"
    assert verdict(goal_type, bound, at_bound + 1e-6) == "pass"
    assert verdict(goal_type, bound, at_bound - 1e-7) == "fail"


def test_values_are_not_rounded_before_they_are_compared():
    assert verdict("threshold", 0.95, 0.9499999) == "fail"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("goal_type", ["threshold", "max-degradation", "percent-of-baseline"])
def test_no_verdict_but_fail_on_a_value_that_is_no_number(goal_type: str, value: float):
    assert verdict(goal_type, 0.5, value) == "fail"
    if goal_type != "threshold":
        assert verdict(goal_type, 0.5, 0.9, baseline=value) == "fail"


def test_relative_goals_skip_the_baseline_and_absolute_ones_do_not():
    cells = (cell("pytorch-fp32", 0.91), cell("pytorch-int8", 0.90), cell("openvino-int8", 0.89))
    relative = Goal(metric="accuracy", type="max-degradation", value=0.015)
    absolute = Goal(metric="accuracy", type="threshold", value=0.9)
    results = evaluate_goals((relative, absolute), cells, cells[0])
    assert [(r.cell, r.verdict) for r in results] == [
        ("pytorch-int8", "pass"),
        ("openvino-int8", "fail"),
        ("pytorch-fp32", "pass"),
        ("pytorch-int8", "pass"),
        ("openvino-int8", "fail"),
    ]


def test_an_earlier_baseline_of_the_same_id_does_not_exempt_the_cell():
    earlier, now = cell("pytorch-fp32", 0.93), cell("pytorch-fp32", 0.90)
    (result,) = evaluate_goals((Goal(metric="accuracy", type="max-degradation", value=0.01),), (now,), earlier)
    assert (result.cell, result.verdict, result.baseline) == ("pytorch-fp32", "fail", 0.93)


def test_runtimes_and_precisions_select_cells():
    cells = tuple(cell(f"{r}-{p}", 0.9) for r in ("pytorch", "openvino") for p in ("fp32", "int8"))
    goal = Goal(metric="accuracy", type="threshold", value=0.5, runtimes=("openvino",), precisions=("int8",))
    assert [r.cell for r in evaluate_goals((goal,), cells, cells[0])] == ["openvino-int8"]


def test_sparsity_is_a_metric_of_the_file():
    baseline = cell("pytorch-fp32", 0.9, zeros=700)
    cells = (baseline, cell("openvino-fp32", 0.9, zeros=700), cell("openvino-int8", 0.9, zeros=699))
    goals = (
        Goal(metric="sparsity", type="threshold", value=0.7),
        Goal(metric="sparsity", type="percent-of-baseline", value=100),
    )
    results = evaluate_goals(goals, cells, baseline)
    assert [r.verdict for r in results] == ["pass", "pass", "fail", "pass", "fail"]


def test_the_explanation_shows_numbers_that_differ():
    baseline = cell("pytorch-fp32", 0.91)
    goal = Goal(metric="accuracy", type="threshold", value=0.9, precisions=("int8",))
    (result,) = evaluate_goals((goal,), (baseline, cell("openvino-int8", 0.8999999)), baseline)
    assert result.explanation == "accuracy 0.8999999 of openvino-int8 misses the bound 0.9 (the threshold)."
    assert (result.value, result.bound, result.baseline) == (0.8999999, 0.9, None)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Goal(metric="acuracy", type="threshold", value=0.9), "known metrics: accuracy$"),
        (Goal(metric="sparsity", type="threshold", value=0.9), "no metric 'sparsity'"),
        (Goal(metric="loss", type="threshold", value=0.9), "better when higher"),
        (Goal(metric="accuracy", type="threshold", value=0.9, runtimes=("opnvino",)), "runtimes opnvino.*measured: p"),
        (Goal(metric="accuracy", type="max-degradation", value=0.1), "besides the baseline pytorch-fp32"),
    ],
)
def test_a_goal_that_can_check_nothing_is_refused(goal: Goal, message: str):
    only = cell("pytorch-fp32", 0.9)
    with pytest.raises(ConfigError, match=message):
        evaluate_goals((goal,), (only,), only)
