# SPDX-License-Identifier: Apache-2.0
"""Stage 3: makes a report of a deployment: accuracy, time, size and gates of every runtime and precision."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparse_deploy.artifact_target import check_outside
from sparse_deploy.artifacts import Manifest, load_manifest, package_versions
from sparse_deploy.checkpoint import WEIGHTS_FILE
from sparse_deploy.config.loader import recipe_with_overrides
from sparse_deploy.config.schema import Goal, Recipe
from sparse_deploy.data.agreement import ModelAgreement
from sparse_deploy.data.encoded import IntArray
from sparse_deploy.data.features import load_tokenizer, tokenizer_sha256
from sparse_deploy.data.metrics import Scorer
from sparse_deploy.data.resolve import task_of, task_without_labels
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import ConfigError
from sparse_deploy.evaluation.accuracy import (
    ValidationSplit,
    load_unlabelled,
    load_validation,
    score_cell,
    write_predictions,
)
from sparse_deploy.evaluation.baseline import (
    check_baseline_target,
    drift_of,
    identify,
    make_baseline,
    save_baseline,
)
from sparse_deploy.evaluation.latency import TimedRun
from sparse_deploy.evaluation.worker import MODULE as CELL_WORKER
from sparse_deploy.evaluation.zeros import Recount, recount_zeros
from sparse_deploy.gate.companions import agreement, logit_difference
from sparse_deploy.gate.figures import AGAINST_ITSELF, Contestant
from sparse_deploy.gate.judge import judge_goals, judge_latency
from sparse_deploy.gate.zeros import judge_zeros
from sparse_deploy.machine import describe_machine, thread_remark, threads_to_use
from sparse_deploy.measurement.pairing import RESAMPLES
from sparse_deploy.measurement.statistics import percentile
from sparse_deploy.measurement.worker_process import Workers
from sparse_deploy.report.report import write_report
from sparse_deploy.results import BenchReport, Cell, GateResult, Identity, TokenLengths
from sparse_deploy.runtimes.child_process import THREAD_VARIABLES
from sparse_deploy.stages.against import Against, load_against
from sparse_deploy.stages.baseline_model import baseline_cell_id, open_baseline_model
from sparse_deploy.stages.candidates import BASELINE, Candidate, check_lengths, find_candidates
from sparse_deploy.stages.timing import SEED, time_cells, timed_cells

Progress = Callable[[str, float], None]
# MLPerf's lower limit; the goal of `bench --gate` for a recipe without goals.
DEFAULT_GOAL: dict[str, Any] = {"type": "percent-of-baseline", "value": 99.0}
# Share of accuracy in a run, before timing; only for the progress display.
_ACCURACY_SHARE = 0.5
BASELINE_MODEL = "baseline-model"  # name of its process


def bench_deployment(
    deployment: Path,
    report_dir: Path,
    *,
    overrides: Sequence[str] = (),
    data_dir: Path | None = None,
    against: Path | None = None,
    new_baseline: Path | None = None,
    baseline_model: str | None = None,
    explicit: bool = False,
    timing: bool = True,
    default_goal: bool = False,
    progress: Progress = lambda message, share: None,
) -> BenchReport:
    """Score and time every cell of a deployment and write the report.

    Args:
        deployment: a folder of ``export``.
        report_dir: folder for ``report.json``, ``report.md``, ``report.html`` and ``predictions/``.
        overrides: ``a.b=value`` texts for the deployment's recipe.
        data_dir: folder with the task's text; default: the hub.
        against: a stored baseline or an earlier ``report.json``; relative goals refer to its baseline cell.
        new_baseline: output file for the predictions of this run.
        baseline_model: a checkpoint or deployment, such as the dense model, which runs the same rows in PyTorch FP32;
            relative goals, agreements and logit differences refer to it. Not with ``against``. If the data has no
            labels, its predictions replace them (:class:`sparse_deploy.data.agreement.ModelAgreement`).
        explicit: the user selected the cells, so a cell that can't run is an error and is not skipped.
        timing: also measure latency and throughput.
        default_goal: for a recipe without goals, require 99 % of the baseline's primary metric.
        progress: called with a message and a share between 0 and 1.

    Returns:
        The written report. Missed goals are in ``gates`` and raise no error.

    Raises:
        SparseDeployError: see the subclasses.
    """
    check_outside(report_dir, deployment, "--report")
    if new_baseline:
        check_outside(new_baseline, deployment, "--save-baseline")
    manifest = load_manifest(deployment, "deployment")
    recipe = recipe_with_overrides(manifest.recipe, overrides, f"{deployment}: recipe")
    without_labels = task_without_labels(recipe, deployment)
    task = without_labels or task_of(recipe, deployment)
    by_agreement = ModelAgreement(task) if without_labels else None
    scorer: Scorer = by_agreement or task
    assumed = DEFAULT_GOAL if default_goal and not recipe.goals else None
    if assumed:
        recipe = recipe.model_copy(update={"goals": (Goal(metric=scorer.metrics[0], **assumed),)})
    check_lengths(deployment, recipe)
    threads = threads_to_use(recipe.bench.threads, "bench.threads")
    if against and baseline_model:
        raise ConfigError("--against and --baseline both set the baseline of goals on a drop; use only one of them")
    if by_agreement:
        _check_without_labels(recipe, task, by_agreement, baseline_model, compared=bool(against or new_baseline))
    dense_folder = open_baseline_model(baseline_model, recipe, task, deployment) if baseline_model else None
    if new_baseline:
        check_baseline_target(new_baseline)
    candidates, skipped = find_candidates(deployment, recipe, explicit=explicit)
    progress("loading text", 0.0)
    notes: list[str] = []
    splits = (
        load_unlabelled(task, recipe.data, deployment, note=notes.append)
        if by_agreement
        else load_validation(task, recipe.data, deployment, data_dir, note=notes.append)
    )
    identity = _identify(deployment, manifest, task, recipe, splits)
    earlier = load_against(against, identity, splits, task) if against else None
    progress("counting zeros", 0.0)
    recount = recount_zeros(deployment, [candidate.file for candidate in candidates], manifest, recipe.sparsity)

    machine = describe_machine()
    remark = thread_remark(threads, machine)
    with (
        tempfile.TemporaryDirectory(prefix="sparse-deploy-bench-") as scratch,
        Workers(CELL_WORKER, threads, Path(scratch)) as workers,
    ):
        run = _Run(deployment, recipe, scorer, splits, workers, Path(scratch), progress)
        dense = run.score_baseline(dense_folder, baseline_cell_id(str(baseline_model))) if dense_folder else None
        scored = run.score(candidates, recount, earlier, dense)
        # Before the timing, so that an invalid goal does not waste the time of the whole run.
        baseline = earlier.baseline if earlier else dense or scored[0]
        gates = [judge_zeros(one.cell.id, recount.counts[one.cell.file]) for one in scored if recount.counts]
        judged = judge_goals(recipe.goals, scored, baseline, recipe.gate, scorer.known_metrics)
        gates += _without_drift(judged) if new_baseline and not earlier else judged
        timed = run.time([one.cell for one in scored]) if timing else None
    cells = timed_cells([one.cell for one in scored], timed, recipe) if timed else [one.cell for one in scored]
    gates += judge_latency(recipe.goals, cells, cells[0], recipe.gate)
    cells = [
        cell.model_copy(update={"predictions": write_predictions(report_dir, cell.id, one.rows)})
        for cell, one in zip(cells, scored, strict=True)
    ]
    report = BenchReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=recipe.name,
        deployment=str(deployment),
        task=task.name,
        primary_metric=scorer.metrics[0],
        points={name: scorer.known_metrics[name].points for name in scorer.metrics},
        examples=len(splits[0].encoded.examples),
        baseline=cells[0].id,
        machine=machine,
        versions=package_versions(),
        settings={
            **_settings(recipe, threads, splits, timed),
            "skipped_cells": skipped,
            "rows_left_out": notes,
            "without_labels": by_agreement.meaning if by_agreement else None,
            "thread_remark": remark,
            "default_goal": assumed,
            "against": str(against) if against else None,
            **(earlier.facts if earlier else {}),
            **(_baseline_facts(baseline_model, dense) if baseline_model and dense else {}),
        },
        lengths=_token_lengths(splits[0].encoded.lengths),
        identity=identity,
        cells=tuple(cells),
        gates=tuple(gates),
        reference=recipe.reference,
    )
    write_report(report, report_dir)
    if new_baseline:
        save_baseline(make_baseline(recipe.name, identity, scored, cells[0].id, machine, task), new_baseline)
    return report


def _check_without_labels(
    recipe: Recipe, task: Task, by_agreement: ModelAgreement, baseline_model: str | None, *, compared: bool
) -> None:
    """Refuse options and goals that need labels, before anything is measured."""
    source = recipe.data.validation_source or recipe.data.source
    if baseline_model is None:
        raise ConfigError(
            f"{source}: expected a column {task.target!r} to score against, found none; name one with --label-column, "
            f"or compare the predictions with those of another model, without labels: --baseline MODEL"
        )
    if compared:
        raise ConfigError(
            f"{source}: it has no labels, and stored predictions are compared by labels; omit --against and "
            f"--save-baseline"
        )
    by_labels = task.known_metrics.keys() - {by_agreement.metric.name}
    wrong = [goal.metric for goal in recipe.goals if goal.metric in by_labels]
    if wrong:
        raise ConfigError(
            f"goal {wrong[0]}: {source} has no labels to measure it by; give labelled rows with --label-column, or set "
            f"goals on {by_agreement.metric.name} instead"
        )


def _baseline_facts(name: str, dense: Contestant) -> dict[str, Any]:
    """The entries in the settings of a report about the model of ``--baseline``."""
    return {"baseline_model": name, "baseline_model_cell": dense.cell.id, "baseline_model_metrics": dense.cell.metrics}


def _without_drift(gates: Sequence[GateResult]) -> list[GateResult]:
    """Results of a run that stores the first baseline: there is no drift without stored predictions."""
    return [
        gate.model_copy(update={"informational": True}) if gate.goal.metric in AGAINST_ITSELF else gate
        for gate in gates
    ]


def _identify(
    deployment: Path, manifest: Manifest, task: Task, recipe: Recipe, splits: Sequence[ValidationSplit]
) -> Identity:
    recorded = {record.path: record.sha256 for record in manifest.files}
    return identify(
        task,
        recipe.data,
        splits,
        tokenizer_sha256=tokenizer_sha256(load_tokenizer(deployment)),
        checkpoint_sha256=recorded.get(WEIGHTS_FILE, ""),
        batch_size=recipe.bench.throughput_batch_size,
    )


@dataclass(frozen=True)
class _Run:
    """Common state of scoring and timing: the processes of the cells, which are used for both."""

    deployment: Path
    recipe: Recipe
    scorer: Scorer
    splits: Sequence[ValidationSplit]
    workers: Workers
    scratch: Path
    progress: Progress

    def score_baseline(self, folder: Path, cell_id: str) -> Contestant:
        """Predictions of another model's checkpoint in PyTorch FP32, in a process that ends afterwards."""
        self.progress(f"accuracy {cell_id}", 0.0)
        worker = self.workers.start(BASELINE_MODEL)
        opened = worker.call(
            "open",
            runtime=BASELINE[0],
            precision=BASELINE[1],
            folder=str(folder.resolve()),
            threads=self.workers.threads,
            requests=str(self._timed_requests()),
        )
        batch_size = self.recipe.bench.throughput_batch_size
        score = score_cell(worker, self.scorer, self.splits, self.scratch, batch_size=batch_size, data=self.recipe.data)
        cell = Cell(
            id=cell_id,
            runtime=BASELINE[0],
            precision=BASELINE[1],
            file=WEIGHTS_FILE,
            version=opened["version"],
            metrics=score.metrics,
            file_bytes=_model_bytes(folder / WEIGHTS_FILE),
        )
        return Contestant(cell, score.rows)

    def score(
        self,
        candidates: Sequence[Candidate],
        recount: Recount,
        earlier: Against | None,
        dense: Contestant | None = None,
    ) -> list[Contestant]:
        """Open every cell in a process and score it, the baseline first."""
        requests = self._timed_requests()
        scored: list[Contestant] = []
        for number, candidate in enumerate(candidates):
            self.progress(f"accuracy {candidate.id}", _ACCURACY_SHARE * number / len(candidates))
            one = self._score(candidate, requests, recount)
            before = dense or (scored[0] if scored else one)
            figures = {
                "agreement": agreement(before.rows, one.rows),
                "logit_difference": logit_difference(before.rows, one.rows),
                "drift": drift_of(one, earlier.same_cell(candidate.id)) if earlier else None,
            }
            scored.append(Contestant(one.cell.model_copy(update=figures), one.rows))
        return scored

    def _timed_requests(self) -> Path:
        path = self.scratch / "requests-timed.npz"
        if not path.is_file():
            self.splits[0].requests.save(path)
        return path

    def time(self, cells: Sequence[Cell]) -> TimedRun:
        """Time the opened cells."""
        return time_cells(
            self.workers,
            cells,
            self.splits[0].requests,
            self.recipe,
            lambda message, share: self.progress(message, _ACCURACY_SHARE + (1 - _ACCURACY_SHARE) * share),
        )

    def _score(self, candidate: Candidate, requests: Path, recount: Recount) -> Contestant:
        worker = self.workers.start(candidate.id)
        opened = worker.call(
            "open",
            runtime=candidate.runtime.name,
            precision=candidate.precision,
            folder=str(self.deployment.resolve()),
            threads=self.workers.threads,
            requests=str(requests),
        )
        batch_size = self.recipe.bench.throughput_batch_size
        score = score_cell(worker, self.scorer, self.splits, self.scratch, batch_size=batch_size, data=self.recipe.data)
        cell = Cell(
            id=candidate.id,
            runtime=candidate.runtime.name,
            precision=candidate.precision,
            file=candidate.file,
            note="; ".join(filter(None, (candidate.runtime.notes.get(candidate.precision), opened["remark"]))),
            warning=opened["warning"],
            version=opened["version"],
            metrics=score.metrics,
            load_ms=opened["load_ms"],
            first_inference_ms=opened["first_inference_ms"],
            file_bytes=_model_bytes(self.deployment / candidate.file),
            rss_bytes=worker.call("rss")["rss_bytes"],
            sparsity=recount.records[candidate.file],
        )
        return Contestant(cell, score.rows)


