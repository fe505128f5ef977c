# SPDX-License-Identifier: Apache-2.0
"""The worker process of one cell, which runs requests of real text; run as :data:`MODULE`."""

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sparse_deploy.evaluation.requests import Requests, answer
from sparse_deploy.measurement.worker import Alive, BlockTimer, run_worker
from sparse_deploy.runtimes import Session, get_runtime
from sparse_deploy.runtimes.protocol import Hint, StreamingSession

MODULE = "sparse_deploy.evaluation.worker"

WARM_WINDOWS = 3
WARM_SPREAD = 0.05
_NANOSECONDS_PER_MS = 1e6
# Batches per stream and block: enough that the idle time of streams at the end of a block is a small part.
_LEAST_BATCHES_PER_STREAM = 4


class Worker:
    """One opened cell; every public method is a command.

    Args:
        alive: called regularly during long work.
    """

    def __init__(self, alive: Alive) -> None:
        self._alive = alive
        self._timer = BlockTimer(alive)
        self._open: Callable[[Hint], Session] | None = None
        self._session: Session | None = None
        self._streams: StreamingSession | None = None
        self._requests: Requests | None = None

    def open(self, runtime: str, precision: str, folder: str, threads: int, requests: str) -> dict[str, Any]:
        """Import the runtime, then time the opening of the file and the first request.

        Returns:
            ``version``, ``load_ms`` (file only, the import is done before), ``first_inference_ms``, a ``remark`` and a
            ``warning`` of the opened model, for the report.
        """
        self._requests = Requests.load(Path(requests))
        library = get_runtime(runtime)
        version = library.version()
        typical = int(np.argsort(self._requests.lengths)[len(self._requests) // 2])
        batch = self._requests.batch([typical])
        self._open = partial(library.open, Path(folder), precision, threads)
        start = time.perf_counter_ns()
        self._session = self._open("latency")
        opened = time.perf_counter_ns()
        self._session.run(batch)
        answered = time.perf_counter_ns()
        return {
            "version": version,
            "load_ms": (opened - start) / _NANOSECONDS_PER_MS,
            "first_inference_ms": (answered - opened) / _NANOSECONDS_PER_MS,
            "remark": getattr(self._session, "remark", ""),
            "warning": getattr(self._session, "warning", ""),
        }

    def predict(self, requests: str, batch_size: int, output: str, per_token: list[bool]) -> dict[str, Any]:
        """Run all requests of a file and write the outputs to an ``.npz``.

        Requests run in batches of similar length. The file has ``0``, ``1`` … per model output: all requests' values
        end to end in request order, with ``sizes`` values each.
        """

        def run(batch: dict[str, Any]) -> tuple[Any, ...]:
            outputs = self._run(batch)
            self._alive()
            return outputs

        rows = answer(run, Requests.load(Path(requests)), batch_size, per_token)
        columns = {str(k): np.concatenate(values) for k, values in enumerate(zip(*rows, strict=True))}
        np.savez(output, allow_pickle=False, sizes=np.array([len(row[0]) for row in rows]), **columns)
        return {"requests": len(rows)}

    def warm_up(self, indices: list[int], seconds: float) -> dict[str, Any]:
        """Repeat a list of requests until the medians of three consecutive passes agree, or the time is over.

        Returns:
            ``stable``: whether they agreed within 5 %; ``median_ms`` and ``mean_ms`` of the last pass; ``seconds``.
        """
        batches = self._singles(indices)
        medians: list[float] = []
        start = time.perf_counter()
        while True:
            window = [self._timed(batch) for batch in batches]
            medians.append(median(window))
            last = medians[-WARM_WINDOWS:]
            stable = len(last) == WARM_WINDOWS and max(last) <= min(last) * (1 + WARM_SPREAD)
            elapsed = time.perf_counter() - start
            self._alive()
            if stable or elapsed >= seconds:
                mean = sum(window) / len(window)
                return {"stable": stable, "median_ms": medians[-1], "mean_ms": mean, "seconds": elapsed}

    def latency(self, indices: list[int], seconds: float) -> dict[str, Any]:
        """Single-stream block: whole passes over a list of requests, one at a time, for at least this many seconds.

        Passes are complete, so that a fast and a slow cell have the same mix of lengths.

        Returns:
            ``samples_ms``: one latency per request, in order.
        """
        return {"samples_ms": self._timer.passes(self._timed, self._singles(indices), seconds)}

    def shape(self, batch: int, tokens: int, seconds: float, least: int) -> dict[str, Any]:
        """Block of one fixed shape, at least ``least`` requests.

        Returns:
            ``samples_ms``: one latency per request.
        """
        inputs = self._known_requests().shaped(batch, tokens)
        return {"samples_ms": self._timer.passes(self._timed, [inputs], seconds, least)}

    def throughput(self, batches: list[list[int]], seconds: float) -> dict[str, Any]:
        """Offline block: whole passes over a list of batches for at least this many seconds.

        Returns:
            ``examples`` and ``tokens`` (without padding), and the ``seconds``.
        """
        prepared = self._batches(batches)
        times = self._timer.passes(self._timed, prepared, seconds)
        work = {name: count * len(times) // len(prepared) for name, count in _work(prepared).items()}
        return {**work, "seconds": sum(times) / 1e3}

    def open_streams(self, batches: list[list[int]]) -> dict[str, Any]:
        """Open the file again with the throughput hint, and warm it up with one pass per stream.

        Returns:
            ``streams``: number of parallel batches.
        """
        if self._open is None:
            raise RuntimeError("no model was opened")
        session = self._open("throughput")
        if not isinstance(session, StreamingSession):
            raise TypeError("the runtime has no throughput hint")
        # Each stream allocates memory for each shape, so a batch is repeated until all streams have probably run it.
        for _ in session.run_all(batch for batch in self._batches(batches) for _ in range(session.streams)):
            self._alive()
        self._streams = session
        return {"streams": session.streams}

    def stream(self, batches: list[list[int]], seconds: float) -> dict[str, Any]:
        """Offline block in streams: whole passes, one after the other without a pause.

        Returns:
            As :meth:`throughput`; the time ends with the last answer.
        """
        if self._streams is None:
            raise RuntimeError("no streams were opened")
        prepared = self._batches(batches)
        fed: list[dict[str, Any]] = []

        def passes() -> Iterator[dict[str, Any]]:
            while True:
                for batch in prepared:
                    fed.append(batch)
                    yield batch
                if len(fed) >= least and time.perf_counter() >= deadline:
                    return

        least = _LEAST_BATCHES_PER_STREAM * self._streams.streams
        start = time.perf_counter()
        deadline = start + seconds
        for _ in self._streams.run_all(passes()):
            self._alive()
        return {**_work(fed), "seconds": time.perf_counter() - start}

    def rss(self) -> dict[str, Any]:
        """Resident memory now and at its peak, in bytes."""
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        return {"rss_bytes": resident_pages * resource.getpagesize(), "peak_bytes": peak}

    def _timed(self, batch: dict[str, Any]) -> float:
        return self._timer.time(lambda: self._run(batch))

    def _run(self, batch: dict[str, Any]) -> tuple[Any, ...]:
        if self._session is None:
            raise RuntimeError("no model was opened")
        return self._session.run(batch)

    def _singles(self, indices: list[int]) -> list[dict[str, Any]]:
        return self._batches([[index] for index in indices])

    def _batches(self, batches: list[list[int]]) -> list[dict[str, Any]]:
        requests = self._known_requests()
        return [requests.batch(indices) for indices in batches]

    def _known_requests(self) -> Requests:
        if self._requests is None:
            raise RuntimeError("no model was opened")
        return self._requests


def _work(batches: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Examples and tokens of batches, without padding."""
    sizes = [(inputs["input_ids"].shape[0], int(inputs["attention_mask"].sum())) for inputs in batches]
    return {"examples": sum(examples for examples, _ in sizes), "tokens": sum(tokens for _, tokens in sizes)}


COMMANDS = ("open", "predict", "warm_up", "latency", "shape", "throughput", "open_streams", "stream", "rss")


if __name__ == "__main__":
    run_worker(Worker, COMMANDS)
