# SPDX-License-Identifier: Apache-2.0
"""The order and the content of timed blocks, from the view of the timed worker."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from sparse_deploy.evaluation import latency
from sparse_deploy.evaluation.latency import TimingPlan, time_rivals
from sparse_deploy.evaluation.requests import Requests
from sparse_deploy.measurement import cpu_time, interleave, machine_state


class RecordingRival:
    """A worker with a known time per request that records its requests."""

    def __init__(self, name: str, ms: float, log: list) -> None:
        self.name, self.ms, self.log = name, ms, log

    def call(self, command: str, **arguments):
        self.log.append((self.name, command, arguments))
        if command == "warm_up":
            return {"stable": self.ms < 50, "median_ms": self.ms, "mean_ms": self.ms, "seconds": 1.0}
        if command == "open_streams":
            return {"streams": 4}
        if command in ("throughput", "stream"):
            examples = sum(len(batch) for batch in arguments["batches"])
            return {"examples": examples, "tokens": 10 * examples, "seconds": examples * self.ms / 1e3}
        if command == "rss":
            return {"rss_bytes": 123, "peak_bytes": 456}
        return {"samples_ms": [self.ms] * len(arguments.get("indices", range(5)))}

    def cpu_seconds(self) -> float:
        return 0.0


@pytest.fixture
def requests() -> Requests:
    return Requests.from_features(
        [dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), np.ones(n, np.int64)) for n in range(3, 203)]
    )


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch):
    """No waiting between blocks, and blocks that nothing disturbs."""
    monkeypatch.setattr(interleave, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(cpu_time, "busy_seconds", lambda: 0.0)
    monkeypatch.setattr(latency, "Probe", lambda: machine_state.Probe(cpus=()))


def run(requests, plan, **speeds):
    log: list = []
    found = time_rivals({name: RecordingRival(name, ms, log) for name, ms in speeds.items()}, requests, plan)
    return found, log


PLAN = TimingPlan(blocks=3, block_seconds=1.0, warmup_seconds=2.0, batch_size=16, shapes=((1, 32),), seed=5)


def test_blocks_are_interleaved_in_changing_order(requests):
    _, log = run(requests, PLAN, a=10.0, b=5.0, c=1.0)
    for command in ("latency", "throughput", "shape"):
        recorded = [name for name, said, arguments in log if said == command and arguments["seconds"] > 0]
        rounds = ["".join(recorded[start : start + 3]) for start in range(0, len(recorded), 3)]
        assert [sorted(order) for order in rounds] == [["a", "b", "c"]] * PLAN.blocks
        assert len(set(rounds)) > 1


def test_every_rival_gets_the_same_work(requests):
    _, log = run(requests, PLAN, a=10.0, b=1.0)
    timed = [arguments for _, said, arguments in log if said == "latency" and arguments["seconds"] > 0]
    assert all(arguments == timed[0] for arguments in timed)
    offline = [arguments for _, said, arguments in log if said == "throughput" and arguments["seconds"] > 0]
    assert all(arguments == offline[0] for arguments in offline)


def test_the_slowest_rival_sizes_the_pass(requests):
    found, _ = run(requests, PLAN, a=10.0, b=1.0)
    assert found.mix_size == 100  # one second at 10 ms
    found, _ = run(requests, PLAN, a=2000.0, b=1.0)
    assert found.mix_size == 20  # never so few that a median means nothing
    assert found.batches == 3


def test_unrecorded_passes_come_first(requests):
    found, log = run(requests, PLAN, a=10.0)
    assert [said for _, said, _ in log][:3] == ["warm_up", "latency", "rss"]
    assert len(found.cells["a"].latency.blocks) == PLAN.blocks
    assert len(found.cells["a"].throughput.blocks) == PLAN.blocks
    assert len(found.cells["a"].shapes[1, 32].blocks) == PLAN.blocks
    assert found.cells["a"].rss_bytes == 123


STREAMED = replace(PLAN, streamed=frozenset({"b"}))


def test_streams_are_a_rival_beside_the_same_cell(requests):
    found, log = run(requests, STREAMED, a=10.0, b=5.0)
    names = {"throughput": "{}", "stream": "{}*"}
    recorded = [names[said].format(name) for name, said, asked in log if said in names and asked["seconds"] > 0]
    assert [sorted(recorded[start : start + 3]) for start in (0, 3, 6)] == [["a", "b", "b*"]] * PLAN.blocks
    assert (found.cells["b"].streams, len(found.cells["b"].streamed.blocks)) == (4, PLAN.blocks)
    assert (found.cells["a"].streams, found.cells["a"].streamed) == (0, None)


def test_rounds_that_something_disturbed_are_replaced_and_counted(requests, monkeypatch):
    busy = itertools.count()
    monkeypatch.setattr(cpu_time, "busy_seconds", lambda: 1e6 * min(next(busy), 8))  # it rises during the first blocks
    found, _ = run(requests, replace(PLAN, shapes=(), block_seconds=0.01), a=10.0)
    conditions = found.cells["a"].latency.conditions
    assert conditions.counted == PLAN.blocks
    assert conditions.measured == PLAN.blocks + conditions.disturbed


def test_streams_are_opened_when_everything_else_was_measured(requests):
    _, log = run(requests, STREAMED, a=10.0, b=5.0)
    commands = [said for _, said, _ in log]
    opened = commands.index("open_streams")
    assert {"latency", "shape", "rss"} <= set(commands[:opened])
    assert set(commands[opened + 1 :]) == {"throughput", "stream"}
    assert commands.count("open_streams") == 1


def test_streams_get_the_same_batches_the_longest_first(requests):
    _, log = run(requests, STREAMED, a=10.0, b=5.0)
    streamed = [asked["batches"] for _, said, asked in log if said in ("open_streams", "stream")]
    (offline,) = {
        tuple(map(tuple, asked["batches"])) for _, said, asked in log if said == "throughput" and asked["seconds"] > 0
    }
    assert all(tuple(map(tuple, batches)) == offline[::-1] for batches in streamed)
    assert requests.lengths[streamed[0][0]].min() > requests.lengths[streamed[0][-1]].max()


def test_a_warm_up_that_never_settled_is_remembered(requests):
    found, _ = run(requests, PLAN, quick=10.0, jumpy=60.0)
    assert found.cells["quick"].settled
    assert not found.cells["jumpy"].settled


@pytest.mark.parametrize("plan", [PLAN, STREAMED])
def test_progress_grows_to_nearly_one(requests, plan):
    shares: list[float] = []
    rivals = {"b": RecordingRival("b", 10.0, [])}
    time_rivals(rivals, requests, plan, lambda message, share: shares.append(share))
    measured = shares[1:]
    assert measured == sorted(measured)
    assert 0.8 < measured[-1] < 1.0
