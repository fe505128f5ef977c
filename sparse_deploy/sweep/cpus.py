# SPDX-License-Identifier: Apache-2.0
"""Reservation of CPUs of this machine among all sweeps of a user, by locked files, for every engine.

A lock is released with its process, also if it is killed.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sparse_deploy.errors import ConfigError

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def reserved_cpus(count: int, give_up: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, ...]]:
    """Reserve CPUs during the block, after waiting until they are free.

    Args:
        count: number of CPUs.
        give_up: called while waiting; true ends the wait.

    Yields:
        The numbers of the CPUs.

    Raises:
        ConfigError: this process may not use this number of CPUs.
        KeyboardInterrupt: ``give_up`` returned true.
    """
    visible = sorted(os.sched_getaffinity(0))
    if count > len(visible):
        raise ConfigError(f"--cpus-per-task: {count} CPUs are requested, this machine has {len(visible)}")
    folder = _lock_folder()
    while True:
        with contextlib.ExitStack() as held:
            cpus: list[int] = []
            for cpu in visible:
                if len(cpus) < count and _claim(folder / f"cpu-{cpu}", held):
                    cpus.append(cpu)
            if len(cpus) == count:
                yield tuple(cpus)
                return
        if give_up():
            raise KeyboardInterrupt
        time.sleep(_POLL_SECONDS)


def _claim(path: Path, held: contextlib.ExitStack) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    held.callback(os.close, descriptor)
    return True


def _lock_folder() -> Path:
    """A folder that only this user can write to, inside the shared temporary folder."""
    folder = Path(tempfile.gettempdir()) / f"sparse-deploy-cpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{folder}: expected a folder that only this user can access; remove it, or set TMPDIR to another folder"
        )
    return folder
