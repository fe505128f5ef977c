# SPDX-License-Identifier: Apache-2.0
"""A fine-tuning process that sends itself a signal when a checkpoint is complete, so no timing is involved."""

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
    checkpoint: Path, number: signal.Signals, *arguments: object, threads: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run ``finetune`` until it has written a checkpoint.

    Args:
        checkpoint: ``OUTPUT.training/.../checkpoint-N``.
        number: the signal.
        arguments: arguments of the command.
        threads: number of threads; equal rounding requires the same number in the compared run.
    """
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, checkpoint.parent.name, checkpoint.name, str(int(number)),
         *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
