# SPDX-License-Identifier: Apache-2.0
"""Verdicts on goals: three of them where a drop is tested, two where figures are compared, and refusals."""

import math

import pytest

from sparse_deploy.config.schema import GateSection, Goal
from sparse_deploy.data.tasks import QuestionAnswering, TextClassification
from sparse_deploy.errors import ConfigError
from sparse_deploy.gate.figures import Contestant
from sparse_deploy.gate.judge import judge_goals, judge_latency
from sparse_deploy.results import Cell, Drift, Ratio
from sparse_deploy.sparsity.statistics import SparsityRecord, TensorRecord

ROWS = 1000
SETTINGS = GateSection(resamples=1000)
ALONE = GateSection(resamples=1000, correction="none")


def record(zeros: int) -> SparsityRecord:
    tensor = TensorRecord(
        name="w", shape=(10, 100), zeros=zeros, required_zeros=zeros, pattern="unstructured", mask_sha256="0" * 64
    )
    return SparsityRecord(tensors=(tensor,))


def labels(worse: int = 0, better: int = 0, rows: int = ROWS, wrong: int = 100, logit: float = 2.0) -> list[dict]:
    """Rows of which the first ``wrong`` are wrong, but for ``better`` of them; and so are ``worse`` of the others."""
    correct = [n >= wrong - better and not wrong <= n < wrong + worse for n in range(rows)]
    return [
        {"id": n, "label": 1, "prediction": int(right), "correct": right, "logits": [0.0, logit]}
        for n, right in enumerate(correct)
    ]


def contestant(cell_id: str, rows: list[dict] | None = None, **fields) -> Contestant:
    runtime, precision = cell_id.split("-")
    rows = labels() if rows is None else rows
    accuracy = sum(row["correct"] for row in rows) / len(rows)
    metrics = fields.pop("metrics", {"accuracy": accuracy, "loss": 0.3})
    cell = Cell(id=cell_id, runtime=runtime, precision=precision, file="m", metrics=metrics, **fields)
    return Contestant(cell, {"": rows})


def metrics_of(one: Contestant):
    """Of the task whose rows those are."""
    answers = "exact_match" in one.rows[""][0]
    return QuestionAnswering.known_metrics if answers else TextClassification.known_metrics


BASELINE = contestant("pytorch-fp32", file_bytes=100)


def judge(goal: Goal, *cells: Contestant, baseline: Contestant = BASELINE, settings: GateSection = SETTINGS):
    return judge_goals((goal,), (baseline, *cells), baseline, settings, metrics_of(baseline))


def degradation(value: float, **more) -> Goal:
    return Goal(metric="accuracy", type="max-degradation", value=value, **more)


