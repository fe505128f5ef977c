# SPDX-License-Identifier: Apache-2.0
"""How many threads torch computes with in this process: no more than the CPUs that it may use."""

import logging
import os
from collections.abc import Callable

import torch

from sparse_deploy.machine import describe_machine, thread_remark

_LOG = logging.getLogger(__name__)


def limit_torch_threads(stage: str, note: Callable[[str], None]) -> None:
    """Lower torch's number of threads to what affinity mask and cgroup quota allow, and report what doesn't fit.

    torch counts the processors of the affinity mask, or takes ``OMP_NUM_THREADS``; it knows no quota. The processes
    that torchrun starts on this machine share the CPUs.

    Args:
        stage: begins a warning.
        note: gets one line where a quota limits the threads.
    """
    machine = describe_machine()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    wanted = torch.get_num_threads()
    threads = min(wanted, max(1, machine.usable_cpus // processes))
    torch.set_num_threads(threads)
    if int(os.environ.get("LOCAL_RANK", "0")):
        return
    if threads * processes > machine.usable_cpus:
        _LOG.warning("%s: %s", stage, thread_remark(threads, machine, processes=processes))
    elif remark := thread_remark(threads, machine, processes=processes):
        note(remark)
