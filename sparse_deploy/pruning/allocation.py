# SPDX-License-Identifier: Apache-2.0
"""Choose a share of zeros for each matrix: steps with the least harm per gain first."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Gain = Literal["zeros", "time"]


@dataclass(frozen=True)
class Option:
    """A possible share of zeros of a matrix.

    Attributes:
        share: share of zero weights.
        harm: measured or predicted change of the model's answers; adds up over matrices.
        zeros: number of zero weights.
        time: predicted time of its product, in multiply-adds of the dense kernel.
    """

    share: float
    harm: float
    zeros: int
    time: float


Chosen = dict[str, Option]


def allocate(options: Mapping[str, Sequence[Option]], gain: Gain, enough: Callable[[Chosen], bool]) -> Chosen | None:
    """Raise shares step by step until it is enough.

    A step moves one matrix from its option to the later option with the least harm per gain, so that concave runs of
    options are skipped.

    Args:
        options: options of each matrix, densest first.
        gain: the gain for the ranking of steps: more zeros, or less time.
        enough: whether the goal is met.

    Returns:
        An option for each matrix; None if the last options are not enough.
    """
    chosen = {name: steps[0] for name, steps in options.items()}
    queue = [step for name in options if (step := _next_step(name, options[name], 0, gain)) is not None]
    heapq.heapify(queue)
    while not enough(chosen):
        if not queue:
            return None
        _, name, place = heapq.heappop(queue)
        chosen[name] = options[name][place]
        if (step := _next_step(name, options[name], place, gain)) is not None:
            heapq.heappush(queue, step)
    return chosen


def zero_share(chosen: Chosen, weights: Mapping[str, int]) -> float:
    """Share of zeros over all weights."""
    return sum(option.zeros for option in chosen.values()) / sum(weights.values())


def speed_up(chosen: Chosen, options: Mapping[str, Sequence[Option]]) -> float:
    """Predicted time of the dense products divided by that of the chosen options."""
    return sum(row[0].time for row in options.values()) / sum(option.time for option in chosen.values())


def _next_step(name: str, options: Sequence[Option], place: int, gain: Gain) -> tuple[float, str, int] | None:
    now = options[place]
    steps = []
    for further in range(place + 1, len(options)):
        option = options[further]
        gained = option.zeros - now.zeros if gain == "zeros" else now.time - option.time
        if gained > 0:
            steps.append((max(option.harm - now.harm, 0.0) / gained, name, further))
    return min(steps, default=None)
