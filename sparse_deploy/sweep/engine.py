# SPDX-License-Identifier: Apache-2.0
"""The interface of the engines that run the jobs of a sweep."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

from sparse_deploy.sweep.cell import Job, Outcome

Outcomes = Generator[tuple[Job, Outcome], None, None]


class Engine(Protocol):
    """A context manager for the machines; at its end all started processes are ended."""

    def __enter__(self) -> "Engine":
        """Connect to the machines."""
        ...

    def __exit__(self, *error: object) -> None:
        """Release the machines."""
        ...

    def check_folder(self, folder: Path) -> None:
        """Check that every machine can read a folder of the driver.

        Raises:
            ConfigError: a machine can't.
        """
        ...

    def run(self, jobs: Sequence[Job], *, exclusive: bool = False) -> Outcomes:
        """Run jobs and yield each with its outcome when it ends.

        Closing the generator early, as an exception does, ends the running jobs.

        Args:
            jobs: independent of each other.
            exclusive: run them one after the other, each with all CPUs of the same machine.
        """
        ...
