# SPDX-License-Identifier: Apache-2.0
"""Rounds in which only the rivals that may be the best go on: the rest would cost time and change no ratio."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from harness.rivals import Block, comparable_rounds, contenders
from sparse_deploy.measurement.interleave import Contestant, Rounds, Worker
from sparse_deploy.measurement.interleave import run_rounds as interleave
from sparse_deploy.measurement.machine_state import Probe

Progress = Callable[[str], None]
# A rival slower than this many times the best one gets no more rounds: after the first one, and after the first few.
_CONTENDS_AFTER_ONE, _CONTENDS_WITHIN = 1.6, 1.25


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


@dataclass(frozen=True)
class NearTheBest:
    """Ours and the rivals that may still turn out the best; a :class:`~sparse_deploy.measurement.interleave.Selection`.

    Attributes:
        ours: whose ratios are wanted.
        plan: how often.
    """

    ours: str
    plan: Plan

    def enough(self, turn: int, blocks: Sequence[Block]) -> bool:
        """Whether so many rounds can be compared as are wanted."""
        return turn >= self.plan.rounds and comparable_rounds(blocks, self.ours) >= self.plan.rounds

    def take_part(self, turn: int, blocks: Sequence[Block], names: Sequence[str]) -> Sequence[str]:
        """The names that go on: all, but after the first round and after the first few."""
        if turn not in (1, self.plan.first_rounds) or len(names) <= 2:
            return names
        within = _CONTENDS_AFTER_ONE if turn < self.plan.first_rounds else _CONTENDS_WITHIN
        return contenders(blocks, self.ours, within)


def run_rounds(
    rivals: Mapping[str, Worker],
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

    def block(rival: Worker) -> tuple[float, ...]:
        return tuple(rival.call("block", seconds=plan.seconds, least=plan.least)["samples_ms"])

    contestants = {name: Contestant(partial(block, rival), rival.cpu_seconds) for name, rival in rivals.items()}
    return interleave(
        contestants,
        Rounds(plan.rounds, plan.most_rounds, plan.patience),
        probe,
        NearTheBest(ours, plan),
        lambda turn, name: progress(f"round {turn + 1}"),
        seed,
    )
