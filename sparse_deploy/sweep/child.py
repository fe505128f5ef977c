# SPDX-License-Identifier: Apache-2.0
"""Start of a stage's process: sets its end with the parent and its CPUs, then replaces it by the command line.

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
    # SIGKILL, because a rerun may start directly after the driver was killed; unfinished results are partial folders.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # the parent ended before the line above
        os.kill(os.getpid(), signal.SIGKILL)
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    os.execv(sys.executable, [sys.executable, "-m", "sparse_deploy", *command])  # noqa: S606 - this interpreter


if __name__ == "__main__":
    main(sys.argv[1:])
