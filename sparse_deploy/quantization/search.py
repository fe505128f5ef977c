# SPDX-License-Identifier: Apache-2.0
"""The search for the fastest INT8 model within a tolerance, independent of graphs and runtimes.

Neural Compressor's ``autotune`` tries complete configurations in a fixed order, compares one number with a fixed
relative loss, and measures the PyTorch graph instead of the file. This search measures the file, compares paired
results, and restores FP32 operator by operator.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sparse_deploy.config.schema import AccuracyTolerance
from sparse_deploy.results import Evidence


@dataclass(frozen=True)
class Calibration:
    """The calibration of a static INT8 model, in the recipe's terms."""

    observer: str
    smoothing: float

    def __str__(self) -> str:
        return f"{self.observer}, smoothing {self.smoothing:g}"


class Space(Protocol):
    """The search space.

    Attributes:
        operators: weights of the matrix products that can be INT8.
    """

    operators: Sequence[str]

    def first(self) -> Calibration | None:
        """The recipe's calibration; None for dynamic INT8."""
        ...

    def others(self) -> Sequence[Calibration]:
        """Other calibrations with all operators in INT8. May take long, so it is called only if needed."""
        ...

    def measure(self, calibration: Calibration | None, fp32: Sequence[str]) -> Evidence:
        """Build the file with these operators in FP32 and compare it with the baseline on the validation split."""
        ...

    def output_error(self, calibration: Calibration | None, fp32: Sequence[str]) -> float:
        """Mean change of a logit against FP32 on a few rows, with these operators in FP32."""
        ...

    def layer_errors(self, calibration: Calibration | None) -> dict[str, float]:
        """Relative error of each operator's output, with the input of the FP32 model."""
        ...


@dataclass(frozen=True)
class Trial:
    """One model measured on the complete split."""

    calibration: Calibration | None
    fp32: tuple[str, ...]
    evidence: Evidence
    seconds: float


@dataclass(frozen=True)
class OperatorError:
    """The error of INT8 in one operator.

    Attributes:
        name: name of its weight.
        gain: reduction of the mean change of a logit if only this operator is FP32.
        layer_error: relative error of its output.
        score: the gain as a share of the total change, plus its share of the sum of all errors.
    """

    name: str
    gain: float
    layer_error: float
    score: float


@dataclass(frozen=True)
class Outcome:
    """Result of the search.

    Attributes:
        verdict: ``pass``: the bound is within the tolerance; ``inconclusive``: only the drop is, which is accepted if
            there are too few rows for any pass, or if the tolerance accepts it; ``fail``: neither.
        best: the model to deploy; with ``fail`` the model with the smallest drop.
        trials: trials in order.
        operators: operators, worst first; empty if no ranking was needed.
    """

    verdict: Literal["pass", "inconclusive", "fail"]
    best: Trial
    trials: tuple[Trial, ...]
    operators: tuple[OperatorError, ...]


class Search:
    """Searches other calibrations first, which cost no speed; then the smallest set of FP32 operators.

    Args:
        space: the search space.
        tolerance: the condition for a pass, and the largest number of trials.
        decidable: whether a copy of the baseline would pass. If not, because there are too few rows, the drop itself
            must be within ``max_drop``, because more FP32 operators would not decide.
        watch: called with each finished trial.
        progress: called with a message during the steps between trials.
    """

    def __init__(
        self,
        space: Space,
        tolerance: AccuracyTolerance,
        *,
        decidable: bool,
        watch: Callable[[Trial], None] = lambda trial: None,
        progress: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._space, self._tolerance, self._decidable = space, tolerance, decidable
        self._watch, self._progress = watch, progress
        self._trials: list[Trial] = []
        self._operators: tuple[OperatorError, ...] = ()

    def run(self) -> Outcome:
        """Search until a model passes, and for the smallest set of FP32 operators that does."""
        calibration = self._space.first()
        found = self._passing(calibration)
        if found is None and self._left():
            calibration, found = self._other_calibrations(calibration)
        if found is None and self._left():
            self._operators = self._rank(calibration)
            found = self._fewest(calibration, [operator.name for operator in self._operators])
        verdict: Literal["pass", "inconclusive", "fail"] = "fail"
        if found is not None:
            verdict = "pass" if found.evidence.high <= self._tolerance.max_drop else "inconclusive"
        best = found or min(self._trials, key=lambda trial: trial.evidence.drop)
        return Outcome(verdict, best, tuple(self._trials), self._operators)

    def _left(self) -> int:
        return self._tolerance.max_trials - len(self._trials)

    def _passing(self, calibration: Calibration | None, fp32: Sequence[str] = ()) -> Trial | None:
        """Measure a trial; return it if it passes."""
        start = time.monotonic()
        evidence = self._space.measure(calibration, fp32)
        trial = Trial(calibration, tuple(fp32), evidence, time.monotonic() - start)
        self._trials.append(trial)
        self._watch(trial)
        proven = self._decidable and self._tolerance.on_inconclusive == "search"
        figure = evidence.high if proven else evidence.drop
        return trial if figure <= self._tolerance.max_drop else None

    def _other_calibrations(self, first: Calibration | None) -> tuple[Calibration | None, Trial | None]:
        """Measure calibrations that change the logits less than the first, best first; return the best and a pass."""
        others = self._space.others()
        if not others:
            return first, None
        self._progress("INT8 search: other calibrations")
        errors = {one: self._space.output_error(one, ()) for one in (first, *others)}
        better = sorted((one for one in others if errors[one] < errors[first]), key=errors.__getitem__)
        for one in better[: self._left()]:
            found = self._passing(one)
            if found is not None:
                return one, found
        return better[0] if better else first, None

    def _rank(self, calibration: Calibration | None) -> tuple[OperatorError, ...]:
        names = self._space.operators
        whole = self._space.output_error(calibration, ())
        layers = self._space.layer_errors(calibration)
        gains = {}
        for number, name in enumerate(names, start=1):
            self._progress(f"INT8 search: sensitivity of operator {number} of {len(names)}")
            gains[name] = whole - self._space.output_error(calibration, (name,))
        # If several operators are inaccurate, restoring one has almost no effect, and its own error is more reliable.
        # So gains are not normalized by their sum, which would give weight to gains that are only noise.
        whole_change = whole or 1.0
        all_errors = sum(layers.get(name, 0.0) for name in names) or 1.0
        found = [
            OperatorError(name, gains[name], error, max(gains[name], 0.0) / whole_change + error / all_errors)
            for name in names
            for error in [layers.get(name, 0.0)]
        ]
        return tuple(sorted(found, key=lambda operator: -operator.score))

    def _fewest(self, calibration: Calibration | None, ranked: Sequence[str]) -> Trial | None:
        """Double the number of FP32 operators until a trial passes, then bisect below it."""
        failed, found = 0, None
        # Never all operators, which would be model.onnx.
        sizes = [2**power for power in range(len(ranked).bit_length()) if 2**power < len(ranked) - 1]
        for size in [*sizes, len(ranked) - 1]:
            if not self._left() or size < 1:
                return None
            found = self._passing(calibration, ranked[:size])
            if found is not None:
                break
            failed = size
        while found is not None and len(found.fp32) - failed > 1 and self._left():
            middle = (len(found.fp32) + failed) // 2
            smaller = self._passing(calibration, ranked[:middle])
            found, failed = (smaller, failed) if smaller is not None else (found, middle)
        return found
