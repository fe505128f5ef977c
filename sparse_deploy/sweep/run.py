# SPDX-License-Identifier: Apache-2.0
"""Runs a sweep: skips finished jobs, orders the others, and writes the summary."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sparse_deploy.errors import ConfigError
from sparse_deploy.publishing import only_writer
from sparse_deploy.sweep.cell import Job, Outcome, fail_job, finished_outcome
from sparse_deploy.sweep.engine import Engine, Outcomes
from sparse_deploy.sweep.grid import Sweep
from sparse_deploy.sweep.plan import EXPORT, KEY_LENGTH, Plan, make_plan
from sparse_deploy.sweep.summary import SweepSummary, summarize, write_summary

Progress = Callable[[str, float], None]
_FOLDERS = ("cells", "checkpoints")


def run_sweep(
    sweep: Sweep,
    output: Path,
    engine: Engine,
    *,
    data_dir: Path | None = None,
    progress: Progress = lambda message, share: None,
) -> SweepSummary:
    """Run the unfinished jobs of a sweep, and write the summary of all.

    Args:
        sweep: see :func:`sparse_deploy.sweep.grid.load_sweep`.
        output: folder for ``cells/KEY/``, ``checkpoints/KEY/``, ``summary.json`` and ``summary.md``.
        engine: engine that runs the jobs; it is entered only if there are unfinished jobs.
        data_dir: folder with the task's text; default: the hub.
        progress: called with a message and a share between 0 and 1.

    Returns:
        The written summary. Failed cells are in it and raise no error.

    Raises:
        KeyboardInterrupt: stopped by a signal; finished jobs are kept, and the same call continues.
        SparseDeployError: the sweep can't be run.
    """
    output = output.absolute()
    plan = make_plan(sweep, output, data_dir)
    _check_folder(output)
    with only_writer(output):
        outcomes = {job.key: outcome for job in plan.cells if (outcome := finished_outcome(job))}
        todo = [job for job in plan.cells if job.key not in outcomes]
        progress(f"{len(outcomes)} of {len(plan.cells)} cells are finished", len(outcomes) / len(plan.cells))
        if todo:
            with engine:
                engine.check_folder(output)
                with contextlib.closing(_run(plan, todo, engine, latency=sweep.bench.latency)) as ended:
                    for job, outcome in ended:
                        if job.kind == "cell":
                            outcomes[job.key] = outcome
                        message = f"{job.kind} {job.key[:KEY_LENGTH]} {outcome.status}"
                        progress(message, len(outcomes) / len(plan.cells))
        summary = summarize(sweep.name, plan.varied, [(job, outcomes[job.key]) for job in plan.cells], output)
        write_summary(summary, output)
    return summary


def _run(plan: Plan, todo: Sequence[Job], engine: Engine, *, latency: bool) -> Outcomes:
    """The unfinished jobs: checkpoints first, then jobs that may share the machine, then the others."""
    wanted = {training.key: training for job in todo if (training := plan.trainings.get(job.key))}
    failed: dict[str, Outcome] = {}
    unfinished = [training for training in wanted.values() if not finished_outcome(training)]
    with contextlib.closing(engine.run(unfinished)) as ended:
        for job, outcome in ended:
            if outcome.status == "failed":
                failed[job.key] = outcome
            yield job, outcome
    ready = []
    for job in todo:
        training = plan.trainings.get(job.key)
        if training and training.key in failed:
            lost = failed[training.key]
            yield job, fail_job(job, lost.exit_code, f"its checkpoint failed: {lost.message}")
        else:
            ready.append(job)
    if not latency:
        yield from engine.run(ready)
        return
    exports = [
        job.model_copy(update={"stages": tuple(s for s in job.stages if s.name == EXPORT), "last": False})
        for job in ready
    ]
    exported = set()
    with contextlib.closing(engine.run(exports)) as ended:
        for job, outcome in ended:
            if outcome.status == "failed":
                yield job, outcome
            else:
                exported.add(job.key)
    yield from engine.run([job for job in ready if job.key in exported], exclusive=True)


def _check_folder(output: Path) -> None:
    """Refuse a folder with other files.

    Raises:
        ConfigError: the folder has files that no sweep wrote.
    """
    if output.is_dir() and any(output.iterdir()) and not any((output / name).is_dir() for name in _FOLDERS):
        raise ConfigError(
            f"{output}: the folder is not empty and contains no sweep. Choose another --output or empty it."
        )
