# SPDX-License-Identifier: Apache-2.0
"""Timing of rivals in interleaved blocks: A B C, B C A, C A B …, one worker awake at a time.

A machine drifts (frequency, neighbours, page cache). When rivals run one after the other the drift counts for some and
against others; blocks of all rivals side by side carry it equally, and a ratio over paired blocks cancels it.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sparse_deploy.evaluation.requests import Requests, length_mix, sorted_batches, spread_batches

Progress = Callable[[str, float], None]
ThroughputBlock = tuple[int, int, float]
Contestant = TypeVar("Contestant")

_PROBE_REQUESTS = 8
_LEAST_REQUESTS, _MOST_REQUESTS = 20, 500
_LEAST_BATCHES = 3
_LEAST_SHAPE_REQUESTS = 5
# A runtime's threads poll for a few milliseconds after their last request before they sleep; the next rival must not
# share the cores with them.
_SETTLE_SECONDS = 0.05


class Rival(Protocol):
    """What is timed: :class:`sparse_deploy.evaluation.supervisor.WorkerProcess`."""

    def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Run a worker's command."""
        ...


@dataclass(frozen=True)
class TimingPlan:
    """How to measure; most fields are those of the recipe's ``bench`` section.

    Attributes:
        batch_size: examples per batch of the offline scenario.
        shapes: extra fixed shapes, ``(batch, tokens)``.
        seed: of the request mix.
        streamed: cells whose offline scenario is also measured with the throughput hint.
    """

    blocks: int
    block_seconds: float
    warmup_seconds: float
    batch_size: int
    shapes: tuple[tuple[int, int], ...] = ()
    seed: int = 0
    streamed: frozenset[str] = frozenset()


@dataclass
class Timings:
    """Raw blocks of one cell.

    Attributes:
        settled: whether the warm-up became stable before its time was over.
        rss_bytes: resident memory after the warm-up.
        latency: milliseconds per request, one list per block.
        throughput: examples, tokens, seconds of each offline block.
        streamed: the same with the throughput hint, where that is measured.
        streams: batches at the same time in ``streamed``.
        shapes: as ``latency``, by ``(batch, tokens)``.
    """

    settled: bool = False
    rss_bytes: int = 0
    latency: list[list[float]] = field(default_factory=list)
    throughput: list[ThroughputBlock] = field(default_factory=list)
    streamed: list[ThroughputBlock] = field(default_factory=list)
    streams: int = 0
    shapes: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class TimedRun:
    """All rivals' blocks and the work that each block consisted of.

    Attributes:
        cells: by cell id.
        mix_size: requests per pass of a latency block.
        batches: batches per pass of an offline block.
    """

    cells: dict[str, Timings]
    mix_size: int
    batches: int


def time_rivals(
    rivals: Mapping[str, Rival],
    requests: Requests,
    plan: TimingPlan,
    progress: Progress = lambda message, share: None,
) -> TimedRun:
    """Measure all rivals on the same requests.

    Args:
        rivals: opened workers by cell id.
        requests: the requests that the workers opened with.
        plan: how long and how often.
        progress: called with a message and a share between 0 and 1.

    Raises:
        WorkerError: a worker died or hung.
    """
    cells = {cell: Timings(shapes={shape: [] for shape in plan.shapes}) for cell in rivals}
    mix = _warm_up(rivals, cells, requests, plan, progress)
    steps = _Steps(progress, plan.blocks * (len(rivals) * (2 + len(plan.shapes)) + len(plan.streamed)))

    for cell in _turns(rivals, plan.blocks):
        steps.next(f"latency {cell}")
        result = rivals[cell].call("latency", indices=mix, seconds=plan.block_seconds)
        cells[cell].latency.append(result["samples_ms"])

    for batch, tokens in plan.shapes:
        for rival in rivals.values():  # unrecorded: the first request of a shape compiles or allocates
            rival.call("shape", batch=batch, tokens=tokens, seconds=0.0, least=_LEAST_SHAPE_REQUESTS)
        for cell in _turns(rivals, plan.blocks):
            steps.next(f"shape {batch}x{tokens} {cell}")
            result = rivals[cell].call(
                "shape", batch=batch, tokens=tokens, seconds=plan.block_seconds, least=_LEAST_SHAPE_REQUESTS
            )
            cells[cell].shapes[batch, tokens].append(result["samples_ms"])

    batches = _offline_batches(rivals, requests, plan)
    _time_offline(rivals, cells, batches, plan, steps)
    return TimedRun(cells, len(mix), len(batches))


