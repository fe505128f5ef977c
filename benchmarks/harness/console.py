# SPDX-License-Identifier: Apache-2.0
"""Progress messages of the benchmarks."""

import sys


def show_progress(message: str) -> None:
    """Replace the line on standard error, if that is a terminal. An empty message clears the line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)
