# SPDX-License-Identifier: Apache-2.0
"""The search on a made-up model whose operators cost known numbers of rows; the paired test is the real one."""

import numpy as np
import pytest

from sparse_deploy.config.schema import AccuracyTolerance
from sparse_deploy.gate.paired import compare_correct
from sparse_deploy.quantization.search import Calibration, Search

MINMAX, SMOOTH, KL = Calibration("minmax", 0.0), Calibration("minmax", 0.8), Calibration("kl", 0.0)


class MadeUp:
    """Ten operators; each INT8 one makes ``cost`` of 1000 rows wrong, less ``saved`` by the calibration."""

    def __init__(self, cost: dict[str, int], saved: dict[Calibration, dict[str, int]] | None = None, rows: int = 1000):
        self.operators = [f"operator{number}" for number in range(10)]
        self.cost, self.saved, self.rows = cost, saved or {}, rows
        self.asked_for_others = False

    def first(self):
        return MINMAX

    def others(self):
        self.asked_for_others = True
        return tuple(self.saved)

    def wrong(self, calibration, fp32):
        saved = self.saved.get(calibration, {})
        return sum(cost - saved.get(name, 0) for name, cost in self.cost.items() if name not in fp32)

    def measure(self, calibration, fp32):
        baseline = np.ones(self.rows, bool)
        cell = np.arange(self.rows) >= self.wrong(calibration, fp32)
        return compare_correct(baseline, cell, margin=0.01, confidence=0.95)

    def output_error(self, calibration, fp32):
        return self.wrong(calibration, fp32) / 100

    def layer_errors(self, calibration):
        return {name: self.cost.get(name, 0) / 100 for name in self.operators}


def search(space, **changes):
    tolerance = AccuracyTolerance(max_drop=0.01, **{"max_trials": 16} | changes.pop("tolerance", {}))
    return Search(space, tolerance, **{"decidable": True} | changes).run()


def test_a_passing_model_is_taken_as_it_is():
    space = MadeUp({"operator3": 2})
    outcome = search(space)
    assert outcome.verdict == "pass"
    assert outcome.best.fp32 == ()
    assert len(outcome.trials) == 1
    assert not space.asked_for_others


def test_an_open_verdict_costs_operators_unless_it_is_accepted():
    # 5 of 1000 rows wrong: the drop is within 1 point, its bound (1.05) is not.
    space = MadeUp({"operator3": 5})
    searched, accepted = search(space), search(space, tolerance={"on_inconclusive": "accept"})
    assert (searched.verdict, searched.best.fp32) == ("pass", ("operator3",))
    assert (accepted.verdict, accepted.best.fp32, len(accepted.trials)) == ("inconclusive", (), 1)


def test_a_drop_beyond_the_tolerance_is_never_accepted():
    outcome = search(MadeUp({"operator3": 40}), tolerance={"on_inconclusive": "accept"})
    assert outcome.best.fp32 == ("operator3",)
    assert outcome.verdict == "pass"


def test_another_calibration_comes_before_any_fp32():
    space = MadeUp({"operator3": 40}, {KL: {"operator3": 10}, SMOOTH: {"operator3": 39}})
    outcome = search(space)
    assert outcome.verdict == "pass"
    assert (outcome.best.calibration, outcome.best.fp32) == (SMOOTH, ())
    assert [trial.calibration for trial in outcome.trials] == [MINMAX, SMOOTH]


def test_worse_calibrations_are_not_measured():
    outcome = search(MadeUp({"operator3": 40}, {KL: {"operator3": -10}}))
    assert {trial.calibration for trial in outcome.trials} == {MINMAX}
    assert outcome.best.fp32 == ("operator3",)


@pytest.mark.parametrize("broken", [1, 2, 3, 4, 5, 6, 7])
def test_the_fewest_operators_get_fp32(broken):
    space = MadeUp({f"operator{number}": 20 + number for number in range(broken)})
    outcome = search(space)
    assert outcome.verdict == "pass"
    assert set(outcome.best.fp32) == {f"operator{number}" for number in range(broken)}
    assert len(outcome.trials) <= 7


def test_operators_are_ranked_by_what_they_cost():
    outcome = search(MadeUp({"operator1": 15, "operator7": 60, "operator4": 30}))
    assert [operator.name for operator in outcome.operators[:3]] == ["operator7", "operator4", "operator1"]
    assert outcome.operators[0].gain == pytest.approx(0.6)
    assert sum(operator.score for operator in outcome.operators) == pytest.approx(2.0)


class Saturated(MadeUp):
    """Any broken operator makes the answers as wrong as they can be; returning a sound one changes a little."""

    def output_error(self, calibration, fp32):
        broken = any(name not in fp32 for name in self.cost)
        return (5.0 if broken else 0.0) - (0.001 if "operator0" in fp32 else 0.0)


def test_where_no_gain_tells_the_operators_own_errors_do():
    outcome = search(Saturated({"operator6": 300, "operator8": 200}))
    assert [operator.name for operator in outcome.operators[:2]] == ["operator6", "operator8"]
    assert set(outcome.best.fp32) == {"operator6", "operator8"}


def test_fp32_is_given_on_top_of_the_best_calibration():
    outcome = search(MadeUp({"operator3": 60, "operator5": 60}, {SMOOTH: {"operator3": 60}}))
    assert (outcome.best.calibration, outcome.best.fp32) == (SMOOTH, ("operator5",))


def test_failure_when_nothing_short_of_all_operators_helps():
    outcome = search(MadeUp({f"operator{number}": 30 for number in range(10)}))
    assert outcome.verdict == "fail"
    assert max(len(trial.fp32) for trial in outcome.trials) == 9
    assert outcome.best.evidence.drop == min(trial.evidence.drop for trial in outcome.trials)


def test_failure_when_the_trials_run_out():
    space = MadeUp({f"operator{number}": 30 for number in range(6)})
    outcome = search(space, tolerance={"max_trials": 3})
    assert (outcome.verdict, len(outcome.trials)) == ("fail", 3)


def test_trials_that_run_out_while_halving_leave_the_last_passing_set():
    space = MadeUp({f"operator{number}": 30 for number in range(5)})
    outcome = search(space, tolerance={"max_trials": 5})  # 0, 1, 2, 4, 8
    assert outcome.verdict == "pass"
    assert len(outcome.best.fp32) == 8


def test_a_drop_that_rows_cannot_prove_counts_as_not_passed():
    # 6 of 1000: within the tolerance, and the bound is not.
    outcome = search(MadeUp({"operator2": 6}))
    assert outcome.trials[0].evidence.drop < 0.01 < outcome.trials[0].evidence.high
    assert (outcome.verdict, outcome.best.fp32) == ("pass", ("operator2",))


def test_with_too_few_rows_the_drop_decides_and_the_verdict_says_so():
    few = MadeUp({"operator2": 4}, rows=100)
    assert few.measure(MINMAX, few.operators).high > 0.01  # even FP32 could not pass
    outcome = search(few, decidable=False)
    assert (outcome.verdict, outcome.best.fp32) == ("inconclusive", ("operator2",))


def test_every_finished_trial_is_announced():
    seen = []
    outcome = search(MadeUp({"operator2": 40}), watch=seen.append)
    assert tuple(seen) == outcome.trials
