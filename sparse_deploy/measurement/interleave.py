# SPDX-License-Identifier: Apache-2.0
"""Rounds of blocks in shuffled order, with a probe of the machine between any two blocks.

The speed of a machine drifts (frequency, other guests, page cache). If contestants were measured one after the other,
the drift would affect them differently; interleaved blocks are affected equally, and a ratio over rounds cancels it.
"""

import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from sparse_deploy.measurement.cpu_time import ForeignTime
from sparse_deploy.measurement.machine_state import Probe
from sparse_deploy.measurement.pairing import Block, clean_blocks

# A runtime's threads poll for some milliseconds after their last request before they sleep; the probe of the machine
# and the next contestant must not share the cores with them.
_SETTLE_SECONDS = 0.06
# While all contestants sleep the machine is idle, except for polling threads; this is 12 ticks of /proc/stat.
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
        """CPU time of its process so far."""
        ...


@dataclass(frozen=True)
class Contestant(Generic[Result]):
    """A timed process, which computes only during its blocks.

    Attributes:
        block: function that runs one block.
        cpu_seconds: function that returns the CPU time of its process so far.
    """

    block: Callable[[], Result]
    cpu_seconds: Callable[[], float]


@dataclass(frozen=True)
class Rounds:
    """Numbers of rounds.

    Attributes:
        wanted: required number of comparable rounds.
        most: largest number of rounds, if many blocks are disturbed or cores move.
        patience: total seconds to wait while other processes use the machine.
    """

    wanted: int
    most: int
    patience: float


class Selection(Protocol):
    """Selects the contestants of the next round, and decides whether there is one."""

    def enough(self, turn: int, blocks: Sequence[Block[Any, Any]]) -> bool:
        """Whether the blocks so far suffice; asked before each round."""
        ...

    def take_part(self, turn: int, blocks: Sequence[Block[Any, Any]], names: Sequence[Any]) -> Sequence[Any]:
        """The contestants of the next round, out of ``names``, those of the previous round."""
        ...


class Everybody:
    """Measures all contestants until each has the required number of clean blocks of one label."""

    def __init__(self, rounds: Rounds) -> None:
        self._wanted = rounds.wanted

    def enough(self, turn: int, blocks: Sequence[Block[Any, Any]]) -> bool:
        """See :class:`Selection`. Without any clean block, additional rounds are useless."""
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
    """Run all contestants in turns until enough rounds can be compared.

    Args:
        contestants: contestants by name.
        rounds: numbers of rounds.
        probe: probe of the machine's state.
        selection: selection of contestants and end of the rounds; default: :class:`Everybody`.
        progress: called before each block with the round, from 0, and the contestant.
        seed: seed of the order.
    """
    chooser = selection or Everybody(rounds)
    order = random.Random(seed)  # noqa: S311 - not a secret
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
    """Waits between blocks until the machine is idle, within a total time limit."""

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
