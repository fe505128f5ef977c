# SPDX-License-Identifier: Apache-2.0
"""Rounds: everybody's turn in changing order, spare rounds for disturbed ones, and no more where none can be clean."""

import pytest

from sparse_deploy.measurement import cpu_time, interleave
from sparse_deploy.measurement.interleave import Contestant, Rounds, run_rounds
from sparse_deploy.measurement.machine_state import Probe
from sparse_deploy.measurement.worker import BlockTimer


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(interleave, "_SETTLE_SECONDS", 0.0)


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(cpu_time, "busy_seconds", lambda: 0.0)


def contestants(log, names="abc"):
    return {name: Contestant(lambda name=name: log.append(name) or (1.0,), lambda: 0.0) for name in names}


def test_each_round_holds_everybody_and_the_order_changes(quiet):
    log: list[str] = []
    blocks = run_rounds(contestants(log), Rounds(wanted=6, most=9, patience=0.0), Probe(cpus=()))
    rounds = ["".join(log[start : start + 3]) for start in range(0, len(log), 3)]
    assert [sorted(order) for order in rounds] == [["a", "b", "c"]] * 6
    assert len(set(rounds)) > 1
    assert [block.turn for block in blocks] == [turn for turn in range(6) for _ in range(3)]


def test_a_machine_that_is_never_quiet_gets_no_spare_rounds(monkeypatch):
    busy = iter(range(10**9))
    monkeypatch.setattr(cpu_time, "busy_seconds", lambda: 1e6 * next(busy))
    blocks = run_rounds(contestants([], "a"), Rounds(wanted=3, most=6, patience=0.0), Probe(cpus=()))
    assert len(blocks) == 3
    assert all(block.foreign > cpu_time.FOREIGN_ABOVE for block in blocks)


def test_the_machine_counts_its_busy_time_up():
    before = cpu_time.busy_seconds()
    sum(i * i for i in range(3_000_000))
    assert cpu_time.busy_seconds() > before


class TestLooks:
    def test_the_kernels_measure_distance_and_rate(self):
        probe = Probe()
        state = probe.look()
        if probe.reason:
            assert state.one_way_ns is None
        else:
            assert state.one_way_ns is None or 1.0 < state.one_way_ns < 50_000_000.0
        assert state.work_rate is None or state.work_rate > 0.0

    def test_without_cpus_looks_tell_nothing(self):
        probe = Probe(cpus=())
        assert probe.look().one_way_ns is None
        assert probe.reason

    def test_without_the_kernels_the_reason_is_said(self, tmp_path, monkeypatch):
        from sparse_deploy.kernels import loader

        monkeypatch.setenv(loader.FOLDER_VARIABLE, str(tmp_path))
        loader.open_library.cache_clear()
        probe = Probe()
        loader.open_library.cache_clear()
        assert "needs the compiled kernels" in probe.reason
        assert (probe.look().one_way_ns, probe.look().work_rate) == (None, None)
        assert probe.peak_gmacs() is None


class TestBlockTimer:
    def test_a_block_is_whole_passes_and_its_first_requests_only_fill_the_caches(self):
        asked: list[int] = []

        def measure(item: int) -> float:
            asked.append(item)
            return float(item)

        samples = BlockTimer(lambda: None).passes(measure, [1, 2], seconds=1e-9, least=3)
        assert samples == [1.0, 2.0, 1.0, 2.0]
        assert asked == [1, 2, 1, *map(int, samples)]

    def test_slow_requests_fill_the_caches_themselves(self):
        asked: list[int] = []
        timer = BlockTimer(lambda: None)
        for _ in range(2):
            timer.passes(lambda item: asked.append(item) or 400.0, [1], seconds=1e-9)
        assert len(asked) == 3 + 1 + 1
