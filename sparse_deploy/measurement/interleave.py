# SPDX-License-Identifier: Apache-2.0
"""Rounds of blocks in shuffled order, with a look at the machine between any two.

A machine drifts (frequency, neighbours, page cache). When contestants run one after the other, the drift counts for
some and against others; blocks of all contestants side by side carry it equally, and a ratio over rounds cancels it.
"""

import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from sparse_deploy.measurement.cpu_time import ForeignTime
from sparse_deploy.measurement.machine_state import Probe
from sparse_deploy.measurement.pairing import Block, clean_blocks

# A runtime's threads poll for some milliseconds after their last request before they sleep; the look at the machine
# and the next contestant must not share the cores with them.
_SETTLE_SECONDS = 0.06
# While all contestants sleep the machine idles, but for threads that still poll; /proc/stat has 12 ticks in that time.
_QUIET_BELOW = 0.3
_PAUSE_SECONDS = 0.3

Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)


class Worker(Protocol):
    """The process of a contestant: :class:`sparse_deploy.measurement.worker_process.WorkerProcess`."""

    def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Run a worker's command."""
        ...

    def cpu_seconds(self) -> float:
        """CPU time that its process used so far."""
        ...


@dataclass(frozen=True)
class Contestant(Generic[Result]):
    """Something that is timed: a process that works only while its block runs.

    Attributes:
        block: runs one block.
        cpu_seconds: CPU time that its process used so far.
    """

    block: Callable[[], Result]
    cpu_seconds: Callable[[], float]


@dataclass(frozen=True)
class Rounds:
    """How many rounds.

    Attributes:
        wanted: rounds that can be compared.
        most: where to give up when other processes use the machine, or its cores move, too often.
        patience: seconds to wait, in all, while something else uses the machine.
    """

    wanted: int
    most: int
    patience: float


class Selection(Protocol):
    """Who takes part in the next round, and whether there is need for one."""

    def enough(self, turn: int, blocks: Sequence[Block[Any, Any]]) -> bool:
        """Whether the blocks so far suffice; asked before each round."""
        ...

    def take_part(self, turn: int, blocks: Sequence[Block[Any, Any]], names: Sequence[Any]) -> Sequence[Any]:
        """Those of ``names``, the contestants of the round before, that go on."""
        ...


class Everybody:
    """All contestants take part until each has so many clean blocks of one label."""

    def __init__(self, rounds: Rounds) -> None:
        self._wanted = rounds.wanted

    def enough(self, turn: int, blocks: Sequence[Block[Any, Any]]) -> bool:
        """See :class:`Selection`. Where no block at all was clean, more of them would be no better."""
        if turn < self._wanted:
            return False
        clean = clean_blocks(blocks)
        if not clean:
            return True
        names = {block.contestant for block in blocks}
        chosen = max(clean.values(), key=len)
        return all(sum(block.contestant == name for block in chosen) >= self._wanted for name in names)

    def take_part(self, turn: int, blocks: Sequence[Block[Any, Any]], names: Sequence[Any]) -> Sequence[Any]:
        """See :class:`Selection`."""
        return names


def run_rounds(
    contestants: Mapping[Key, Contestant[Result]],
    rounds: Rounds,
    probe: Probe,
    selection: Selection | None = None,
    progress: Callable[[int, Key], None] = lambda turn, name: None,
    seed: int = 0,
) -> list[Block[Key, Result]]:
    """Run all contestants in turn until enough rounds can be compared.

    Args:
        contestants: by name.
        rounds: how many.
        probe: looks at the machine.
        selection: who goes on, and until when; :class:`Everybody` when omitted.
        progress: told the round, from 0, and the contestant before each block.
        seed: of the order.
    """
    chooser = selection or Everybody(rounds)
    order = random.Random(seed)  # noqa: S311 - an order, no secret
    blocks: list[Block[Key, Result]] = []
    names = list(contestants)
    patience = _Patience(rounds.patience)
    for turn in range(rounds.most):
        if chooser.enough(turn, blocks):
            break
        names = list(chooser.take_part(turn, blocks, names))
        order.shuffle(names)
        patience.settle()
        before = probe.look()
        for name in names:
            progress(turn, name)
            foreign = ForeignTime(contestants[name].cpu_seconds)
            result = contestants[name].block()
            share = foreign.share
            patience.settle()
            after = probe.look()
            blocks.append(Block(name, turn, result, (before, after), share))
            before = after
    return blocks


class _Patience:
    """Settles the machine between blocks, and waits while something else uses it: so many seconds in all, no more."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def settle(self) -> None:
        while True:
            foreign = ForeignTime(lambda: 0.0)
            time.sleep(_SETTLE_SECONDS)
            if self._left <= 0 or foreign.share <= _QUIET_BELOW:
                return
            time.sleep(_PAUSE_SECONDS)
            self._left -= _SETTLE_SECONDS + _PAUSE_SECONDS
