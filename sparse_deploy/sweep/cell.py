# SPDX-License-Identifier: Apache-2.0
"""One job of a sweep: a few commands in child processes; finished ones are recorded, so that a killed job resumes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparse_deploy.artifacts import write_json_atomically
from sparse_deploy.errors import ExitCode
from sparse_deploy.runtimes.child_process import THREAD_VARIABLES
from sparse_deploy.sweep.cpus import reserved_cpus

RECIPE_NAME, PROGRESS_NAME, LOG_FOLDER = "recipe.json", "progress.json", "logs"
# A stage whose process was killed (usually out of memory) is retried; a stage that ended by itself is not.
MAX_ATTEMPTS = 2
# Exit codes of a stage with a complete result, which includes verdicts.
_RESULT_CODES = (ExitCode.OK, ExitCode.GATE_FAILED, ExitCode.INCONCLUSIVE)
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 20.0
_LOG_TAIL_BYTES = 8192
_MESSAGE_LENGTH = 500

GiveUp = Callable[[], bool]
Content = TypeVar("Content", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(_Frozen):
    """One command.

    Attributes:
        name: ``finetune``, ``export`` or ``bench``.
        arguments: arguments of the command line, after ``sparse-deploy``.
        result: the file that exists after its success, relative to the job's folder.
    """

    name: str
    arguments: tuple[str, ...]
    result: str


class Job(_Frozen):
    """A job with a key.

    Attributes:
        kind: ``cell``, or ``checkpoint``, which is shared by cells.
        key: see :func:`sparse_deploy.sweep.identity.content_key`.
        folder: folder of its results; its name is the start of the key.
        working_folder: base of relative paths in the recipe.
        recipe: the resolved recipe, as plain data.
        settings: the settings in which this cell differs from others.
        stages: stages in order.
        last: whether the job is finished after these stages.
    """

    kind: Literal["checkpoint", "cell"]
    key: str
    folder: Path
    working_folder: Path
    recipe: dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[Stage, ...]
    last: bool = True

    @property
    def done_file(self) -> Path:
        """The file of a finished job; written last."""
        return self.folder / f"{self.kind}.json"


class StageRecord(_Frozen):
    """The result of a stage.

    Attributes:
        exit_code: exit code of the command; ``inconclusive`` if its process was killed.
        message: the message of the command, if its exit code is not 0.
        attempts: number of starts.
        cpus: number of CPUs to which it was bound.
    """

    name: str
    exit_code: int
    message: str = ""
    seconds: float
    attempts: int = 1
    cpus: int


class Outcome(_Frozen):
    """Content of ``cell.json``.

    Attributes:
        status: ``finished`` has a complete result with any verdict; the next run of the sweep retries a ``failed`` job
            again.
        exit_code: the worst of its stages.
        message: message of the stage with this code.
    """

    schema_version: Literal[1] = 1
    key: str
    settings: dict[str, Any]
    status: Literal["finished", "failed"]
    exit_code: int
    message: str
    stages: tuple[StageRecord, ...]


class _Progress(_Frozen):
    key: str
    stages: tuple[StageRecord, ...] = ()


def finished_outcome(job: Job) -> Outcome | None:
    """The outcome of a job in an earlier run, if it finished and all its files exist."""
    found = _read(job.done_file, Outcome)
    if found is None or found.key != job.key or found.status != "finished":
        return None
    return found if all((job.folder / stage.result).is_file() for stage in job.stages) else None


def run_job(job: Job, cpus: int, give_up: GiveUp = lambda: False) -> Outcome:
    """Run the stages of a job that no earlier run has finished.

    Args:
        job: the job.
        cpus: number of CPUs to which its processes are bound.
        give_up: called regularly; true ends the running process and raises KeyboardInterrupt.

    Returns:
        The outcome, as in its file; a file is written only after the last stages.
    """
    _prepare(job)
    records = list(_finished_stages(job))
    for stage in job.stages:
        if stage.name in [record.name for record in records]:
            continue
        record = _run_stage(job, stage, cpus, give_up)
        records.append(record)
        if not _has_result(job, stage, record.exit_code):
            return _conclude(job, records, "failed")
        write_json_atomically(
            job.folder / PROGRESS_NAME, _Progress(key=job.key, stages=tuple(records)).model_dump(mode="json")
        )
    return _conclude(job, records, "finished")


def fail_job(job: Job, exit_code: int, message: str) -> Outcome:
    """Record a job that can't be run or was lost with its machine."""
    _prepare(job)
    return _write_outcome(job, [*_finished_stages(job)], "failed", exit_code, message)


