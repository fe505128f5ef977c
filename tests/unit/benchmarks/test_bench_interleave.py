# SPDX-License-Identifier: Apache-2.0
"""Rounds: all rivals take part at first, the slow ones drop out, and the order changes."""

from pathlib import Path

import pytest
from harness.interleave import Plan, run_rounds
from harness.machine_state import Probe
from harness.pairing import by_rival
from harness.processes import RivalProcess, WorkerError
from harness.sessions import UnavailableError


class Sleeper:
    """A rival in this process that says it took a set time per request."""

    def __init__(self, ms, log=None):
        self.ms, self.log = ms, log if log is not None else []

    def call(self, command, **arguments):
        assert command == "block"
        self.log.append(self.ms)
        return {"samples_ms": [self.ms] * arguments["least"]}

    def cpu_seconds(self):
        return 0.0


@pytest.fixture
def blind(tmp_path):
    """A probe without CPUs to look at: all blocks are alike."""
    return Probe(tmp_path, cpus=())


def test_slow_rivals_stop_after_the_first_round_and_the_order_changes(blind, monkeypatch):
    monkeypatch.setattr("harness.interleave.busy_seconds", lambda: 0.0)  # nobody else uses the machine
    log = []
    rivals = {"ours": Sleeper(2.0, log), "a": Sleeper(4.0, log), "b": Sleeper(4.2, log), "slow": Sleeper(40.0, log)}
    blocks = run_rounds(rivals, "ours", Plan(rounds=6, first_rounds=3, seconds=0.0, patience=0.0), blind)
    counts = {name: len(found) for name, found in by_rival(blocks).items()}
    assert counts["slow"] == 1
    assert counts["ours"] == 6
    assert counts["a"] == counts["ours"]
    orders = {tuple(log[i : i + 3]) for i in range(4, len(log) - 2, 3)}
    assert len(orders) > 1


def test_without_a_probe_looks_tell_nothing(blind):
    assert blind.look().one_way_ns is None
    assert blind.peak_gmacs() is None or blind.peak_gmacs() > 0


def test_a_probe_says_why_it_has_no_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    probe = Probe(tmp_path)
    assert "compiler" in probe.reason
    assert probe.look().work_rate is None


def test_a_worker_reports_a_failure_on_one_line_and_goes_on():
    process = RivalProcess("openvino_int8", 1)
    try:
        with pytest.raises(WorkerError, match=r"openvino_int8: answer failed: .*open first"):
            process.call("answer")
        with pytest.raises(WorkerError, match="ValueError: expected a rival"):
            process.call("open", rival="none", folder="", cell=_CELL, threads=1)
        assert process.cpu_seconds() > 0
    finally:
        process.close()


def test_a_dead_worker_is_named():
    process = RivalProcess("ort_fp32", 1)
    try:
        process._process.kill()
        with pytest.raises(WorkerError, match="ort_fp32: the process ended"):
            process.call("answer")
    finally:
        process.close()


def test_ours_is_unavailable_without_its_library(tmp_path):
    process = RivalProcess("ours", 1, SPARSE_DEPLOY_KERNELS=str(tmp_path))
    try:
        with pytest.raises(UnavailableError, match=str(Path(tmp_path).name)):
            process.call("open", rival="ours", folder=str(tmp_path), cell=_CELL, threads=1)
    finally:
        process.close()


_CELL = {"model": "base", "pattern": "u70", "batch": 1, "sequence": 16}
