# SPDX-License-Identifier: Apache-2.0
"""Stage 3: a deployment becomes a report: every runtime and precision scored, timed, weighed and gated."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparse_deploy.artifacts import Manifest, load_manifest, package_versions
from sparse_deploy.config.loader import recipe_with_overrides
from sparse_deploy.config.schema import Goal, Int8Mode, Recipe
from sparse_deploy.data.tasks import Task, get_task
from sparse_deploy.errors import ArtifactError, ConfigError, RuntimeUnavailableError
from sparse_deploy.evaluation.accuracy import (
    CellScore,
    ValidationSplit,
    agreement,
    load_validation,
    score_cell,
    write_predictions,
)
from sparse_deploy.evaluation.latency import TimedRun, TimingPlan, time_rivals
from sparse_deploy.evaluation.requests import IntArray
from sparse_deploy.evaluation.statistics import (
    RESAMPLES,
    instability,
    latency_ratio,
    percentile,
    summarize_latency,
    summarize_throughput,
    throughput_ratio,
)
from sparse_deploy.evaluation.supervisor import THREAD_VARIABLES, Workers
from sparse_deploy.gate.judge import evaluate_goals
from sparse_deploy.machine import describe_machine
from sparse_deploy.report.report import load_report, write_report
from sparse_deploy.results import BenchReport, Cell, ShapeLatency, TokenLengths
from sparse_deploy.runtimes import Runtime, get_runtime
from sparse_deploy.runtimes.protocol import read_config

Progress = Callable[[str, float], None]
BASELINE = ("pytorch", "fp32")
# MLPerf's lower bar; what `bench --gate` asks for when a recipe has no goals.
DEFAULT_GOAL: dict[str, Any] = {"type": "percent-of-baseline", "value": 99.0}
# Accuracy is the first part of a run, timing the rest; only for the progress display.
_ACCURACY_SHARE = 0.5
_SEED = 0


@dataclass(frozen=True)
class Candidate:
    """A runtime x precision that this deployment has a file for."""

    runtime: Runtime
    precision: str

    @property
    def id(self) -> str:
        """The cell's id."""
        return f"{self.runtime.name}-{self.precision}"

    @property
    def file(self) -> str:
        """The model file, relative to the deployment."""
        return self.runtime.files[self.precision]


def bench_deployment(
    deployment: Path,
    report_dir: Path,
    *,
    overrides: Sequence[str] = (),
    data_dir: Path | None = None,
    against: Path | None = None,
    explicit: bool = False,
    timing: bool = True,
    default_goal: bool = False,
    progress: Progress = lambda message, share: None,
) -> BenchReport:
    """Score and time every cell of a deployment and write the report.

    Args:
        deployment: what ``export`` wrote.
        report_dir: gets ``report.json``, ``report.md``, ``report.html`` and ``predictions/``.
        overrides: ``a.b=value`` texts over the deployment's own recipe.
        data_dir: folder with the task's text; the hub when omitted.
        against: an earlier ``report.json``; its baseline cell is what relative goals refer to.
        explicit: the user named the cells, so one that can't run is an error instead of left out.
        timing: also measure latency and throughput.
        default_goal: judge a recipe without goals by 99 % of the baseline's primary metric.
        progress: called with a message and a share between 0 and 1.

    Returns:
        The report, as written. Missed goals are in ``gates``; nothing is raised for them.

    Raises:
        SparseDeployError: see the subclasses.
    """
    manifest = load_manifest(deployment, "deployment")
    recipe = recipe_with_overrides(manifest.recipe, overrides, f"{deployment}: recipe")
    task = get_task(recipe.task)
    assumed = DEFAULT_GOAL if default_goal and not recipe.goals else None
    if assumed:
        recipe = recipe.model_copy(update={"goals": (Goal(metric=task.primary_metric, **assumed),)})
    _check_lengths(deployment, recipe)
    candidates, skipped = find_candidates(deployment, recipe, explicit=explicit)
    earlier = load_report(against) if against else None
    progress("loading text", 0.0)
    splits = load_validation(task, recipe.data, deployment, data_dir)
    if earlier:
        _check_alike(earlier, against, task, len(splits[0].encoded.examples))

    machine = describe_machine()
    threads = recipe.bench.threads or machine.usable_cpus
    with (
        tempfile.TemporaryDirectory(prefix="sparse-deploy-bench-") as scratch,
        Workers(threads, Path(scratch)) as workers,
    ):
        cells, scores = _score(candidates, workers, manifest, recipe, task, splits, deployment, Path(scratch), progress)
        # Before the timing: a goal that can't be judged must not cost the user the rest of the run.
        baseline = earlier.cell(earlier.baseline) if earlier else cells[0]
        gates = evaluate_goals(recipe.goals, cells, baseline)
        timed = _time(workers, splits[0], recipe, timing, progress)
    if timed:
        cells = _timed_cells(cells, timed, recipe)
    cells = [
        cell.model_copy(update={"predictions": write_predictions(report_dir, cell.id, scores[cell.id].rows)})
        for cell in cells
    ]
    report = BenchReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=recipe.name,
        deployment=str(deployment),
        task=task.name,
        primary_metric=task.primary_metric,
        examples=len(splits[0].encoded.examples),
        baseline=cells[0].id,
        machine=machine,
        versions=package_versions(),
        settings=_settings(recipe, threads, skipped, against, splits, timed) | {"default_goal": assumed},
        lengths=_token_lengths(splits[0].encoded.lengths),
        cells=tuple(cells),
        gates=gates,
        reference=recipe.reference,
    )
    write_report(report, report_dir)
    return report


