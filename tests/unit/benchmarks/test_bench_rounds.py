# SPDX-License-Identifier: Apache-2.0
"""Rounds of encoder.py: all rivals take part at first, and the slow ones drop out; its workers say what failed."""

from pathlib import Path

import pytest
from harness.measure import rival_workers
from harness.rivals import by_rival
from harness.rounds import Plan, run_rounds

from sparse_deploy.errors import RuntimeUnavailableError, WorkerError
from sparse_deploy.measurement.machine_state import Probe


class Sleeper:
    """A rival in this process that says it took a set time per request."""

    def __init__(self, ms):
        self.ms = ms

    def call(self, command, **arguments):
        assert command == "block"
        return {"samples_ms": [self.ms] * arguments["least"]}

    def cpu_seconds(self):
        return 0.0


def test_slow_rivals_stop_after_the_first_round(monkeypatch):
    monkeypatch.setattr("sparse_deploy.measurement.cpu_time.busy_seconds", lambda: 0.0)  # nobody uses the machine
    rivals = {"ours": Sleeper(2.0), "a": Sleeper(4.0), "b": Sleeper(4.2), "slow": Sleeper(40.0)}
    plan = Plan(rounds=6, first_rounds=3, seconds=0.0, patience=0.0)
    blocks = run_rounds(rivals, "ours", plan, Probe(cpus=()))
    counts = {name: len(found) for name, found in by_rival(blocks).items()}
    assert counts["slow"] == 1
    assert counts["ours"] == 6
    assert counts["a"] == counts["ours"]


CELL = {"model": "base", "pattern": "u70", "batch": 1, "sequence": 16}


def test_a_rival_is_unavailable_without_its_library(tmp_path):
    with rival_workers(1) as workers:
        worker = workers.start("ours", variables={"SPARSE_DEPLOY_KERNELS": str(tmp_path)})
        with pytest.raises(RuntimeUnavailableError, match=str(Path(tmp_path).name)):
            worker.call("open", rival="ours", folder=str(tmp_path), cell=CELL, threads=1)


def test_a_failure_is_told_with_the_name_of_the_rival():
    with rival_workers(1) as workers:
        worker = workers.start("openvino_int8")
        with pytest.raises(WorkerError, match=r"openvino_int8: .*open first"):
            worker.call("answer")
