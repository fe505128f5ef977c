# SPDX-License-Identifier: Apache-2.0
"""The timings of ``bench``, in interleaved rounds: single requests, fixed shapes, and offline batches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TypeVar

from sparse_deploy.data.batches import sorted_batches
from sparse_deploy.evaluation.requests import Requests, length_mix, spread_batches
from sparse_deploy.measurement.interleave import Contestant, Rounds, Worker, run_rounds
from sparse_deploy.measurement.machine_state import Probe
from sparse_deploy.measurement.pairing import Counted, counted_blocks

Progress = Callable[[str, float], None]
Samples = list[float]
ThroughputBlock = tuple[int, int, float]
_Job = tuple[str, str]  # the cell and the command of its worker
Result = TypeVar("Result")

_PROBE_REQUESTS = 8
_LEAST_REQUESTS, _MOST_REQUESTS = 20, 500
_LEAST_BATCHES = 3
_LEAST_SHAPE_REQUESTS = 5
# Additional rounds for disturbed blocks and blocks with moved cores: half the planned number.
_SPARE_ROUNDS = 0.5


@dataclass(frozen=True)
class TimingPlan:
    """Settings of the measurement; most fields are those of the recipe's ``bench`` section.

    Attributes:
        batch_size: examples per batch of the offline scenario.
        shapes: extra fixed shapes, ``(batch, tokens)``.
        seed: seed of the request mix.
        streamed: cells whose offline scenario is also measured with the throughput hint.
    """

    blocks: int
    block_seconds: float
    warmup_seconds: float
    batch_size: int
    shapes: tuple[tuple[int, int], ...] = ()
    seed: int = 0
    streamed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Timings:
    """The blocks of one cell.

    Attributes:
        latency: milliseconds per request of each block.
        throughput: examples, tokens, seconds of each offline block.
        streamed: the same with the throughput hint, if measured.
        shapes: as ``latency``, by ``(batch, tokens)``.
        settled: whether the warm-up became stable within its time limit.
        rss_bytes: resident memory after the warm-up.
        streams: number of parallel batches in ``streamed``.
    """

    latency: Counted[Samples]
    throughput: Counted[ThroughputBlock]
    streamed: Counted[ThroughputBlock] | None
    shapes: Mapping[tuple[int, int], Counted[Samples]]
    settled: bool
    rss_bytes: int
    streams: int


@dataclass(frozen=True)
class TimedRun:
    """The blocks of all cells and the work of each block.

    Attributes:
        cells: blocks by cell id.
        mix_size: requests per pass of a latency block.
        batches: batches per pass of an offline block.
        no_labels: reason why the distance of the cores is unknown; empty if it is known.
    """

    cells: dict[str, Timings]
    mix_size: int
    batches: int
    no_labels: str


def time_rivals(
    rivals: Mapping[str, Worker],
    requests: Requests,
    plan: TimingPlan,
    progress: Progress = lambda message, share: None,
) -> TimedRun:
    """Measure all cells on the same requests.

    Args:
        rivals: opened workers by cell id.
        requests: the requests that the workers opened with.
        plan: settings of the measurement.
        progress: called with a message and a share between 0 and 1.

    Raises:
        WorkerError: a worker ended or hung.
    """
    return _Timing(rivals, requests, plan, progress).run()


class _Timing:
    """One run over all cells; the arguments are those of :func:`time_rivals`."""

    def __init__(self, rivals: Mapping[str, Worker], requests: Requests, plan: TimingPlan, progress: Progress) -> None:
        self._rivals, self._requests, self._plan, self._progress = rivals, requests, plan, progress
        self._probe = Probe()
        self._rounds = Rounds(
            wanted=plan.blocks,
            most=plan.blocks + ceil(_SPARE_ROUNDS * plan.blocks),
            # The duration of one cell's blocks, which limits the delay on a machine that is never quiet.
            patience=plan.blocks * plan.block_seconds,
        )
        self._steps = _Steps(progress, plan.blocks * (len(rivals) * (2 + len(plan.shapes)) + len(plan.streamed)))

    def run(self) -> TimedRun:
        settled, slowest_ms = self._warm_up()
        mix = self._mix(slowest_ms)
        resident = self._see_every_length(mix)
        latency = self._samples("latency", indices=mix)
        shapes = {shape: self._shape(*shape) for shape in self._plan.shapes}
        batches = self._offline_batches()
        offline, streams = self._offline(batches)
        cells = {
            cell: Timings(
                latency=latency[cell, "latency"],
                throughput=offline[cell, "throughput"],
                streamed=offline.get((cell, "stream")),
                shapes={shape: found[cell, "shape"] for shape, found in shapes.items()},
                settled=settled[cell],
                rss_bytes=resident[cell],
                streams=streams.get(cell, 0),
            )
            for cell in self._rivals
        }
        return TimedRun(cells, len(mix), len(batches), self._probe.reason)

    def _warm_up(self) -> tuple[dict[str, bool], float]:
        """Whether each cell became stable, and the mean milliseconds of the slowest cell."""
        probe = length_mix(self._requests.lengths, _PROBE_REQUESTS, self._plan.seed)
        settled: dict[str, bool] = {}
        slowest_ms = 0.0
        for number, (cell, rival) in enumerate(self._rivals.items()):
            self._progress(f"warm-up {cell}", number / len(self._rivals))
            result = rival.call("warm_up", indices=probe, seconds=self._plan.warmup_seconds)
            settled[cell] = result["stable"]
            slowest_ms = max(slowest_ms, result["mean_ms"])
        return settled, slowest_ms

    def _mix(self, slowest_ms: float) -> list[int]:
        """The requests of a pass: the number for which the slowest cell needs about one block."""
        wanted = int(self._plan.block_seconds * 1000 / slowest_ms)
        count = min(max(wanted, _LEAST_REQUESTS), _MOST_REQUESTS)
        return length_mix(self._requests.lengths, count, self._plan.seed)

    def _see_every_length(self, mix: list[int]) -> dict[str, int]:
        """Run an unrecorded pass; return the resident memory after it."""
        for rival in self._rivals.values():
            rival.call("latency", indices=mix, seconds=0.0)
        return {cell: rival.call("rss")["rss_bytes"] for cell, rival in self._rivals.items()}

    def _samples(self, command: str, **arguments: object) -> dict[_Job, Counted[Samples]]:
        """Rounds of a command whose blocks are milliseconds per request."""

        def block(rival: Worker) -> Samples:
            found: Samples = rival.call(command, **arguments, seconds=self._plan.block_seconds)["samples_ms"]
            return found

        return self._interleave({(cell, command): partial(block, rival) for cell, rival in self._rivals.items()})

    def _shape(self, batch: int, tokens: int) -> dict[_Job, Counted[Samples]]:
        arguments = {"batch": batch, "tokens": tokens, "least": _LEAST_SHAPE_REQUESTS}
        for rival in self._rivals.values():  # unrecorded: the first request of a shape compiles or allocates
            rival.call("shape", **arguments, seconds=0.0)
        return self._samples("shape", **arguments)

    def _offline_batches(self) -> list[list[int]]:
        """The batches of a pass, from short to long: the number for which the slowest cell needs about one block."""
        batches = sorted_batches(self._requests.lengths, self._plan.batch_size)
        probe = spread_batches(batches, 1)
        slowest = max(
            rival.call("throughput", batches=probe, seconds=0.0)["seconds"] for rival in self._rivals.values()
        )
        return spread_batches(batches, max(int(self._plan.block_seconds / slowest), _LEAST_BATCHES))

    def _offline(self, batches: list[list[int]]) -> tuple[dict[_Job, Counted[ThroughputBlock]], dict[str, int]]:
        """The offline blocks; a cell with the throughput hint is measured in addition to the same cell without it.

        They run last, because they open the sessions of the streams in the same workers, after the measurement of
        memory and latency.

        Returns:
            The blocks, and the number of streams by cell.
        """
        longest_first = batches[::-1]  # short batches last, so that no stream is idle for long
        streams = {
            cell: int(rival.call("open_streams", batches=longest_first)["streams"])
            for cell, rival in self._rivals.items()
            if cell in self._plan.streamed
        }

        def block(rival: Worker, command: str) -> ThroughputBlock:
            work = longest_first if command == "stream" else batches
            result = rival.call(command, batches=work, seconds=self._plan.block_seconds)
            return (result["examples"], result["tokens"], result["seconds"])

        jobs = [(cell, command) for cell in self._rivals for command in self._offline_commands(cell)]
        found = self._interleave(
            {(cell, command): partial(block, self._rivals[cell], command) for cell, command in jobs}
        )
        return found, streams

    def _offline_commands(self, cell: str) -> tuple[str, ...]:
        return ("throughput", "stream") if cell in self._plan.streamed else ("throughput",)

    def _interleave(self, blocks: Mapping[_Job, Callable[[], Result]]) -> dict[_Job, Counted[Result]]:
        contestants = {job: Contestant(block, self._rivals[job[0]].cpu_seconds) for job, block in blocks.items()}

        def progress(turn: int, job: _Job) -> None:
            command = "throughput" if job[1] == "stream" else job[1]  # one round has blocks of both
            self._steps.next(command, turn, self._plan.blocks)

        found = run_rounds(contestants, self._rounds, self._probe, None, progress, self._plan.seed)
        return counted_blocks(found)


class _Steps:
    """Counts blocks for the progress display.

    Additional rounds replace rounds that other processes disturbed. They do not count, because their number is not
    known in advance.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def next(self, command: str, turn: int, planned: int) -> None:
        spare = turn >= planned
        message = f"{command}, one more round" if spare else f"{command}, round {turn + 1}/{planned}"
        self._progress(message, self._done / self._total)
        self._done += not spare
