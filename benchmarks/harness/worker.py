# SPDX-License-Identifier: Apache-2.0
"""The worker process of one runtime: opens the model with each variant, then times blocks on command.

Run as :data:`MODULE`. Between blocks a worker only waits for input, so the thread pools of the runtimes do not
compete: a runtime's threads sleep a few milliseconds after its last request.
"""

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.cells import Cell
from harness.models import random_inputs
from harness.sessions import Session, variants
from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.measurement.cpu_time import FOREIGN_ABOVE, ForeignTime
from sparse_deploy.measurement.worker import Alive, BlockTimer, run_worker

MODULE = "harness.worker"
COMMANDS = ("open", "answer", "block")
# A variant is judged by the fastest of this many requests, or of fewer if they exceed this time: other processes can
# only slow a request down.
_TRIAL_REQUESTS, _TRIAL_SECONDS, _TRIAL_ATTEMPTS = 9, 1.0, 4


class Worker:
    """One opened runtime; every public method is a command.

    Args:
        alive: called regularly during long work.
    """

    def __init__(self, alive: Alive) -> None:
        self._alive = alive
        self._timer = BlockTimer(alive)
        self._session: Session | None = None
        self._opened: tuple[str, str, int] | None = None
        self._inputs: dict[str, np.ndarray] = {}

    def open(self, rival: str, folder: str, cell: dict[str, Any], threads: int) -> dict[str, Any]:
        """Open every variant of a runtime, keep the fastest. A session for any shape stays open for the next cell.

        Returns:
            ``variant``: its name; ``trials_ms``: milliseconds by variant, if there are several; ``open_s``.
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
            except RuntimeUnavailableError as error:
                reason = str(error)
                continue
            opened = time.perf_counter() - start
            self._alive()
            trials[variant.name] = _trial(session, self._inputs) if len(choices) > 1 else 0.0
            if trials[variant.name] <= min(trials.values()):
                self._session, chosen, open_s = session, variant.name, opened
            del session
        if self._session is None:
            raise RuntimeUnavailableError(reason)
        return {"variant": chosen, "trials_ms": trials if len(trials) > 1 else {}, "open_s": open_s}

    def answer(self) -> dict[str, Any]:
        """Compute the cell's batch once: ``outputs``, flat lists."""
        outputs: list[Any] = []
        self._timer.time(lambda: outputs.extend(self._open().run(self._inputs)))
        return {"outputs": [output.ravel().tolist() for output in outputs]}

    def block(self, seconds: float, least: int) -> dict[str, Any]:
        """Time requests for ``seconds``, at least ``least`` requests: ``samples_ms``."""
        return {"samples_ms": self._timer.passes(self._open().time, [self._inputs], seconds, least)}

    def _open(self) -> Session:
        if self._session is None:
            raise RuntimeError("expected an opened model; send open first")
        return self._session


def _trial(session: Session, inputs: dict[str, np.ndarray]) -> float:
    """Milliseconds of a variant. A disturbed trial is repeated a few times."""
    session.time(inputs)
    best = float("inf")
    for _ in range(_TRIAL_ATTEMPTS):
        foreign, start = ForeignTime(), time.perf_counter()
        count = 0
        while count < _TRIAL_REQUESTS and (count < 2 or time.perf_counter() - start < _TRIAL_SECONDS):
            best = min(best, session.time(inputs))
            count += 1
        if foreign.share <= FOREIGN_ABOVE:
            break
    return best


if __name__ == "__main__":
    run_worker(Worker, COMMANDS)
