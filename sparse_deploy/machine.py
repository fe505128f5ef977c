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

# The flags that determine the INT8, BF16 and sparse code paths of a runtime (names of /proc/cpuinfo).
RELEVANT_FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512vbmi", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16",
)  # fmt: skip

# With too many threads per CPU a model does not start within minutes.
_THREADS_PER_CPU = 16


class Machine(BaseModel):
    """A machine in a report.

    Attributes:
        flags: flags of the CPU that are in :data:`RELEVANT_FLAGS`.
        visible_cpus: CPUs in this process's affinity mask.
        quota_cpus: CPUs that the container's quota allows (cgroup v2 or v1); None without a quota.
        memory_bytes: physical memory, or the container's limit if that is lower.
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
        root: parent folder of ``proc`` and ``sys``; tests use recorded trees.
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
    """Threads of one model: the number of usable CPUs, or the requested number.

    Args:
        wanted: requested number; None means the usable CPUs.
        option: name of the option, for the message.

    Raises:
        ConfigError: the number is too large for the machine.
    """
    machine = describe_machine()
    most = _THREADS_PER_CPU * machine.visible_cpus
    if wanted is not None and wanted > most:
        cpus = f"{machine.visible_cpus} CPU{'s' if machine.visible_cpus > 1 else ''}"
        raise ConfigError(
            f"{option}: found {wanted} threads, this machine has {cpus}; expected at most {most}, "
            f"{_THREADS_PER_CPU} per CPU"
        )
    return wanted or machine.usable_cpus


def thread_remark(threads: int, machine: Machine, *, processes: int = 1) -> str:
    """A line about threads that exceed the CPUs or a quota; empty without a problem.

    Args:
        threads: parallel threads in each process.
        machine: see :func:`describe_machine`.
        processes: number of parallel processes.
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
        return f"{wanted} on less than one CPU{why}: the kernel stops the process during a part of each period"
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
    """All cgroup folders from this process's folder up to the root, because limits of parents apply, too."""
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
    """Return freed memory to the system, if the C library supports it: glibc keeps freed small blocks."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