def find_candidates(
    deployment: Path, recipe: Recipe, *, explicit: bool = False
) -> tuple[list[Candidate], dict[str, str]]:
    """The cells that can run, the baseline first, and why the others can't.

    Raises:
        RuntimeUnavailableError: a runtime is missing that was explicitly asked for, or nothing is left.
        ArtifactError: so for a file.
    """
    found: list[Candidate] = []
    skipped: dict[str, str] = {}
    for runtime in map(get_runtime, recipe.bench.runtimes):
        for precision in (precision for precision in recipe.bench.precisions if precision in runtime.files):
            candidate = Candidate(runtime, precision)
            reason = _why_not(candidate, deployment, recipe)
            if not reason:
                found.append(candidate)
            elif explicit:
                error = ArtifactError if runtime.available() else RuntimeUnavailableError
                raise error(f"{candidate.id} was asked for: {reason}")
            else:
                skipped[candidate.id] = reason
    if not found:
        reasons = "; ".join(f"{cell}: {reason}" for cell, reason in skipped.items()) or (
            f"{', '.join(recipe.bench.runtimes)} runs no {', '.join(recipe.bench.precisions)}"
        )
        raise RuntimeUnavailableError(f"{deployment}: no cell can run here ({reasons})")
    found.sort(key=lambda candidate: (candidate.runtime.name, candidate.precision) != BASELINE)
    return found, skipped


def _check_alike(earlier: BenchReport, path: Path | None, task: Task, examples: int) -> None:
    for what, theirs, ours in (
        ("task", earlier.task, task.name),
        ("primary metric", earlier.primary_metric, task.primary_metric),
        ("number of validation examples", earlier.examples, examples),
    ):
        if theirs != ours:
            raise ConfigError(
                f"--against {path}: its {what} is {theirs}, here it is {ours}; compare with a report on the same "
                f"validation set"
            )


def _why_not(candidate: Candidate, deployment: Path, recipe: Recipe) -> str:
    if not candidate.runtime.available():
        return _what_is_missing(candidate.runtime)
    if not (deployment / candidate.file).is_file():
        return f"the deployment has no {candidate.file}"
    # PyTorch makes its INT8 model from the FP32 checkpoint, so there is always a file; not always a wish for it.
    if candidate.precision == "int8" and recipe.quantization.mode is Int8Mode.NONE:
        return "the deployment was exported without INT8"
    return ""


def _what_is_missing(runtime: Runtime) -> str:
    try:
        runtime.version()
    except RuntimeUnavailableError as error:
        return str(error)
    return f"{runtime.name} is not installed here"


def _check_lengths(deployment: Path, recipe: Recipe) -> None:
    longest = read_config(deployment).get("max_position_embeddings", math.inf)
    if recipe.data.max_length > longest:
        raise ConfigError(f"data.max_length: the model reads at most {longest} tokens; found {recipe.data.max_length}")
    for batch, tokens in recipe.bench.shapes:
        if batch < 1 or not 1 <= tokens <= longest:
            raise ConfigError(
                f"bench.shapes: expected batch x tokens with at least 1 and at most {longest} tokens, which is the "
                f"model's longest input; found {batch}x{tokens}"
            )


