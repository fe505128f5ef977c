# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error: a bar on a terminal, nothing when piped."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """Show a bar while the block runs.

    Args:
        title: what is going on.

    Yields:
        A function that takes a message and the share done (0 to 1). It does nothing off a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda message, share: None
        return
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
        line = bar.add_task(title, total=1.0, message="")
        yield lambda message, share: bar.update(line, completed=share, message=message)
