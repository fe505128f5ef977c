# SPDX-License-Identifier: Apache-2.0
"""Samples a server's memory and the answers to probes while a check runs."""

import threading
import time
from statistics import median
from typing import Self

import psutil

from reliability.server_process import ServerProcess


def memory_mb(server: ServerProcess) -> float:
    """Resident memory of the server."""
    return psutil.Process(server.process.pid).memory_info().rss / 2**20


class Watch:
    """Takes a sample at the start, at regular intervals while the block runs, and at its end."""

    interval: float  # seconds between two samples

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def sample(self) -> None:
        """Take one sample."""
        raise NotImplementedError

    def _watch(self) -> None:
        self.sample()
        while not self._stop.wait(self.interval):
            self.sample()
        self.sample()


class MemoryWatch(Watch):
    """Samples a server's memory ten times a second.

    Attributes:
        samples: ``(seconds, megabytes)``.
    """

    interval = 0.1

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(server)
        self.samples: list[tuple[float, float]] = []
        self._begin = time.monotonic()

    @property
    def peak(self) -> float:
        """The largest sample."""
        return max(megabytes for _, megabytes in self.samples)

    def growth(self) -> float:
        """Megabytes between the medians of the second and the last tenth of the samples, to detect a leak."""
        tenth = max(1, len(self.samples) // 10)
        early, late = self.samples[tenth : 2 * tenth] or self.samples, self.samples[-tenth:]
        return median(value for _, value in late) - median(value for _, value in early)

    def sample(self) -> None:
        """See :meth:`Watch.sample`."""
        self.samples.append((time.monotonic() - self._begin, memory_mb(self._server)))


class ProbeWatch(Watch):
    """Sends a liveness probe a hundred times a second.

    Attributes:
        longest: seconds of the slowest probe.
        failed: probes without status 200.
    """

    interval = 0.01

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(server)
        self.longest, self.failed = 0.0, 0

    def sample(self) -> None:
        """See :meth:`Watch.sample`."""
        begin = time.monotonic()
        try:
            self.failed += self._server.request("GET", "/v2/health/live").status != 200
        except OSError:
            self.failed += 1
        self.longest = max(self.longest, time.monotonic() - begin)