def worst_exit_code(codes: Sequence[int]) -> int:
    """The most severe code: a bug, then a bad artifact, wrong usage, a missed goal, no verdict, and 0."""
    order = (
        ExitCode.INTERRUPTED, ExitCode.BUG, ExitCode.BAD_ARTIFACT, ExitCode.USAGE, ExitCode.GATE_FAILED,
        ExitCode.INCONCLUSIVE, ExitCode.OK,
    )  # fmt: skip
    return min(codes, key=lambda code: order.index(ExitCode(code)), default=ExitCode.OK)


def _prepare(job: Job) -> None:
    (job.folder / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
    write_json_atomically(job.folder / RECIPE_NAME, job.recipe)


def _finished_stages(job: Job) -> tuple[StageRecord, ...]:
    """Records of the stages that an earlier run finished, up to the first with a missing result."""
    found = _read(job.folder / PROGRESS_NAME, _Progress)
    if found is None or found.key != job.key:
        return ()
    results = {stage.name: stage.result for stage in job.stages}
    kept = []
    for record in found.stages:
        if record.name in results and not (job.folder / results[record.name]).is_file():
            break
        kept.append(record)
    return tuple(kept)


def _run_stage(job: Job, stage: Stage, cpus: int, give_up: GiveUp) -> StageRecord:
    log = job.folder / LOG_FOLDER / f"{stage.name}.log"
    start = time.monotonic()
    attempts, code = 0, -signal.SIGKILL
    while code < 0 and attempts < MAX_ATTEMPTS:
        attempts += 1
        with reserved_cpus(cpus, give_up) as reserved:
            code = _run_command(job, stage, reserved, log, give_up)
    if code < 0:
        message = f"{stage.name}: the process was ended by {signal.Signals(-code).name}, {attempts} times"
        code = ExitCode.INCONCLUSIVE
    else:
        message = last_words(log) if code else ""
    seconds = round(time.monotonic() - start, 1)
    return StageRecord(name=stage.name, exit_code=code, message=message, seconds=seconds, attempts=attempts, cpus=cpus)


def _run_command(job: Job, stage: Stage, cpus: Sequence[int], log: Path, give_up: GiveUp) -> int:
    shutil.rmtree((job.folder / stage.result).parent, ignore_errors=True)  # an older result must not be used
    launcher = [sys.executable, "-m", "sparse_deploy.sweep.child", str(os.getpid()), ",".join(map(str, cpus))]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*launcher, *stage.arguments],
            cwd=job.working_folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(len(cpus)),
            # Ctrl-C in a terminal is sent to the whole foreground group. Only the driver handles it.
            start_new_session=True,
        )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(_POLL_SECONDS)
                # A SIGTERM from another process is handled like any other signal.
                return -signal.SIGTERM if code == ExitCode.INTERRUPTED else code
            if give_up():
                raise KeyboardInterrupt
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a stage with all its processes: SIGINT first, so that fine-tuning writes a resumable checkpoint."""
    if process.poll() is not None:
        return
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _environment(threads: int) -> dict[str, str]:
    """The environment of a stage: sizes of thread pools; without the variables of Ray's workers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def _has_result(job: Job, stage: Stage, exit_code: int) -> bool:
    return exit_code in _RESULT_CODES and (job.folder / stage.result).is_file()


def _conclude(job: Job, records: Sequence[StageRecord], status: Literal["finished", "failed"]) -> Outcome:
    worst = worst_exit_code([record.exit_code for record in records])
    message = next((record.message for record in reversed(records) if record.exit_code == worst), "")
    if status == "failed" and worst == ExitCode.OK:
        worst, message = ExitCode.BUG, f"{records[-1].name} ended with 0 and wrote no result"
    return _write_outcome(job, records, status, worst, message)


def _write_outcome(
    job: Job, records: Sequence[StageRecord], status: Literal["finished", "failed"], exit_code: int, message: str
) -> Outcome:
    outcome = Outcome(
        key=job.key,
        settings=job.settings,
        status=status,
        exit_code=exit_code,
        message=message,
        stages=tuple(records),
    )
    if job.last or status == "failed":
        write_json_atomically(job.done_file, outcome.model_dump(mode="json"))
    return outcome


def last_words(log: Path) -> str:
    """The last message of the command line, in one line."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    said = [line.removeprefix("sparse-deploy: ") for line in lines if line.startswith("sparse-deploy: ")]
    return " ".join((said or lines or ["it printed nothing"])[-1].split())[:_MESSAGE_LENGTH]


def _read(path: Path, content: type[Content]) -> Content | None:
    """A file of an earlier run; None if it is missing or has another form, which a rerun treats equally."""
    try:
        return content.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
