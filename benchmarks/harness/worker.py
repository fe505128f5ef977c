# SPDX-License-Identifier: Apache-2.0
"""The process of one rival: opens its model, then times blocks on command until its input ends.

Run as ``python -m harness.worker``; commands and answers are JSON lines. Between blocks it only waits for input, so
the thread pools of the rivals never fight: a runtime's threads sleep a few milliseconds after its last request.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.cells import Cell
from harness.machine_state import FOREIGN_ABOVE, busy_seconds
from harness.models import random_inputs
from harness.sessions import Session, UnavailableError, variants

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# A variant is judged by the fastest of so many requests, or of fewer where they take longer than that: whatever else
# runs at the moment can only make one slower.
_TRIAL_REQUESTS, _TRIAL_SECONDS, _TRIAL_ATTEMPTS = 9, 1.0, 4
# What another process left in the caches is not a rival's fault: first requests of a block don't count.
_REFILL_REQUESTS, _REFILL_SECONDS = 3, 0.04
# In longer ones it can't be seen: the caches hold 34 MB, which is read in 2 ms.
_REFILL_BELOW_MS = 300.0


class Worker:
    """One opened rival; every public method is a command."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._opened: tuple[str, str, int] | None = None
        self._inputs: dict[str, np.ndarray] = {}
        self._last_ms = 0.0

    def open(self, rival: str, folder: str, cell: dict[str, Any], threads: int) -> dict[str, Any]:
        """Open every variant of a rival, keep the fastest. One that takes any shape stays open for another cell.

        Returns:
            ``variant``: its name; ``trials_ms``: milliseconds by variant, where there are several; ``open_s``.
        """
        shape = Cell(**cell)
        self._inputs = random_inputs(shape.batch, shape.sequence)
        wanted = (rival, folder, threads)
        if self._session is not None and self._session.any_shape and self._opened == wanted:
            return {"variant": "", "trials_ms": {}, "open_s": 0.0}
        self._session, self._opened = None, wanted
        trials: dict[str, float] = {}
        chosen, open_s, reason = "", 0.0, ""
        choices = variants(rival, shape)
        for variant in choices:
            gc.collect()
            start = time.perf_counter()
            try:
                session = variant.open(Path(folder), shape, threads)
            except UnavailableError as error:
                reason = str(error)
                continue
            opened = time.perf_counter() - start
            trials[variant.name] = _trial(session, self._inputs) if len(choices) > 1 else 0.0
            if trials[variant.name] <= min(trials.values()):
                self._session, chosen, open_s = session, variant.name, opened
            del session
        if self._session is None:
            raise UnavailableError(reason)
        return {"variant": chosen, "trials_ms": trials if len(trials) > 1 else {}, "open_s": open_s}

    def answer(self) -> dict[str, Any]:
        """Answer the cell's batch once: ``outputs``, flat lists."""
        start = time.perf_counter()
        outputs = self._open().run(self._inputs)
        self._last_ms = (time.perf_counter() - start) * 1e3
        return {"outputs": [output.ravel().tolist() for output in outputs]}

    def block(self, seconds: float, least: int) -> dict[str, Any]:
        """Time requests for so many seconds, at least ``least``: ``samples_ms``."""
        session = self._open()
        start = time.perf_counter()
        for _ in range(_REFILL_REQUESTS if self._last_ms < _REFILL_BELOW_MS else 0):
            session.time(self._inputs)
            if time.perf_counter() - start > _REFILL_SECONDS:
                break
        samples: list[float] = []
        start = time.perf_counter()
        while len(samples) < least or time.perf_counter() - start < seconds:
            samples.append(session.time(self._inputs))
        self._last_ms = samples[-1]
        return {"samples_ms": samples}

    def _open(self) -> Session:
        if self._session is None:
            raise RuntimeError("expected an opened model; send open first")
        return self._session


def main() -> None:
    """Answer commands until the input ends."""
    # Runtimes print; what they print must not land between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(worker, request.pop("command"))(**request)}
        except UnavailableError as error:
            answer = {"unavailable": str(error)}
        except Exception as error:  # whatever a runtime raises, the parent reports it on one line
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _trial(session: Session, inputs: dict[str, np.ndarray]) -> float:
    """Milliseconds of a variant. A trial that something else disturbed is repeated, a few times at most."""
    session.time(inputs)
    best = float("inf")
    for _ in range(_TRIAL_ATTEMPTS):
        busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
        count = 0
        while count < _TRIAL_REQUESTS and (count < 2 or time.perf_counter() - start < _TRIAL_SECONDS):
            best = min(best, session.time(inputs))
            count += 1
        others = (busy_seconds() - busy) - (time.process_time() - own)
        if others / (time.perf_counter() - start) / (os.cpu_count() or 1) <= FOREIGN_ABOVE:
            break
    return best


if __name__ == "__main__":
    main()
