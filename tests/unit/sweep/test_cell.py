# SPDX-License-Identifier: Apache-2.0
"""One job: its CPUs, its processes, its outcome."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from sparse_deploy.errors import ConfigError, ExitCode
from sparse_deploy.sweep.cell import Job, Stage, finished_outcome, last_words, run_job, worst_exit_code
from sparse_deploy.sweep.cpus import reserved_cpus
from sparse_deploy.sweep.run import run_sweep


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """CPUs that a real sweep on this machine holds are not waited for."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "locks"))


def job(folder: Path, *stages: tuple[str, ...]) -> Job:
    listed = tuple(
        Stage(name=f"stage{number}", arguments=arguments, result="report/report.json")
        for number, arguments in enumerate(stages)
    )
    return Job(
        kind="cell", key="k" * 64, folder=folder / "job", working_folder=folder, recipe={"name": "x"}, stages=listed
    )


def children(of: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            found += [process] if str(of) in " ".join(process.cmdline()) else []
    return found


def test_reserved_cpus_are_never_given_twice():
    usable = os.sched_getaffinity(0)
    with reserved_cpus(len(usable)) as held:
        assert set(held) == usable
        with pytest.raises(KeyboardInterrupt), reserved_cpus(1, lambda: True):
            pass
    with reserved_cpus(1) as held:
        assert len(held) == 1


def test_more_cpus_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="this machine has"), reserved_cpus(10_000):
        pass


def test_a_folder_of_somebody_else_is_not_used(tmp_path):
    (tmp_path / "locks" / f"sparse-deploy-cpus-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / "locks" / f"sparse-deploy-cpus-{os.getuid()}").chmod(0o777)
    with pytest.raises(ConfigError, match="expected a folder that only this user can access"), reserved_cpus(1):
        pass


def test_a_stage_that_fails_is_recorded_with_its_words(tmp_path):
    outcome = run_job(job(tmp_path, ("export", "nowhere", "-c", "no-such-recipe")), 1)
    assert (outcome.status, outcome.exit_code) == ("failed", ExitCode.USAGE)
    assert outcome.message.startswith("no-such-recipe: neither a recipe file")
    assert json.loads((tmp_path / "job" / "cell.json").read_text())["stages"][0]["attempts"] == 1
    assert finished_outcome(job(tmp_path)) is None  # it will be tried again


def test_exit_code_0_without_the_result_is_a_bug(tmp_path):
    outcome = run_job(job(tmp_path, ("--version",)), 1)
    assert (outcome.status, outcome.exit_code) == ("failed", ExitCode.BUG)


def test_a_finished_job_whose_result_is_gone_is_not_finished(tmp_path):
    wanted = job(tmp_path, ("--version",))
    report = wanted.folder / "report" / "report.json"
    report.parent.mkdir(parents=True)
    outcome = {"key": wanted.key, "settings": {}, "status": "finished", "exit_code": 3, "message": "", "stages": []}
    wanted.done_file.write_text(json.dumps(outcome))
    assert finished_outcome(wanted) is None
    report.write_text("{}")
    assert finished_outcome(wanted).exit_code == ExitCode.GATE_FAILED
    wanted.done_file.write_text(json.dumps(outcome | {"key": "another"}))
    assert finished_outcome(wanted) is None


def test_giving_up_ends_the_process_and_records_nothing(tmp_path):
    stop = threading.Event()
    ended: list[str] = []

    def run() -> None:
        try:
            run_job(job(tmp_path, ("demo", "--output", str(tmp_path / "demo"))), 1, stop.is_set)
        except KeyboardInterrupt:
            ended.append("interrupted")

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: children(tmp_path))
    stop.set()
    thread.join(30)
    assert ended == ["interrupted"]
    assert not children(tmp_path)
    assert not (tmp_path / "job" / "cell.json").exists()


def test_a_killed_process_is_started_again_once(tmp_path):
    outcomes = []
    command = ("demo", "--output", str(tmp_path / "demo"))
    thread = threading.Thread(target=lambda: outcomes.append(run_job(job(tmp_path, command), 1)))
    thread.start()
    killed: set[int] = set()
    while thread.is_alive():
        for process in children(tmp_path):
            killed.add(process.pid)
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    (outcome,) = outcomes
    assert len(killed) == 2
    assert (outcome.exit_code, outcome.stages[0].attempts) == (ExitCode.INCONCLUSIVE, 2)
    assert "SIGKILL" in outcome.message


def test_the_last_words_are_those_of_the_command_line(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"noise\nsparse-deploy: model.onnx: damaged\nlate noise of a library \xff\n")
    assert last_words(log) == "model.onnx: damaged"
    log.write_text("")
    assert last_words(log) == "it printed nothing"


def test_the_worst_exit_code_is_the_one_that_says_most():
    assert worst_exit_code([0, 4, 3]) == 3
    assert worst_exit_code([3, 2, 0]) == 2
    assert worst_exit_code([2, 5]) == 5
    assert worst_exit_code([5, 1]) == 1
    assert worst_exit_code([]) == 0


def test_a_folder_with_other_files_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("x")
    monkeypatch.setattr("sparse_deploy.sweep.run.make_plan", lambda *arguments: None)
    with pytest.raises(ConfigError, match="contains no sweep"):
        run_sweep(None, tmp_path, None)


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
