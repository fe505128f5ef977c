# SPDX-License-Identifier: Apache-2.0
"""A fine-tuning process that sends itself a signal when a checkpoint is whole: no clock decides where it is caught."""

import os
import signal
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import os, sys
from sparse_deploy.cli.main import run
from sparse_deploy.training import resume
folder, checkpoint, number = sys.argv[1:4]
mark = resume.mark_complete
def mark_and_signal(path, **facts):
    mark(path, **facts)
    if path.parent.name == folder and path.name == checkpoint:
        os.kill(os.getpid(), int(number))
resume.mark_complete = mark_and_signal
sys.exit(run(["finetune", *sys.argv[4:]]))
"""


def interrupted_finetune(
    checkpoint: Path, how: signal.Signals, *arguments: object, threads: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run ``finetune`` until it has written a checkpoint.

    Args:
        checkpoint: ``OUTPUT.training/.../checkpoint-N``.
        how: the signal.
        arguments: of the command.
        threads: sums are rounded alike only with as many in the run that it is compared with.
    """
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, checkpoint.parent.name, checkpoint.name, str(int(how)), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