def _score(
    candidates: Sequence[Candidate],
    workers: Workers,
    manifest: Manifest,
    recipe: Recipe,
    task: Task,
    splits: Sequence[ValidationSplit],
    deployment: Path,
    scratch: Path,
    progress: Progress,
) -> tuple[list[Cell], dict[str, CellScore]]:
    """Open every cell in its process and score it; the processes stay for the timing."""
    requests = scratch / "requests-timed.npz"
    splits[0].requests.save(requests)
    cells: list[Cell] = []
    scores: dict[str, CellScore] = {}
    for number, candidate in enumerate(candidates):
        progress(f"accuracy {candidate.id}", _ACCURACY_SHARE * number / len(candidates))
        worker = workers.start(candidate.id)
        opened = worker.call(
            "open",
            runtime=candidate.runtime.name,
            precision=candidate.precision,
            folder=str(deployment.resolve()),
            threads=workers.threads,
            requests=str(requests),
        )
        batch_size = recipe.bench.throughput_batch_size
        scores[candidate.id] = score_cell(worker, task, splits, scratch, batch_size=batch_size, data=recipe.data)
        cells.append(
            Cell(
                id=candidate.id,
                runtime=candidate.runtime.name,
                precision=candidate.precision,
                file=candidate.file,
                note=candidate.runtime.notes.get(candidate.precision, ""),
                version=opened["version"],
                metrics=scores[candidate.id].metrics,
                agreement=agreement(task, scores[candidates[0].id], scores[candidate.id]),
                load_ms=opened["load_ms"],
                first_inference_ms=opened["first_inference_ms"],
                file_bytes=_model_bytes(deployment / candidate.file),
                rss_bytes=worker.call("rss")["rss_bytes"],
                sparsity=manifest.sparsity.get(candidate.file),
            )
        )
    return cells, scores


def _model_bytes(path: Path) -> int:
    weights = path.with_suffix(".bin")  # OpenVINO IR keeps its weights beside the graph
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" and weights.is_file() else 0)


def _time(
    workers: Workers, split: ValidationSplit, recipe: Recipe, timing: bool, progress: Progress
) -> TimedRun | None:
    if not timing:
        return None
    plan = TimingPlan(
        blocks=recipe.bench.blocks,
        block_seconds=recipe.bench.block_seconds,
        warmup_seconds=recipe.bench.warmup_seconds,
        batch_size=recipe.bench.throughput_batch_size,
        shapes=recipe.bench.shapes,
        seed=_SEED,
    )
    return time_rivals(
        {cell: workers[cell] for cell in workers},
        split.requests,
        plan,
        lambda message, share: progress(message, _ACCURACY_SHARE + (1 - _ACCURACY_SHARE) * share),
    )


def _timed_cells(cells: Sequence[Cell], timed: TimedRun, recipe: Recipe) -> list[Cell]:
    baseline = timed.cells[cells[0].id]
    finished = []
    for cell in cells:
        raw = timed.cells[cell.id]
        is_baseline = raw is baseline
        latency = summarize_latency(raw.latency)
        throughput = summarize_throughput(raw.throughput, recipe.bench.throughput_batch_size)
        shapes = tuple(
            ShapeLatency(
                batch=batch,
                tokens=tokens,
                latency=summarize_latency(blocks),
                speedup=None if is_baseline else latency_ratio(baseline.shapes[batch, tokens], blocks, seed=_SEED),
            )
            for (batch, tokens), blocks in raw.shapes.items()
        )
        doubts = [
            instability("latency", latency.cv),
            instability("throughput", throughput.cv),
            *(instability(f"latency of shape {s.batch}x{s.tokens}", s.latency.cv) for s in shapes),
        ]
        reason = "; ".join(doubt for doubt in doubts if doubt)
        finished.append(
            cell.model_copy(
                update={
                    "latency": latency,
                    "throughput": throughput,
                    "shapes": shapes,
                    "rss_bytes": raw.rss_bytes,
                    "speedup": None if is_baseline else latency_ratio(baseline.latency, raw.latency, seed=_SEED),
                    "throughput_gain": (
                        None if is_baseline else throughput_ratio(baseline.throughput, raw.throughput, seed=_SEED)
                    ),
                    "stable": not reason,
                    "instability": reason,
                }
            )
        )
    return finished


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
    recipe: Recipe,
    threads: int,
    skipped: dict[str, str],
    against: Path | None,
    splits: Sequence[ValidationSplit],
    timed: TimedRun | None,
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "threads": threads,
        "environment": dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "skipped_cells": skipped,
        "against": str(against) if against else None,
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
            "requests_per_latency_pass": timed.mix_size,
            "batches_per_throughput_pass": timed.batches,
            "percentiles": "nearest rank",
            "interval": f"percentile bootstrap over paired blocks, {RESAMPLES} resamples, seed {_SEED}",
            "warm_up_settled": {cell: raw.settled for cell, raw in timed.cells.items()},
        }
    return settings