class TestPaired:
    @pytest.mark.parametrize(
        ("worse", "better", "margin", "verdict"),
        [(3, 1, 0.02, "pass"), (60, 2, 0.02, "fail"), (20, 2, 0.02, "inconclusive"), (0, 0, 0.02, "pass")],
    )
    def test_a_drop_has_three_verdicts(self, worse, better, margin, verdict):
        (result,) = judge(degradation(margin), contestant("onnxruntime-int8", labels(worse, better)))
        assert result.verdict == verdict
        assert result.evidence.drop == pytest.approx((worse - better) / ROWS)
        assert (result.evidence.worse, result.evidence.better, result.evidence.rows) == (worse, better, ROWS)
        assert (result.baseline, result.bound) == (0.9, pytest.approx(0.9 - margin))
        assert result.explanation.startswith("accuracy of onnxruntime-int8 is ")
        assert f": {verdict}" in result.explanation

    def test_the_sentence_has_the_numbers_of_the_test(self):
        (result,) = judge(degradation(0.02), contestant("onnxruntime-int8", labels(worse=3, better=1)))
        high = 100 * result.evidence.high
        assert result.explanation == (
            f"accuracy of onnxruntime-int8 is 0.20 points below pytorch-fp32 (89.80 against 90.00; drop at "
            f"most {high:.2f} with 95 % confidence); the allowed drop is 2.00: pass."
        )
        (equal,) = judge(degradation(0.02), contestant("onnxruntime-int8", labels()))
        assert "is equal to pytorch-fp32 (90.00 against 90.00;" in equal.explanation

    def test_an_open_verdict_says_how_many_rows_would_decide(self):
        (result,) = judge(degradation(0.02), contestant("onnxruntime-int8", labels(worse=20, better=2)))
        needed = result.evidence.rows_needed
        assert needed > ROWS
        assert f"1,000 rows were compared, about {needed:,} are needed" in result.explanation
        scale = math.ceil(needed / ROWS)
        more = contestant("onnxruntime-int8", labels(20 * scale, 2 * scale, ROWS * scale, 100 * scale))
        large = contestant("pytorch-fp32", labels(rows=ROWS * scale, wrong=100 * scale))
        (decided,) = judge(degradation(0.02), more, baseline=large)
        assert decided.verdict != "inconclusive"
        assert decided.evidence.rows_needed is None

    def test_percent_of_baseline_is_a_margin_at_the_baselines_value(self):
        goal = Goal(metric="accuracy", type="percent-of-baseline", value=98.0)
        (result,) = judge(goal, contestant("openvino-int8", labels(worse=3)))
        assert (result.verdict, result.bound) == ("pass", pytest.approx(0.98 * 0.9))
        assert "the allowed drop is 1.80: pass" in result.explanation

    def test_more_tests_in_one_run_need_more_evidence_each(self):
        # One test of these counts passes and eight of them don't.
        cells = [contestant(f"{name}-int8", labels(worse=12, better=2)) for name in "abcdefgh"]
        alone = judge(degradation(0.02), *cells, settings=ALONE)
        together = judge(degradation(0.02), *cells)
        assert {result.verdict for result in alone} == {"pass"}
        assert {result.verdict for result in together} == {"inconclusive"}
        assert together[0].evidence.p_pass == pytest.approx(8 * alone[0].evidence.p_pass)
        assert "(pass without the correction for 8 tests)" in together[0].explanation
        assert together[0].evidence.rows_needed > ROWS

    def test_a_goal_has_a_confidence_of_its_own(self):
        cell = contestant("openvino-int8", labels(worse=10, better=2))
        assert judge(degradation(0.02), cell)[0].verdict == "pass"
        (strict,) = judge(degradation(0.02, confidence=0.999), cell)
        assert strict.verdict == "inconclusive"
        assert "with 99.9 % confidence" in strict.explanation

    def test_a_metric_with_a_suffix_is_tested_on_the_rows_of_its_split(self):
        goal = Goal(metric="accuracy_mismatched", type="max-degradation", value=0.02)

        def two_splits(cell_id: str, mismatched: list[dict]) -> Contestant:
            accuracy = sum(row["correct"] for row in mismatched) / len(mismatched)
            one = contestant(cell_id, metrics={"accuracy": 0.9, "accuracy_mismatched": accuracy})
            return Contestant(one.cell, {"": labels(), "mismatched": mismatched})

        baseline = two_splits("pytorch-fp32", labels(rows=500))
        (result,) = judge(goal, two_splits("openvino-int8", labels(worse=60, rows=500)), baseline=baseline)
        assert (result.verdict, result.evidence.rows, result.evidence.worse) == ("fail", 500, 60)

    def test_other_metrics_are_resampled(self):
        goal = Goal(metric="f1", type="max-degradation", value=0.05)
        baseline = contestant("pytorch-fp32", half_positive(), metrics={"f1": 0.8889})
        same = contestant("openvino-int8", half_positive(), metrics={"f1": 0.8889})
        (result,) = judge(goal, same, baseline=baseline)
        assert (result.verdict, result.evidence.changed) == ("pass", 0)
        assert "bootstrap" in result.evidence.method

    def test_questions_of_a_paragraph_are_drawn_together(self):
        goal = Goal(metric="exact_match", type="max-degradation", value=5.0)

        def squad(cell_id: str, missed: int) -> Contestant:
            rows = [
                {"id": n, "prediction": "a", "exact_match": 100.0 * (n >= missed), "f1": 100.0 * (n >= missed),
                 "paragraph": f"p{n // 20}"} for n in range(400)
            ]  # fmt: skip
            cell = contestant(cell_id, metrics={"exact_match": 100.0 * (400 - missed) / 400}).cell
            return Contestant(cell, {"": rows})

        def strewn(one: Contestant) -> Contestant:
            return Contestant(one.cell, {"": [row | {"paragraph": f"p{row['id']}"} for row in one.rows[""]]})

        before, after = squad("pytorch-fp32", 0), squad("openvino-int8", 40)
        (apart,) = judge(goal, strewn(after), baseline=strewn(before))
        (together,) = judge(goal, after, baseline=before)
        # Twenty questions of a paragraph fail together: two paragraphs are less evidence than forty questions.
        assert apart.verdict == "fail"
        assert together.verdict == "inconclusive"
        assert "is 10.00 points below" in together.explanation

    def test_the_baseline_is_not_compared_with_itself_but_with_a_stored_one_it_is(self):
        assert judge(degradation(0.02), contestant("openvino-int8"))[0].cell == "openvino-int8"
        now = contestant("pytorch-fp32", labels(worse=60))
        (result,) = judge_goals((degradation(0.02),), (now,), BASELINE, SETTINGS, metrics_of(now))
        assert (result.cell, result.verdict, result.baseline) == ("pytorch-fp32", "fail", 0.9)