def _warm_up(
    rivals: Mapping[str, Rival],
    cells: Mapping[str, Timings],
    requests: Requests,
    plan: TimingPlan,
    progress: Progress,
) -> list[int]:
    """Warm every rival up and size the mix so that the slowest needs about one block for a pass."""
    probe = length_mix(requests.lengths, _PROBE_REQUESTS, plan.seed)
    slowest_ms = 0.0
    for number, (cell, rival) in enumerate(rivals.items()):
        progress(f"warm-up {cell}", number / len(rivals))
        result = rival.call("warm_up", indices=probe, seconds=plan.warmup_seconds)
        cells[cell].settled = result["stable"]
        slowest_ms = max(slowest_ms, result["mean_ms"])
    wanted = int(plan.block_seconds * 1000 / slowest_ms)
    mix = length_mix(requests.lengths, min(max(wanted, _LEAST_REQUESTS), _MOST_REQUESTS), plan.seed)
    for cell, rival in rivals.items():
        rival.call("latency", indices=mix, seconds=0.0)  # one unrecorded pass: every length was seen once
        cells[cell].rss_bytes = rival.call("rss")["rss_bytes"]
    return mix


def _offline_batches(rivals: Mapping[str, Rival], requests: Requests, plan: TimingPlan) -> list[list[int]]:
    """The batches of a pass: from short to long, as many as the slowest rival answers in about one block."""
    batches = sorted_batches(requests.lengths, plan.batch_size)
    probe = spread_batches(batches, 1)
    slowest = max(rival.call("throughput", batches=probe, seconds=0.0)["seconds"] for rival in rivals.values())
    return spread_batches(batches, max(int(plan.block_seconds / slowest), _LEAST_BATCHES))


def _time_offline(
    rivals: Mapping[str, Rival],
    cells: Mapping[str, Timings],
    batches: list[list[int]],
    plan: TimingPlan,
    steps: "_Steps",
) -> None:
    """The offline blocks: a cell with the throughput hint is a rival of its own, beside itself with the latency hint.

    It comes last, because the sessions of the streams are opened for it in the workers whose memory and latency were
    measured before.
    """
    longest_first = batches[::-1]  # streams end with short batches, so that none is idle for long
    contestants = [(cell, command) for cell in rivals for command in _offline_commands(cell, plan)]
    for cell, command in contestants:
        if command == "stream":
            cells[cell].streams = rivals[cell].call("open_streams", batches=longest_first)["streams"]
    for cell, command in _turns(contestants, plan.blocks):
        steps.next(f"{command} {cell}")
        streamed = command == "stream"
        work = longest_first if streamed else batches
        result = rivals[cell].call(command, batches=work, seconds=plan.block_seconds)
        blocks = cells[cell].streamed if streamed else cells[cell].throughput
        blocks.append((result["examples"], result["tokens"], result["seconds"]))


def _offline_commands(cell: str, plan: TimingPlan) -> tuple[str, ...]:
    return ("throughput", "stream") if cell in plan.streamed else ("throughput",)


def _turns(rivals: Iterable[Contestant], blocks: int) -> list[Contestant]:
    """Whose turn it is, block by block; the order rotates, so that nobody always follows the same rival."""
    order = list(rivals)
    return [rival for block in range(blocks) for rival in order[block % len(order) :] + order[: block % len(order)]]


class _Steps:
    """Counts blocks for the progress display and lets the machine settle before each."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def next(self, message: str) -> None:
        self._progress(message, self._done / self._total)
        self._done += 1
        time.sleep(_SETTLE_SECONDS)
