# SPDX-License-Identifier: Apache-2.0
"""The first moment of a stage's process: tied to its parent's life and to its CPUs, it becomes the command line.

Run as ``python -m sparse_deploy.sweep.child PARENT CPUS COMMAND ...``, where CPUS is such as ``0,1``.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; it holds across exec


def main(arguments: list[str]) -> None:
    """Bind this process and replace it by ``python -m sparse_deploy COMMAND ...``."""
    parent, cpus, *command = arguments
    # SIGKILL, because a rerun may start at once after a driver was killed; unfinished files are partial folders.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    os.execv(sys.executable, [sys.executable, "-m", "sparse_deploy", *command])  # noqa: S606 - our own interpreter


if __name__ == "__main__":
    main(sys.argv[1:])
