# SPDX-License-Identifier: Apache-2.0
"""The machine's state beside each block: how far its cores are from each other, and whether they are ours alone.

The CPUs of a virtual machine move between the host's cores. On this project's EPYC two of them exchange a cache line
in 25-33 ns when they share an L3, 150-175 ns when not, it changes within minutes, and operators whose threads share a
matrix then take up to twice as long. lscpu does not show it. So each block carries a label, and blocks are compared
only with blocks of the same label.
"""

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_deploy.machine import describe_machine

NEAR, FAR, MIXED, UNKNOWN = "near", "far", "mixed", "unknown"
# Between the two clusters that were seen (at most 33 ns, at least 150 ns).
FAR_ABOVE_NS = 80.0
# A foreign process on one of two CPUs halves the rate of the slower one; the rate itself varies by 4 %.
DISTURBED_BELOW = 0.85

_SOURCE = Path(__file__).with_name("machine_probe.cpp")
_INT8_MACS_PER_VECTOR = 64
_ROUND_TRIPS, _REPEATS = 2000, 3
_LIMIT_SECONDS = ctypes.c_double(0.05)
_WORK_ROUNDS = 2_000_000  # 4.5 ms at 3.6e9 vector multiply-adds per second


# Share of all CPU time that others may use during a block; /proc/stat counts in steps of 10 ms.
FOREIGN_ABOVE = 0.08


@dataclass(frozen=True)
class State:
    """One look at the machine.

    Attributes:
        one_way_ns: cache line from one CPU to the other; None with one CPU, without a compiler for the
            probe, or when others held the CPUs.
        work_rate: 1e9 vector multiply-adds per second of the slower CPU while both work; None likewise.
    """

    one_way_ns: float | None
    work_rate: float | None


def label(states: Sequence[State]) -> str:
    """``near`` or ``far`` when all looks agree, ``mixed`` when not, ``unknown`` when one could not be taken."""
    if not states or any(state.one_way_ns is None for state in states):
        return UNKNOWN
    labels = {FAR if (state.one_way_ns or 0.0) > FAR_ABOVE_NS else NEAR for state in states}
    return labels.pop() if len(labels) == 1 else MIXED


def disturbed(states: Sequence[State], reference: float) -> bool:
    """Whether something else used the CPUs at one of the looks.

    Args:
        states: taken before and after a block.
        reference: the work rate of the undisturbed machine; 0 if none is known.
    """
    return any(state.work_rate is not None and state.work_rate < DISTURBED_BELOW * reference for state in states)


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """CPU time that the whole machine used or that its host kept from it, since it started."""
    # user nice system idle iowait irq softirq steal, in clock ticks (proc_stat(5))
    fields = [int(word) for word in stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - sum(fields[3:5])) / os.sysconf("SC_CLK_TCK")


class Probe:
    """Takes looks at the machine.

    Args:
        folder: where the compiled probe is kept.
        cpus: the CPUs to look at; those that this process may use when omitted.

    Attributes:
        reason: why looks tell nothing; empty when they do.
    """

    def __init__(self, folder: Path, cpus: Sequence[int] | None = None) -> None:
        self._cpus = tuple(sorted(os.sched_getaffinity(0)) if cpus is None else cpus)[:2]
        self._library: ctypes.CDLL | None = None
        self.reason = ""
        try:
            self._library = _load(folder)
        except (OSError, subprocess.SubprocessError) as error:
            self.reason = f"the machine probe needs a C++ compiler: {' '.join(str(error).split())[:200]}"
        else:
            self.reason = "" if len(self._cpus) == 2 else "this process may use one CPU only"

    def look(self) -> State:
        """Take one look; about 10 ms."""
        if self._library is None:
            return State(None, None)
        two = len(self._cpus) == 2
        one_way = self._library.ping_pong_ns(*self._cpus, _ROUND_TRIPS, _REPEATS, _LIMIT_SECONDS) if two else -1.0
        return State(
            one_way_ns=one_way if one_way > 0 else None,
            work_rate=self._work_rate(self._library),
        )

    def peak_gmacs(self) -> float | None:
        """1e9 INT8 multiply-adds per second that the slowest of the CPUs can do at best; None without AVX512-VNNI."""
        if self._library is None or "avx512_vnni" not in describe_machine().flags:
            return None
        return max(self._work_rate(self._library) for _ in range(_REPEATS)) * _INT8_MACS_PER_VECTOR

    def _work_rate(self, library: ctypes.CDLL) -> float:
        cpus = (ctypes.c_int * len(self._cpus))(*self._cpus)
        return float(library.work_rate(cpus, len(self._cpus), ctypes.c_int64(_WORK_ROUNDS)))


def _load(folder: Path) -> ctypes.CDLL:
    """The probe as a shared library, compiled unless the folder has it already."""
    name = hashlib.blake2b(_SOURCE.read_bytes(), digest_size=4).hexdigest()
    path = folder / f"machine_probe-{name}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        staging = path.with_suffix(f".{os.getpid()}")
        command = [os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-shared", "-fPIC", "-pthread", str(_SOURCE)]
        done = subprocess.run([*command, "-o", str(staging)], capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise subprocess.SubprocessError(done.stderr.strip().splitlines()[-1] if done.stderr else "it failed")
        staging.replace(path)
    library = ctypes.CDLL(str(path))
    library.ping_pong_ns.restype = ctypes.c_double
    library.work_rate.restype = ctypes.c_double
    return library
