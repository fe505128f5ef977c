# SPDX-License-Identifier: Apache-2.0
"""Rounds of blocks in shuffled order, with a look at the machine between any two."""

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.machine_state import Probe, busy_seconds
from harness.pairing import Block, comparable_rounds, contenders

Progress = Callable[[str], None]
# A runtime's threads poll for some milliseconds after their last request before they sleep; the look at the machine
# and the next rival must not share the cores with them.
_SETTLE_SECONDS = 0.06
# While all rivals sleep the machine idles, but for threads that still poll; /proc/stat has 12 ticks in that time.
_QUIET_BELOW = 0.3
_PAUSE_SECONDS = 0.3
# A rival slower than this many times the best one gets no more rounds: after the first one, and after the first few.
_CONTENDS_AFTER_ONE, _CONTENDS_WITHIN = 1.6, 1.25


class Timed(Protocol):
    """What is timed: :class:`harness.processes.RivalProcess`."""

    def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Run a worker's command."""
        ...

    def cpu_seconds(self) -> float:
        """CPU time that its process used so far."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and how often.

    Attributes:
        rounds: wanted rounds with clean blocks of both ours and the best rival.
        first_rounds: rounds that every rival near the best takes part in; after them only those that may be it go on.
        seconds: length of a block.
        least: requests of a block, however long they take.
        patience: seconds to wait, in all, while something else uses the machine.
    """

    rounds: int = 12
    first_rounds: int = 3
    seconds: float = 0.4
    least: int = 2
    patience: float = 60.0

    @property
    def most_rounds(self) -> int:
        """Where to give up when the machine changes its state too often: twice the wanted ones."""
        return 2 * self.rounds


def run_rounds(
    rivals: Mapping[str, Timed],
    ours: str,
    plan: Plan,
    probe: Probe,
    progress: Progress = lambda message: None,
    seed: int = 0,
) -> list[Block]:
    """Time all rivals in turn until enough rounds can be compared.

    Args:
        rivals: opened workers; ``ours`` among them, or else all take part in all rounds.
        ours: whose ratios are wanted.
        plan: how long and how often.
        probe: looks at the machine.
        progress: told the round.
        seed: of the order.
    """
    order = random.Random(seed)
    blocks: list[Block] = []
    names = list(rivals)
    patience = _Patience(plan.patience)
    for turn in range(plan.most_rounds):
        if turn in (1, plan.first_rounds) and len(names) > 2:
            within = _CONTENDS_AFTER_ONE if turn < plan.first_rounds else _CONTENDS_WITHIN
            names = contenders(blocks, ours, within)
        if turn >= plan.rounds and comparable_rounds(blocks, ours) >= plan.rounds:
            break
        progress(f"round {turn + 1}")
        order.shuffle(names)
        blocks += _round(rivals, names, turn, plan, probe, patience)
    return blocks


class _Patience:
    """Settles the machine between blocks, and waits while something else uses it: so many seconds in all, no more."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def settle(self) -> None:
        while True:
            start, busy = time.perf_counter(), busy_seconds()
            time.sleep(_SETTLE_SECONDS)
            elapsed = time.perf_counter() - start
            if self._left <= 0 or (busy_seconds() - busy) / elapsed / (os.cpu_count() or 1) <= _QUIET_BELOW:
                return
            time.sleep(_PAUSE_SECONDS)
            self._left -= elapsed + _PAUSE_SECONDS


def _round(
    rivals: Mapping[str, Timed], names: Sequence[str], turn: int, plan: Plan, probe: Probe, patience: _Patience
) -> list[Block]:
    blocks = []
    patience.settle()
    before = probe.look()
    for name in names:
        start, busy, own = time.perf_counter(), busy_seconds(), rivals[name].cpu_seconds()
        samples = rivals[name].call("block", seconds=plan.seconds, least=plan.least)["samples_ms"]
        others = (busy_seconds() - busy) - (rivals[name].cpu_seconds() - own)
        foreign = max(0.0, others / (time.perf_counter() - start) / (os.cpu_count() or 1))
        patience.settle()
        after = probe.look()
        blocks.append(Block(name, turn, tuple(samples), (before, after), foreign))
        before = after
    return blocks
