# SPDX-License-Identifier: Apache-2.0
"""Comparisons of interleaved blocks: the blocks that count, and ratios over rounds. Pure functions."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Generic, TypeVar

import numpy as np

from sparse_deploy.measurement.cpu_time import FOREIGN_ABOVE
from sparse_deploy.measurement.machine_state import MIXED, State, disturbed, label
from sparse_deploy.measurement.statistics import percentile
from sparse_deploy.results import Conditions, Ratio

CONFIDENCE = 0.95
RESAMPLES = 2000
# Blocks are dropped from a comparison only if at least this number of blocks remains.
_LEAST_COUNTED = 2

Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Block(Generic[Key, Result]):
    """One block of one contestant.

    Attributes:
        contestant: name of the contestant.
        turn: round of the block; blocks of one round run one after the other.
        result: the measurement, such as one latency per request.
        states: state of the machine before and after the block.
        foreign: share of all CPU time used by other processes during the block.
    """

    contestant: Key
    turn: int
    result: Result
    states: tuple[State, ...]
    foreign: float = 0.0


@dataclass(frozen=True)
class Counted(Generic[Result]):
    """The blocks of one contestant that count for its figures.

    Attributes:
        blocks: in the order of their rounds.
        conditions: number of measured blocks, and reasons why some do not count.
        measured: all blocks, including those that do not count.
    """

    blocks: tuple[Block[Any, Result], ...]
    conditions: Conditions
    measured: tuple[Block[Any, Result], ...]

    @property
    def results(self) -> list[Result]:
        """The measurements of the blocks."""
        return [block.result for block in self.blocks]


def clean_blocks(blocks: Sequence[Block[Key, Result]]) -> dict[str, list[Block[Key, Result]]]:
    """The blocks that may be compared, by label.

    A block is dropped if the label changed during it, or if other processes used the CPUs. The undisturbed rate is the
    upper quartile of all samples of the run.
    """
    reference = _undisturbed_rate(blocks)
    found: dict[str, list[Block[Key, Result]]] = {}
    for block in blocks:
        name = label(block.states)
        if name != MIXED and not _is_disturbed(block, reference):
            found.setdefault(name, []).append(block)
    return found


def counted_blocks(blocks: Sequence[Block[Key, Result]]) -> dict[Key, Counted[Result]]:
    """The blocks for each contestant's figures: the clean blocks of its most frequent label.

    A contestant with fewer than two such blocks keeps all of its blocks; in its conditions ``counted`` then equals
    ``measured``, although some blocks were disturbed.
    """
    clean = clean_blocks(blocks)
    chosen = max(clean, key=lambda name: len(clean[name]), default=MIXED)
    reference = _undisturbed_rate(blocks)
    grouped: dict[Key, list[Block[Key, Result]]] = {}
    for block in blocks:
        grouped.setdefault(block.contestant, []).append(block)
    found: dict[Key, Counted[Result]] = {}
    for contestant, own in grouped.items():
        counts = [block for block in clean.get(chosen, ()) if block.contestant == contestant]
        labels = Counter(label(block.states) for block in own)
        used = counts if len(counts) >= min(_LEAST_COUNTED, len(own)) else own
        conditions = Conditions(
            cores=chosen if used is counts else next(iter(labels)) if len(labels) == 1 else MIXED,
            measured=len(own),
            counted=len(used),
            disturbed=sum(_is_disturbed(block, reference) for block in own),
            moved=sum(label(block.states) != chosen and not _is_disturbed(block, reference) for block in own),
        )
        found[contestant] = Counted(tuple(used), conditions, tuple(own))
    return found


def ratio_over_rounds(
    numerator: Counted[Result], denominator: Counted[Result], figure: Callable[[Result], float], *, seed: int
) -> Ratio:
    """The :func:`paired_ratio` of a figure of the blocks, over the rounds in which both blocks count.

    With fewer than two such rounds it is computed over all rounds.

    Raises:
        ValueError: no round has blocks of both.
    """
    pairs = [
        [{block.turn: figure(block.result) for block in blocks} for blocks in sides]
        for sides in ((numerator.blocks, denominator.blocks), (numerator.measured, denominator.measured))
    ]
    above, below = pairs[0] if len(pairs[0][0].keys() & pairs[0][1].keys()) >= _LEAST_COUNTED else pairs[1]
    ratio = paired_ratio(above, below, seed=seed)
    if ratio is None:
        raise ValueError("blocks must be paired; no round has blocks of both")
    return ratio


def paired_ratio(numerators: Mapping[int, float], denominators: Mapping[int, float], *, seed: int = 0) -> Ratio | None:
    """Median over rounds of the ratio of two figures, with the interval of a percentile bootstrap over the rounds.

    Whole rounds are resampled, because the two blocks of a round ran under equal conditions: a slow machine then
    cancels. Requests inside a block are not resampled, because they are not independent.

    Args:
        numerators: figure by round.
        denominators: figure of the other contestant by round.
        seed: seed of the resampling.

    Returns:
        None if no round has both.
    """
    turns = sorted(numerators.keys() & denominators.keys())
    if not turns:
        return None
    ratios = np.array([numerators[turn] / denominators[turn] for turn in turns])
    draws = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    estimates = np.median(ratios[draws], axis=1)
    tail = (1 - CONFIDENCE) / 2 * 100
    return Ratio(
        value=float(np.median(ratios)),
        low=percentile(estimates, tail),
        high=percentile(estimates, 100 - tail),
        confidence=CONFIDENCE,
    )


def middle_ms(blocks: Sequence[Block[Any, tuple[float, ...]]]) -> float:
    """Median over blocks of the medians of their samples."""
    return median(median(block.result) for block in blocks)


def _undisturbed_rate(blocks: Sequence[Block[Key, Result]]) -> float:
    rates = [state.work_rate for block in blocks for state in block.states if state.work_rate is not None]
    return percentile(rates, 75) if rates else 0.0


def _is_disturbed(block: Block[Key, Result], reference: float) -> bool:
    return block.foreign > FOREIGN_ABOVE or disturbed(block.states, reference)