def half_positive() -> list[dict]:
    return [
        {"id": n, "label": n % 2, "prediction": n % 2 if n % 10 else 1 - n % 2, "correct": bool(n % 10)}
        for n in range(ROWS)
    ]


class TestCompared:
    @pytest.mark.parametrize(
        ("goal_type", "bound", "value", "verdict"),
        [
            ("threshold", 0.9, 0.9, "pass"),
            ("threshold", 0.95, 0.9499999, "fail"),  # never rounded before
            ("at-most", 0.9, 0.9, "pass"),
            ("at-most", 0.9, 0.9000001, "fail"),
            ("threshold", 0.01, 0.91 - 0.90, "pass"),  # 0.010000000000000009 in binary
        ],
    )
    def test_a_tie_passes_and_a_hair_less_fails(self, goal_type, bound, value, verdict):
        cell = contestant("openvino-int8", metrics={"accuracy": value})
        goal = Goal(metric="accuracy", type=goal_type, value=bound, precisions=("int8",))
        assert judge(goal, cell)[0].verdict == verdict

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("goal_type", ["threshold", "at-most", "max-degradation", "percent-of-baseline"])
    def test_no_verdict_but_fail_on_a_value_that_is_no_number(self, goal_type, value):
        goal = Goal(metric="accuracy", type=goal_type, value=0.5, precisions=("int8",))
        assert judge(goal, contestant("openvino-int8", metrics={"accuracy": value}))[0].verdict == "fail"
        if goal_type not in ("threshold", "at-most"):
            broken = contestant("pytorch-fp32", metrics={"accuracy": value})
            assert judge(goal, contestant("openvino-int8"), baseline=broken)[0].verdict == "fail"

    def test_the_explanation_shows_numbers_that_differ(self):
        goal = Goal(metric="accuracy", type="threshold", value=0.9, precisions=("int8",))
        (result,) = judge(goal, contestant("openvino-int8", metrics={"accuracy": 0.8999999}))
        assert result.explanation == "accuracy 0.8999999 of openvino-int8 misses the bound 0.9 (the threshold)."
        assert (result.value, result.bound, result.baseline) == (0.8999999, 0.9, None)

    def test_sparsity_is_a_metric_of_the_file(self):
        baseline = contestant("pytorch-fp32", sparsity=record(700))
        cells = (contestant("a-int8", sparsity=record(700)), contestant("b-int8", sparsity=record(699)))
        goals = (
            Goal(metric="sparsity", type="threshold", value=0.7),
            Goal(metric="sparsity", type="percent-of-baseline", value=100),
        )
        results = judge_goals(goals, (baseline, *cells), baseline, SETTINGS, metrics_of(baseline))
        assert [r.verdict for r in results] == ["pass", "pass", "fail", "pass", "fail"]

    def test_answers_logits_and_sizes_are_compared_with_the_baseline(self):
        other = contestant("openvino-int8", labels(worse=4, logit=2.25), file_bytes=26)
        figures = {"agreement": 0.996, "logit_difference": 0.25, "file_size_ratio": 0.26}
        for metric, value in figures.items():
            goal = Goal(metric=metric, type="at-most", value=value)
            (result,) = judge(goal, other)
            assert (result.value, result.verdict) == (pytest.approx(value), "pass")
            (result,) = judge(Goal(metric=metric, type="at-most", value=value - 0.001), other)
            assert result.verdict == "fail"

    def test_drift_needs_the_stored_answers_of_the_cell(self):
        goal = Goal(metric="logit_drift", type="at-most", value=0.01)
        moved = contestant("openvino-int8", drift=Drift(agreement=1.0, logit_difference=0.4))
        still = contestant("openvino-fp32", drift=Drift(agreement=1.0, logit_difference=0.0))
        results = judge(goal, moved, still)
        assert [result.verdict for result in results] == ["inconclusive", "fail", "pass"]
        assert "--against" in results[0].explanation


