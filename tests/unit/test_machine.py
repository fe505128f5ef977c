# SPDX-License-Identifier: Apache-2.0
"""The machine's description, read from recorded /proc and /sys trees."""

import os

import psutil
import pytest

from sparse_deploy.machine import RELEVANT_FLAGS, Machine, describe_machine, thread_remark

CPUINFO = """processor\t: 0
vendor_id\t: {vendor}
model name\t: {model}
flags\t\t: fpu vme sse2 {flags}

processor\t: 1
model name\t: another one
flags\t\t: fpu
"""


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "0::/system.slice/docker-abc.scope\n"
V1 = "12:memory:/docker/abc\n5:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/system.slice/docker-abc.scope/cpu.max": "400000 100000\n"}, 4.0),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/system.slice/docker-abc.scope/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/system.slice/cpu.max": "50000 25000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        # Inside a v1 container the host's path does not exist below the mount; the limit lies at its top.
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
    ids=["none", "v2 max", "v2 top", "v2 own", "v2 parent is tighter", "v1", "v1 in container", "v1 unlimited"],
)
def test_cpu_quota(tmp_path, files, quota):
    assert describe_machine(tree(tmp_path, files)).quota_cpus == quota


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/system.slice/docker-abc.scope/memory.max": "67108864\n"}, 64 << 20),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/system.slice/memory.max": "67108864\n"}, 64 << 20),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "1048576\n"}, 1 << 20),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ],
    ids=["v2 max", "v2 own", "v2 parent", "v1", "v1 unlimited"],
)
def test_memory_limit(tmp_path, files, limit):
    assert describe_machine(tree(tmp_path, files)).memory_bytes == (limit or psutil.virtual_memory().total)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("avx2 avx512f avx512_vnni avx512vbmi avx512_bf16", {"avx512_vnni", "avx512vbmi", "avx512_bf16"}),
        ("avx2 fma amx_tile amx_int8 amx_bf16 avx512_fp16", {"amx_tile", "amx_int8", "amx_bf16", "avx512_fp16"}),
        ("avx2 fma", {"avx2", "fma"}),
    ],
    ids=["Zen 4", "Sapphire Rapids", "Haswell"],
)
def test_cpu_model_and_flags(tmp_path, flags, found):
    text = CPUINFO.format(vendor="x", model="Some CPU @ 2.0GHz", flags=flags)
    machine = describe_machine(tree(tmp_path, {"proc/cpuinfo": text}))
    assert machine.cpu_model == "Some CPU @ 2.0GHz"
    assert found <= set(machine.flags) <= set(flags.split())
    assert list(machine.flags) == [flag for flag in RELEVANT_FLAGS if flag in machine.flags]


def test_without_proc_the_architecture_stands_in(tmp_path):
    machine = describe_machine(tmp_path)
    assert machine.cpu_model == os.uname().machine
    assert machine.flags == ()
    assert machine.quota_cpus is None


@pytest.mark.parametrize(
    ("visible", "quota", "usable"),
    [(8, None, 8), (8, 2.0, 2), (8, 2.9, 2), (8, 0.5, 1), (2, 16.0, 2)],
)
def test_usable_cpus(visible, quota, usable):
    machine = Machine(
        cpu_model="x", flags=(), visible_cpus=visible, quota_cpus=quota, memory_bytes=1, kernel="6", python="3.12"
    )
    assert machine.usable_cpus == usable


def test_this_machine():
    machine = describe_machine()
    assert 1 <= machine.usable_cpus <= machine.visible_cpus == len(os.sched_getaffinity(0))
    assert 0 < machine.memory_bytes <= psutil.virtual_memory().total
    assert Machine.model_validate_json(machine.model_dump_json()) == machine


@pytest.mark.parametrize(
    ("threads", "processes", "visible", "quota", "said"),
    [
        (2, 1, 2, None, ""),
        (2, 1, 2, 4.0, ""),
        (2, 1, 8, 2.0, "2 threads on 2 usable CPUs (a cgroup quota of 2 on 8 CPUs)"),
        (8, 1, 2, None, "8 threads on 2 usable CPUs: the threads wait for each other"),
        (2, 1, 8, 1.5, "2 threads on 1 usable CPU (a cgroup quota of 1.5 on 8 CPUs): the threads wait"),
        (1, 1, 8, 0.5, "1 thread on less than one CPU (a cgroup quota of 0.5 on 8 CPUs): the kernel stops"),
        (2, 2, 2, None, "2 processes of 2 threads on 2 usable CPUs: the threads wait"),
    ],
)
def test_threads_that_do_not_fit_the_cpus_are_remarked_on(threads, processes, visible, quota, said):
    machine = Machine(
        cpu_model="x", flags=(), visible_cpus=visible, quota_cpus=quota, memory_bytes=1, kernel="", python=""
    )
    remark = thread_remark(threads, machine, processes=processes)
    assert remark.startswith(said)
    assert bool(remark) == bool(said)
