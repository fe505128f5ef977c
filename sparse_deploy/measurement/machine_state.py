# SPDX-License-Identifier: Apache-2.0
"""The machine's state before and after each block: latency between two cores, and use by other processes.

The CPUs of a virtual machine move between the host's cores. On this project's EPYC a cache line takes 25-33 ns between
two CPUs that share an L3, else 150-175 ns (benchmarks/README.md); this changes within minutes, and operators whose
threads share a matrix then take up to twice as long. lscpu does not show it. So each block has a label, and blocks are
compared only with blocks of the same label.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.kernels.loader import KERNELS, open_library
from sparse_deploy.machine import describe_machine

NEAR, FAR, MIXED, UNKNOWN = "near", "far", "mixed", "unknown"
# Between the two measured clusters (at most 33 ns, at least 150 ns).
FAR_ABOVE_NS = 80.0
# Another process on one of two CPUs halves the rate of the slower CPU; undisturbed, the rate varies by a few percent.
DISTURBED_BELOW = 0.85

_INT8_MACS_PER_VECTOR = 64
_ROUND_TRIPS, _REPEATS = 2000, 3
_LIMIT_SECONDS = 0.05
_WORK_ROUNDS = 2_000_000  # 4.5 ms at 3.6e9 vector multiply-adds per second
_LINE = 32  # SD_PROBE_LINE


@dataclass(frozen=True)
class State:
    """One sample of the machine's state.

    Attributes:
        one_way_ns: nanoseconds of a cache line from one CPU to the other; None with one CPU, without the compiled
            kernels, or if other processes used the CPUs.
        work_rate: 1e9 vector multiply-adds per second of the slower CPU while both compute; None in the same cases.
    """

    one_way_ns: float | None
    work_rate: float | None


def label(states: Sequence[State]) -> str:
    """``near`` or ``far`` if all samples agree, else ``mixed``; ``unknown`` if a sample is missing."""
    if not states or any(state.one_way_ns is None for state in states):
        return UNKNOWN
    labels = {FAR if (state.one_way_ns or 0.0) > FAR_ABOVE_NS else NEAR for state in states}
    return labels.pop() if len(labels) == 1 else MIXED


def disturbed(states: Sequence[State], reference: float) -> bool:
    """Whether other processes used the CPUs during one of the samples.

    Args:
        states: samples before and after a block.
        reference: the work rate of the undisturbed machine; 0 if none is known.
    """
    return any(state.work_rate is not None and state.work_rate < DISTURBED_BELOW * reference for state in states)


class Probe:
    """Samples the machine's state, by two functions of the compiled kernels.

    Args:
        cpus: candidate CPUs, of which two are used; default: all CPUs that this process may use.

    Attributes:
        reason: reason why samples are not available; empty if they are.
    """

    def __init__(self, cpus: Sequence[int] | None = None) -> None:
        self._cpus = tuple(sorted(os.sched_getaffinity(0)) if cpus is None else cpus)[:2]
        self._library: ctypes.CDLL | None = None
        try:
            self._library = _library()
        except RuntimeUnavailableError as error:
            self.reason = f"the probe of the machine needs the compiled kernels: {error}"
        else:
            self.reason = "" if len(self._cpus) == 2 else "this process may use only one CPU"

    def look(self) -> State:
        """Take one sample; about 10 ms, at most 100."""
        if self._library is None:
            return State(None, None)
        one_way = max(self._ping_pong(self._library)) if len(self._cpus) == 2 else -1.0
        return State(one_way_ns=one_way if one_way > 0 else None, work_rate=self._work_rate(self._library))

    def peak_gmacs(self) -> float | None:
        """Peak 1e9 INT8 multiply-adds per second of the slowest of the CPUs; None without AVX512-VNNI."""
        if self._library is None or "avx512_vnni" not in describe_machine().flags:
            return None
        rates = [rate for _ in range(_REPEATS) if (rate := self._work_rate(self._library)) is not None]
        return max(rates) * _INT8_MACS_PER_VECTOR if rates else None

    def _ping_pong(self, library: ctypes.CDLL) -> list[float]:
        memory = _Memory()
        return self._together(
            lambda number: library.sd_probe_ping_pong(memory.address, number, _ROUND_TRIPS, _REPEATS, _LIMIT_SECONDS)
        )

    def _work_rate(self, library: ctypes.CDLL) -> float | None:
        memory, count = _Memory(), len(self._cpus)
        rates = self._together(
            lambda _: library.sd_probe_work_rate(memory.address, count, _WORK_ROUNDS, _LIMIT_SECONDS)
        )
        return min(rates) if rates and min(rates) > 0 else None

    def _together(self, probe: Callable[[int], float]) -> list[float]:
        """Run a probe on all CPUs at once, each in a pinned thread; -1 if a CPU is no longer usable."""
        found = [-1.0] * len(self._cpus)

        def run(number: int, cpu: int) -> None:
            try:
                os.sched_setaffinity(0, {cpu})  # applies to this thread
            except OSError:
                return
            found[number] = probe(number)

        threads = [threading.Thread(target=run, args=pair) for pair in enumerate(self._cpus)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


class _Memory:
    """``sd_probe_memory``: shared counters of the threads of one probe, each in a separate cache line."""

    def __init__(self) -> None:
        bytes_of_line = _LINE * ctypes.sizeof(ctypes.c_uint32)
        self._buffer = ctypes.create_string_buffer(4 * bytes_of_line)
        begin = ctypes.addressof(self._buffer)
        self.address = ctypes.c_void_p(-(-begin // bytes_of_line) * bytes_of_line)


def _library() -> ctypes.CDLL:
    library = open_library(KERNELS)
    try:
        ping_pong, work_rate = library.sd_probe_ping_pong, library.sd_probe_work_rate
    except AttributeError as error:
        raise RuntimeUnavailableError("the installed ones are older than this package; install it again") from error
    ping_pong.restype = work_rate.restype = ctypes.c_double
    ping_pong.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_double]
    work_rate.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double]
    return library
