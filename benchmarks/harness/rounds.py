# SPDX-License-Identifier: Apache-2.0
"""Rounds of measurement; after the first ones only the baselines that may be the best are measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from harness.rivals import Block, comparable_rounds, contenders
from sparse_deploy.measurement.interleave import Contestant, Rounds, Worker
from sparse_deploy.measurement.interleave import run_rounds as interleave
from sparse_deploy.measurement.machine_state import Probe

Progress = Callable[[str], None]
# A baseline slower than the best by this factor is dropped: after the first round, and after the first few.
_CONTENDS_AFTER_ONE, _CONTENDS_WITHIN = 1.6, 1.25


@dataclass(frozen=True)
class Plan:
    """Number and length of blocks.

    Attributes:
        rounds: required number of rounds with clean blocks of both candidate and best baseline.
        first_rounds: rounds with all baselines near the best; later rounds have only those that may be the best.
        seconds: length of a block.
        least: minimum number of requests in a block, independent of their time.
        patience: total seconds to wait while other processes use the machine.
    """

    rounds: int = 12
    first_rounds: int = 3
    seconds: float = 0.4
    least: int = 2
    patience: float = 60.0

    @property
    def most_rounds(self) -> int:
        """Maximum number of rounds, if the machine changes its state often: twice ``rounds``."""
        return 2 * self.rounds


@dataclass(frozen=True)
class NearTheBest:
    """A :class:`~sparse_deploy.measurement.interleave.Selection`: the candidate and the baselines that may be the best.

    Attributes:
        ours: name of the candidate.
        plan: number and length of blocks.
    """

    ours: str
    plan: Plan

    def enough(self, turn: int, blocks: Sequence[Block]) -> bool:
        """Whether the required number of rounds can be compared."""
        return turn >= self.plan.rounds and comparable_rounds(blocks, self.ours) >= self.plan.rounds

    def take_part(self, turn: int, blocks: Sequence[Block], names: Sequence[str]) -> Sequence[str]:
        """The names to measure next: all, except after the first round and after the first few."""
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
    """Time all runtimes in turns until enough rounds can be compared.

    Args:
        rivals: opened workers; without ``ours`` among them, all are measured in all rounds.
        ours: name of the candidate.
        plan: number and length of blocks.
        probe: measures the state of the machine.
        progress: called with a message in each round.
        seed: seed of the order.
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
