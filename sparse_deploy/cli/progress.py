# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error: a bar with the time left on a terminal, plain lines if the output is piped."""

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Protocol, TextIO

import typer

# Seconds between two lines of a long stage.
INTERVAL = 30.0
# Numbers that change ("step 3/80", "loss 0.31"), but not numbers in names ("INT8", "1x128").
_COUNT = re.compile(r"(?<![\w.-])[\d.,/%]+(?![\w-])")

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


class ShowProgress(Protocol):
    """Receives a message such as ``step 3/80, loss 0.31`` and the completed share from 0 to 1, if known."""

    def __call__(self, message: str, share: float | None = None) -> None:
        """Show it."""


@contextlib.contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[ShowProgress]:
    """Show the progress of the work in this block on standard error.

    On a terminal: a bar with the time left. In a pipe or a CI log: a line when a stage begins (when the message
    changes, apart from its numbers), and a line every :data:`INTERVAL` seconds during a stage.

    Args:
        title: the name of the work.
        quiet: show nothing.

    Yields:
        The function that the work calls.
    """
    if quiet:
        yield lambda message, share=None: None
    elif sys.stderr.isatty():
        with _bar(title) as show:
            yield show
    else:
        lines = ProgressLines(title, sys.stderr)
        with lines.repeated(INTERVAL):
            yield lines.show


@contextlib.contextmanager
def _bar(title: str) -> Iterator[ShowProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[message]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        # Without a total the bar pulses: the work has begun, and its share is unknown.
        line = bar.add_task(title, total=None, message="")

        def show(message: str, share: float | None = None) -> None:
            bar.update(line, message=message)
            if share is not None:
                bar.update(line, total=1.0, completed=share)

        yield show


class ProgressLines:
    """Progress as plain lines.

    Args:
        title: start of each line.
        stream: output of the lines.
        clock: seconds, monotonic.
    """

    def __init__(self, title: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._began = self._stage_began = clock()
        self._stage: str | None = None
        self._message = ""
        self._share: float | None = None

    def show(self, message: str, share: float | None = None) -> None:
        """Store the message; write it if a stage begins with it."""
        with self._lock:
            self._message, self._share = message, share
            stage = _COUNT.sub("", message)
            if stage == self._stage:
                return
            self._stage, self._stage_began = stage, self._clock()
            self._write("")

    def repeat(self) -> None:
        """Write the newest message again, with the duration of its stage."""
        with self._lock:
            if self._stage is not None:
                self._write(f" ({self._clock() - self._stage_began:.0f} s in this stage)")

    @contextlib.contextmanager
    def repeated(self, interval: float) -> Iterator[None]:
        """Call :meth:`repeat` every ``interval`` seconds while the block runs, from a thread."""
        ended = threading.Event()

        def loop() -> None:
            while not ended.wait(interval):
                self.repeat()

        thread = threading.Thread(target=loop, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _write(self, remark: str) -> None:
        elapsed = self._clock() - self._began
        line = f"{self._title}: {self._message}{remark}"
        if self._share is not None and 0.02 <= self._share < 1 and elapsed >= 1:
            line += f"; {self._share:.0%} done, about {_duration(elapsed * (1 / self._share - 1))} left"
        with contextlib.suppress(OSError, ValueError):  # standard error was closed: the work continues
            self._stream.write(line + "\n")
            self._stream.flush()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
