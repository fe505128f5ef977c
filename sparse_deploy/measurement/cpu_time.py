# SPDX-License-Identifier: Apache-2.0
"""CPU time of other processes during a measurement, from ``/proc/stat``."""

import os
import time
from collections.abc import Callable
from pathlib import Path

# Share of all CPU time that other processes may use during a block; /proc/stat counts in steps of 10 ms.
FOREIGN_ABOVE = 0.08


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """CPU time used by the whole machine, or stolen by its host, since the start of the system."""
    # user nice system idle iowait irq softirq steal, in clock ticks (proc_stat(5))
    fields = [int(word) for word in stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - sum(fields[3:5])) / os.sysconf("SC_CLK_TCK")


class ForeignTime:
    """Counts the CPU time of other processes since its creation.

    Args:
        own_seconds: seconds of CPU time that the measured process has used before.
    """

    def __init__(self, own_seconds: Callable[[], float] = time.process_time) -> None:
        self._own_seconds = own_seconds
        self._own, self._busy, self._start = own_seconds(), busy_seconds(), time.perf_counter()

    @property
    def seconds(self) -> float:
        """CPU time that other processes used."""
        return max(0.0, (busy_seconds() - self._busy) - (self._own_seconds() - self._own))

    @property
    def share(self) -> float:
        """CPU time of other processes as a share of the time of all CPUs, 0 to 1."""
        elapsed = time.perf_counter() - self._start
        return self.seconds / elapsed / (os.cpu_count() or 1) if elapsed > 0 else 0.0
