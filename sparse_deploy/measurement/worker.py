# SPDX-License-Identifier: Apache-2.0
"""The worker's side: a process that opens one model, then runs JSON-line commands of its parent until stdin ends.

Each contestant has a process, so that thread pools, allocators and memory of runtimes are separate.
Each answer is one line: ``{"result": …}`` or ``{"error": …}``; a long command sends ``{"alive": true}`` in between.

Workers import only the modules that they need: their resident memory is one of the reported figures.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TextIO, TypeVar

from sparse_deploy.errors import SparseDeployError
from sparse_deploy.runtimes.child_process import end_with_parent

Alive = Callable[[], None]
Item = TypeVar("Item")

_ALIVE_SECONDS = 1.0
# At the start of a block the caches have data of the previous process. So the first requests of a block do not count:
# this many, or as many as fit into this time.
_REFILL_REQUESTS, _REFILL_SECONDS = 3, 0.04
# The effect is negligible for longer requests: filling the caches takes about 2 ms.
_REFILL_BELOW_MS = 300.0


class BlockTimer:
    """Times single requests, and blocks of requests.

    Args:
        alive: called after each request.
    """

    def __init__(self, alive: Alive) -> None:
        self._alive = alive
        self._last_ms = 0.0

    def time(self, request: Callable[[], object]) -> float:
        """Milliseconds of one request."""
        start = time.perf_counter_ns()
        request()
        return self._done((time.perf_counter_ns() - start) / 1e6)

    def passes(
        self, measure: Callable[[Item], float], items: Sequence[Item], seconds: float, least: int = 1
    ) -> list[float]:
        """Complete passes over some requests, until the time is over and there are enough requests.

        Passes are complete, so that a fast and a slow contestant run the same mix.

        Args:
            measure: function that returns the milliseconds of one request, such as :meth:`time`.
            items: the requests of a pass.
            seconds: minimum duration of the block.
            least: minimum number of requests.

        Returns:
            Milliseconds, in order, without the first requests, which fill the caches.
        """
        if seconds > 0:
            self._refill(measure, items)
        samples: list[float] = []
        deadline = time.perf_counter() + seconds
        while True:
            samples += [self._done(measure(item)) for item in items]
            if len(samples) >= least and time.perf_counter() >= deadline:
                return samples

    def _refill(self, measure: Callable[[Item], float], items: Sequence[Item]) -> None:
        if self._last_ms >= _REFILL_BELOW_MS:
            return
        start = time.perf_counter()
        for number in range(_REFILL_REQUESTS):
            self._done(measure(items[number % len(items)]))
            if time.perf_counter() - start > _REFILL_SECONDS:
                return

    def _done(self, milliseconds: float) -> float:
        self._last_ms = milliseconds
        self._alive()
        return milliseconds


def serve(make: Callable[[Alive], object], names: Collection[str], commands: TextIO, answers: TextIO) -> None:
    """Run commands until the input ends.

    Args:
        make: makes the object with the commands as methods; it gets a function to call regularly during long work.
        names: names of the allowed methods.
        commands: a JSON object per line: ``command``, and the method's arguments.
        answers: stream for the answers.
    """
    last_sign = time.monotonic()

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def alive() -> None:
        nonlocal last_sign
        if time.monotonic() - last_sign > _ALIVE_SECONDS:
            last_sign = time.monotonic()
            answer({"alive": True})

    worker = make(alive)
    for line in commands:
        command = json.loads(line)
        name = command.pop("command")
        try:
            if name not in names:
                raise ValueError(f"unknown command {name!r}")
            answer({"result": getattr(worker, name)(**command)})
        except SparseDeployError as error:
            answer({"error": type(error).__name__, "message": str(error)})


def run_worker(make: Callable[[Alive], object], names: Collection[str]) -> None:
    """Entry point of a worker process; arguments as for :func:`serve`."""
    # If the parent is killed, stdin closes, which is detected only between commands; this also ends a running command.
    end_with_parent()
    # Native libraries print to descriptor 1. The protocol uses a private copy; other output goes to stderr.
    private = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    with os.fdopen(private, "w", encoding="utf-8") as answers:
        serve(make, names, sys.stdin, answers)
