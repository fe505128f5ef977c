# SPDX-License-Identifier: Apache-2.0
"""Facts of this machine: CPU model, instruction sets, and the number of CPUs that this process may use."""

import contextlib
import ctypes
import math
import os
import platform
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from sparse_deploy.errors import ConfigError

# The flags that decide which INT8, BF16 and sparse code paths a runtime can take (names of /proc/cpuinfo).
RELEVANT_FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512vbmi", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16",
)  # fmt: skip

# 1024 threads on 2 CPUs start no model within 2 minutes, 64 need 13 s.
_THREADS_PER_CPU = 16


class Machine(BaseModel):
    """A machine as a report names it.

    Attributes:
        flags: those of :data:`RELEVANT_FLAGS` that the CPU has.
        visible_cpus: CPUs in this process's affinity mask.
        quota_cpus: CPUs that the container's quota allows (cgroup v2 or v1); None without a quota.
        memory_bytes: physical memory, or the container's limit where that is lower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_model: str
    flags: tuple[str, ...]
    visible_cpus: int
    quota_cpus: float | None
    memory_bytes: int
    kernel: str
    python: str

    @property
    def saturates(self) -> bool:
        """Whether ONNX Runtime and OpenVINO add two products of u8 and s8 in 16 bits here (``docs/int8.md``)."""
        return "avx2" in self.flags and not {"avx_vnni", "avx512_vnni"} & {*self.flags}

    @property
    def usable_cpus(self) -> int:
        """Threads to use: the affinity mask or the quota (rounded down, at least one), whichever is smaller."""
        if self.quota_cpus is None:
            return self.visible_cpus
        return max(1, min(self.visible_cpus, math.floor(self.quota_cpus)))


def describe_machine(root: Path = Path("/")) -> Machine:
    """Read the machine's description.

    Args:
        root: where ``proc`` and ``sys`` hang; tests point it at recorded trees.
    """
    model, flags = _cpuinfo(root / "proc/cpuinfo")
    return Machine(
        cpu_model=model,
        flags=tuple(flag for flag in RELEVANT_FLAGS if flag in flags),
        visible_cpus=len(os.sched_getaffinity(0)),
        quota_cpus=_cpu_quota(root),
        memory_bytes=_memory_limit(root),
        kernel=platform.release(),
        python=platform.python_version(),
    )


def threads_to_use(wanted: int | None, option: str) -> int:
    """Threads of one model: as many as this process may use CPUs, or as many as are asked for.

    Args:
        wanted: None for the former.
        option: its name, for the message.

    Raises:
        ConfigError: so many that starting them and waiting for each other is all that they would do.
    """
    machine = describe_machine()
    most = _THREADS_PER_CPU * machine.visible_cpus
    if wanted is not None and wanted > most:
        cpus = f"{machine.visible_cpus} CPU{'s' if machine.visible_cpus > 1 else ''}"
        raise ConfigError(
            f"{option}: {wanted} threads are asked for, this machine has {cpus}; expected at most {most}, "
            f"{_THREADS_PER_CPU} per CPU"
        )
    return wanted or machine.usable_cpus


def thread_remark(threads: int, machine: Machine, *, processes: int = 1) -> str:
    """Whether the threads fit the CPUs, in one line; empty where nothing needs to be said.

    Args:
        threads: threads that compute at a time, in each process.
        machine: what :func:`describe_machine` found.
        processes: that many processes compute at the same time.
    """
    quota, usable = machine.quota_cpus, machine.usable_cpus
    limited = quota is not None and quota < machine.visible_cpus
    why = f" (a cgroup quota of {quota:g} on {machine.visible_cpus} CPUs)" if limited else ""
    wanted = _count(threads, "thread") if processes == 1 else f"{processes} processes of {_count(threads, 'thread')}"
    if threads * processes > usable:
        return (
            f"{wanted} on {_count(usable, 'usable CPU')}{why}: the threads wait for each other, which makes every "
            f"request slower; expected at most {_count(usable, 'thread')}"
        )
    if quota is not None and quota < threads * processes:
        return f"{wanted} on less than one CPU{why}: the kernel stops the process for a part of each period"
    return f"{wanted} on {_count(usable, 'usable CPU')}{why}" if limited else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cpuinfo(path: Path) -> tuple[str, frozenset[str]]:
    model, flags = platform.machine(), frozenset[str]()
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):  # x86, Arm
            flags = frozenset(value.split())
            break
    return model, flags


def _cpu_quota(root: Path) -> float | None:
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _folder_quota(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders(root: Path) -> list[Path]:
    """Every cgroup folder from this process's own up to the root: a limit anywhere above binds too."""
    base = root / "sys/fs/cgroup"
    folders = {base, base / "cpu", base / "memory"}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        own = base / controllers.split(",")[0] / path.lstrip("/") if controllers else base / path.lstrip("/")
        while own != base and base in own.parents:
            folders.add(own)
            own = own.parent
    return sorted(folders)


def _folder_quota(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split()  # cgroup v2: "quota period" or "max period"
    if len(fields) == 2 and fields[0] != "max":
        return int(fields[0]) / int(fields[1])
    quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    if quota and period and int(quota) > 0:  # cgroup v1: -1 means no quota
        return int(quota) / int(period)
    return None


def _memory_limit(root: Path) -> int:
    limits = [psutil.virtual_memory().total]
    for folder in _cgroup_folders(root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library can: glibc keeps that of small blocks for later."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
