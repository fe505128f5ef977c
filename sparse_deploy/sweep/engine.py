# SPDX-License-Identifier: Apache-2.0
"""The interface of the engines that run the jobs of a sweep."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

from sparse_deploy.sweep.cell import Job, Outcome

Outcomes = Generator[tuple[Job, Outcome], None, None]


class Engine(Protocol):
    """A context manager around the machines; leaving it ends every process that was started."""

    def __enter__(self) -> "Engine":
        """Get the machines."""
        ...

    def __exit__(self, *error: object) -> None:
        """Give them back."""
        ...

    def check_folder(self, folder: Path) -> None:
        """Check that every machine can read a folder of the driver.

        Raises:
            ConfigError: one doesn't.
        """
        ...

    def run(self, jobs: Sequence[Job], *, exclusive: bool = False) -> Outcomes:
        """Run jobs and give each with its outcome as it ends.

        Closing the generator early, as an exception does, ends the running jobs.

        Args:
            jobs: independent of each other.
            exclusive: one after the other, each with all CPUs of one and the same machine.
        """
        ...
