# SPDX-License-Identifier: Apache-2.0
"""Limits torch's threads in this process to the CPUs that it may use."""

import logging
import os
from collections.abc import Callable

import torch

from sparse_deploy.machine import describe_machine, thread_remark

_LOG = logging.getLogger(__name__)


def limit_torch_threads(stage: str, note: Callable[[str], None]) -> None:
    """Lower torch's number of threads to the limit of affinity mask and cgroup quota, and report too many threads.

    torch counts the processors of the affinity mask, or uses ``OMP_NUM_THREADS``; it ignores a quota. The processes
    that torchrun starts on this machine share the CPUs.

    Args:
        stage: start of a warning.
        note: called with one line if a quota limits the threads.
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