class TestLatency:
    GOAL = Goal(metric="latency_ratio", type="at-most", value=0.5)
    QUIET = GateSection(quiet_machine=True)

    def timed(self, low: float, high: float, **fields) -> Cell:
        ratio = Ratio(value=(low + high) / 2, low=low, high=high, confidence=0.95)
        return contestant("openvino-int8", speedup=ratio, **fields).cell

    def verdict(self, cell: Cell, settings: GateSection = QUIET, goal: Goal = GOAL):
        (result,) = judge_latency((goal,), (BASELINE.cell, cell), BASELINE.cell, settings)
        return result

    @pytest.mark.parametrize(
        ("low", "high", "verdict"), [(2.1, 2.4, "pass"), (1.5, 1.9, "fail"), (1.9, 2.2, "inconclusive")]
    )
    def test_the_whole_interval_must_clear_the_bound(self, low, high, verdict):
        result = self.verdict(self.timed(low, high))
        assert (result.verdict, result.informational) == (verdict, False)
        assert result.value == pytest.approx(2 / (low + high))

    def test_it_only_informs_unless_the_machine_is_quiet(self):
        result = self.verdict(self.timed(1.5, 1.9), GateSection())
        assert (result.verdict, result.informational) == ("fail", True)
        assert "gate.quiet_machine is not set" in result.explanation

    def test_nothing_steady_was_measured(self):
        shaky = self.timed(2.1, 2.4, stable=False, instability="latency differs by 30 % between blocks")
        assert self.verdict(shaky).verdict == "inconclusive"
        assert "differs by 30 %" in self.verdict(shaky).explanation
        untimed = self.verdict(contestant("openvino-int8").cell)
        assert (untimed.verdict, untimed.value) == ("inconclusive", None)
        assert "--no-latency" in untimed.explanation

    def test_a_goal_on_it_is_checked_before_anything_is_timed(self):
        with pytest.raises(ConfigError, match="other than the baseline pytorch-fp32"):
            judge(self.GOAL)
        assert judge(self.GOAL, contestant("openvino-int8")) == ()


def test_runtimes_and_precisions_select_cells():
    cells = [contestant(f"{r}-{p}") for r in ("onnxruntime", "openvino") for p in ("fp32", "int8")]
    goal = Goal(metric="accuracy", type="threshold", value=0.5, runtimes=("openvino",), precisions=("int8",))
    assert [r.cell for r in judge(goal, *cells)] == ["openvino-int8"]


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Goal(metric="acuracy", type="threshold", value=0.9), "known metrics: accuracy, agreement, logit_diff"),
        (Goal(metric="sparsity", type="threshold", value=0.9), "no metric 'sparsity'"),
        (Goal(metric="loss", type="threshold", value=0.9), "better when higher"),
        (Goal(metric="loss_mismatched", type="max-degradation", value=0.9), "better when higher"),
        (Goal(metric="agreement", type="max-degradation", value=0.1), "agreement is already a comparison"),
        (Goal(metric="accuracy", type="threshold", value=0.9, runtimes=("opnvino",)), "runtimes opnvino.*measured: p"),
        (Goal(metric="accuracy", type="max-degradation", value=0.1), "other than the baseline pytorch-fp32"),
        (Goal(metric="latency_ratio", type="at-most", value=0.5), "other than the baseline pytorch-fp32"),
    ],
)
def test_a_goal_that_can_check_nothing_is_refused(goal: Goal, message: str):
    with pytest.raises(ConfigError, match=message):
        judge(goal)
