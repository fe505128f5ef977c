# SPDX-License-Identifier: Apache-2.0
"""Environment of child processes that run a model, and the description of their exit status."""

import ctypes
import os
import signal

# Variables with the size of thread pools, including NumPy's and MKL's, which run in the runtimes' processes.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a child: size of thread pools, hub disabled."""
    return {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def end_with_parent() -> None:
    """Make the kernel end this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def describe_end(returncode: int | None) -> str:
    """The end of a process, as the rest of a sentence."""
    if returncode is None:
        return "closed its output"
    if returncode < 0:
        name = signal.Signals(-returncode).name
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {returncode}"