def _model_bytes(path: Path) -> int:
    weights = path.with_suffix(".bin")  # an OpenVINO IR has its weights in a second file
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" and weights.is_file() else 0)


def _token_lengths(lengths: IntArray) -> TokenLengths:
    return TokenLengths(
        minimum=int(lengths.min()),
        p50=int(percentile(lengths, 50)),
        p90=int(percentile(lengths, 90)),
        p99=int(percentile(lengths, 99)),
        maximum=int(lengths.max()),
        mean=float(lengths.mean()),
    )


def _settings(
    recipe: Recipe, threads: int, splits: Sequence[ValidationSplit], timed: TimedRun | None
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "threads": threads,
        "environment": dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "max_length": recipe.data.max_length,
        "truncated_examples": sum(split.encoded.truncated for split in splits),
        "accuracy_batch_size": recipe.bench.throughput_batch_size,
        "gate": recipe.gate.model_dump(mode="json"),
    }
    if timed:
        settings |= {
            "blocks": recipe.bench.blocks,
            "block_seconds": recipe.bench.block_seconds,
            "throughput_batch_size": recipe.bench.throughput_batch_size,
            "hints": list(recipe.bench.hints),
            "requests_per_latency_pass": timed.mix_size,
            "batches_per_throughput_pass": timed.batches,
            "percentiles": "nearest rank",
            "interval": f"percentile bootstrap over rounds, {RESAMPLES} resamples, seed {SEED}",
            "core_labels": timed.no_labels or "near: a cache line takes less than 80 ns from one core to another",
            "warm_up_settled": {cell: raw.settled for cell, raw in timed.cells.items()},
        }
    return settings
