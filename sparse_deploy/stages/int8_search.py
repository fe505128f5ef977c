# SPDX-License-Identifier: Apache-2.0
"""The accuracy-driven search of the export stage: building, measuring and recording of each trial."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_deploy.config.schema import AccuracyTolerance
from sparse_deploy.data.batches import sorted_batches
from sparse_deploy.errors import ConfigError, QuantizationError
from sparse_deploy.evaluation.accuracy import load_validation
from sparse_deploy.evaluation.requests import length_mix
from sparse_deploy.evaluation.scoring import score_session
from sparse_deploy.gate.comparison import compare_rows
from sparse_deploy.graph import model_file
from sparse_deploy.machine import describe_machine
from sparse_deploy.quantization.search import Calibration, Outcome, Search, Trial
from sparse_deploy.results import Evidence
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.stages.int8_target import FP32_FILE, INT8_FILE, Builder, Int8Source

if TYPE_CHECKING:
    import onnx_ir as ir

_WORST_NAMED = 5
_SENSITIVITY_BATCH = 8


def search_int8(source: Int8Source, builder: Builder) -> "tuple[ir.Model, dict[str, Any]]":
    """Find the fastest model within ``quantization.accuracy``.

    Args:
        source: the current state of the deployment.
        builder: builder of the graphs.

    Returns:
        The graph; the trials, for the manifest.

    Raises:
        ConfigError: the task does not have the metric.
        QuantizationError: no model is within the tolerance; the message has the worst operators.
    """
    tolerance = source.settings.accuracy
    assert tolerance is not None  # noqa: S101 - checked by the caller
    space = _Space(source, builder, tolerance)
    perfect = space.compare(space.baseline)
    decidable = perfect.high <= tolerance.max_drop
    words = _Words(source, space.metric, tolerance)
    number = 0

    def watch(trial: Trial) -> None:
        nonlocal number
        number += 1
        source.progress(words.trial(number, trial))

    outcome = Search(space, tolerance, decidable=decidable, watch=watch, progress=source.progress).run()
    if outcome.verdict == "fail":
        raise QuantizationError(words.failure(outcome))
    details = _details(outcome, space, tolerance)
    if outcome.verdict == "inconclusive":
        details["explanation"] = words.accepted(outcome.best) if decidable else words.too_few_rows(perfect)
    return builder.build(outcome.best.calibration, outcome.best.fp32), details


class _Space:
    """See :class:`sparse_deploy.quantization.search.Space`."""

    def __init__(self, source: Int8Source, builder: Builder, tolerance: AccuracyTolerance) -> None:
        self._source, self._builder, self._tolerance = source, builder, tolerance
        self.metric = tolerance.metric or source.task.primary_metric
        if self.metric not in source.task.metrics:
            raise ConfigError(
                f"quantization.accuracy.metric: expected a metric of {source.task.name} "
                f"({', '.join(source.task.metrics)}), found {self.metric!r}"
            )
        self.operators = builder.operators
        source.progress("INT8 search: PyTorch FP32 on the validation split")
        self._split = load_validation(source.task, source.recipe.data, source.folder, source.data_dir)[0]
        requests = self._split.requests
        few = length_mix(requests.lengths, tolerance.sensitivity_rows, source.settings.seed)
        # One length per batch, because padding would be counted as text.
        groups = sorted_batches(requests.lengths[few], _SENSITIVITY_BATCH)
        self._few = [requests.batch([few[place] for place in group]) for group in groups]
        self._single = [requests.batch([index]) for index in few]
        self.baseline = self._rows("pytorch", "fp32")
        self._answers = self._few_answers("pytorch", "fp32")

    @property
    def rows(self) -> int:
        return len(self.baseline)

    def first(self) -> Calibration | None:
        return self._builder.first()

    def others(self) -> Sequence[Calibration]:
        return self._builder.others()

    def measure(self, calibration: Calibration | None, fp32: Sequence[str]) -> Evidence:
        self._write(calibration, fp32)
        return self.compare(self._rows("onnxruntime", "int8"))

    def output_error(self, calibration: Calibration | None, fp32: Sequence[str]) -> float:
        self._write(calibration, fp32)
        answers = self._few_answers("onnxruntime", "int8")
        differences = [np.abs(a - b).mean() for a, b in zip(self._answers, answers, strict=True)]
        return float(np.mean(differences))

    def layer_errors(self, calibration: Calibration | None) -> dict[str, float]:
        from sparse_deploy.quantization.sensitivity import layer_errors

        return layer_errors(self._fp32, self._builder.build(calibration), self._single)

    def compare(self, rows: Sequence[dict[str, Any]]) -> Evidence:
        """The paired test of the tolerance against the baseline."""
        gate = self._source.recipe.gate
        return compare_rows(
            self._source.task.metric(self.metric),
            self.baseline,
            rows,
            margin=self._tolerance.max_drop,
            confidence=self._tolerance.confidence,
            resamples=gate.resamples,
            seed=gate.seed,
        )

    @cached_property
    def _fp32(self) -> "ir.Model":
        return model_file.load_onnx(self._source.folder / FP32_FILE)

    def _write(self, calibration: Calibration | None, fp32: Sequence[str]) -> None:
        model_file.save_onnx(self._builder.build(calibration, fp32), self._source.folder / INT8_FILE)

    def _rows(self, runtime: str, precision: str) -> list[dict[str, Any]]:
        session = get_runtime(runtime).open(self._source.folder, precision, describe_machine().usable_cpus)
        recipe = self._source.recipe
        size = recipe.bench.throughput_batch_size  # the batch size of bench, because dynamic scales depend on the batch
        score = score_session(session, self._source.task, self._split, batch_size=size, data=recipe.data)
        session.close()
        return score.rows

    def _few_answers(self, runtime: str, precision: str) -> list[Any]:
        """The logits of the few rows, without padding."""
        session = get_runtime(runtime).open(self._source.folder, precision, describe_machine().usable_cpus)
        found = []
        per_token = self._source.task.per_token
        for batch in self._few:
            kept = batch["attention_mask"].astype(bool)
            outputs = session.run(batch)
            parts = [out[kept] if each else out for out, each in zip(outputs, per_token, strict=True)]
            found.append(np.concatenate([part.ravel() for part in parts]))
        session.close()
        return found


class _Words:
    """Messages of the search. Shares are shown in points."""

    def __init__(self, source: Int8Source, metric: str, tolerance: AccuracyTolerance) -> None:
        self._metric, self._tolerance = metric, tolerance
        self._mode = source.settings.mode.value
        self._factor = source.task.metric(metric).points

    def trial(self, number: int, trial: Trial) -> str:
        how = f" ({trial.calibration})" if trial.calibration is not None else ""
        return f"INT8 trial {number} of at most {self._tolerance.max_trials}{how}: {self._found(trial)}"

    def failure(self, outcome: Outcome) -> str:
        worst = "; ".join(
            f"{one.name}: logit change {one.gain:+.3g} less without it, output error {one.layer_error:.1%}"
            for one in outcome.operators[:_WORST_NAMED]
        )
        return (
            f"{self._mode} INT8: expected {self._metric} to drop by at most {self._points(self._tolerance.max_drop)} "
            f"points with {self._tolerance.confidence:.0%} confidence, found none in {len(outcome.trials)} trials "
            f"(best: {self._found(outcome.best)}). Worst operators: {worst or 'not ranked, too few trials'}. Raise "
            f"quantization.accuracy.max_drop or max_trials, use quantization.mode {self._other_mode()}, or fine-tune "
            f"with finetune.qat"
        )

    def too_few_rows(self, perfect: Evidence) -> str:
        return (
            f"{perfect.rows} validation rows are too few to show a drop of at most "
            f"{self._points(self._tolerance.max_drop)} points with {self._tolerance.confidence:.0%} confidence: even "
            f"for FP32 itself the bound is {self._points(perfect.high)}. The measured drop decided; use more rows, a "
            f"larger max_drop, or less confidence for a verdict"
        )

    def accepted(self, trial: Trial) -> str:
        return (
            f"{trial.evidence.rows} validation rows show a drop of at most {self._points(trial.evidence.high)} "
            f"points, the tolerance is {self._points(self._tolerance.max_drop)}; accepted by "
            f"quantization.accuracy.on_inconclusive, a verdict needs more rows"
        )

    def _found(self, trial: Trial) -> str:
        count = len(trial.fp32)
        evidence = trial.evidence
        return (
            f"{count} operator{'' if count == 1 else 's'} in FP32, drop {self._points(evidence.drop)}, at most "
            f"{self._points(evidence.high)} with {evidence.confidence:.0%}"
        )

    def _points(self, value: float) -> str:
        return f"{value * self._factor:.2f}"

    def _other_mode(self) -> str:
        return "dynamic" if self._mode == "static" else "static"


def _details(outcome: Outcome, space: _Space, tolerance: AccuracyTolerance) -> dict[str, Any]:
    best = outcome.best
    return {
        "verdict": outcome.verdict,
        "metric": space.metric,
        "max_drop": tolerance.max_drop,
        "confidence": tolerance.confidence,
        "rows": space.rows,
        "method": best.evidence.method,
        "calibration": _calibration(best.calibration),
        "fp32_operators": list(best.fp32),
        "operators": len(space.operators),
        "drop": best.evidence.drop,
        "high": best.evidence.high,
        "trials": [
            {
                "calibration": _calibration(trial.calibration),
                "fp32_operators": list(trial.fp32),
                "drop": trial.evidence.drop,
                "high": trial.evidence.high,
                "changed": trial.evidence.changed,
                "seconds": round(trial.seconds, 2),
            }
            for trial in outcome.trials
        ],
        "sensitivity": [dataclasses.asdict(operator) for operator in outcome.operators],
    }


def _calibration(calibration: Calibration | None) -> dict[str, Any] | None:
    return dataclasses.asdict(calibration) if calibration is not None else None
