# SPDX-License-Identifier: Apache-2.0
"""The engine for one machine: as many parallel jobs as its CPUs allow."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Self

from sparse_deploy.errors import ConfigError
from sparse_deploy.machine import describe_machine
from sparse_deploy.sweep.cell import Job, run_job
from sparse_deploy.sweep.engine import Outcomes


class LocalEngine:
    """Processes of this machine.

    Args:
        cpus_per_task: number of CPUs to which a job is bound.
    """

    def __init__(self, cpus_per_task: int) -> None:
        self._usable = describe_machine().usable_cpus
        if cpus_per_task > self._usable:
            raise ConfigError(f"--cpus-per-task: {cpus_per_task} CPUs requested, this process may use {self._usable}")
        self._cpus = cpus_per_task

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def check_folder(self, folder: Path) -> None:
        """Nothing to check: driver and jobs share a disk."""

    def run(self, jobs: Sequence[Job], *, exclusive: bool = False) -> Outcomes:
        """See :class:`sparse_deploy.sweep.engine.Engine`."""
        cpus = self._usable if exclusive else self._cpus
        stop = threading.Event()
        # A thread per running job, which waits for a process; the process ends when this thread ends with the driver.
        pool = ThreadPoolExecutor(self._usable // cpus, thread_name_prefix="sweep")
        try:
            running = {pool.submit(run_job, job, cpus, stop.is_set): job for job in jobs}
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def default_cpus_per_task() -> int:
    """The default number of CPUs per job: two, or one if there is only one."""
    return min(2, len(os.sched_getaffinity(0)))
