# SPDX-License-Identifier: Apache-2.0
"""Refusals of checks: a check raises the reason; this module adds the file's name and the advice."""

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from sparse_deploy.errors import ArtifactError


class Refusal(Exception):  # noqa: N818  internal; its text is a part of a message
    """The expected content of a file and the content found."""


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Convert a refusal, or an error of reading, to the error for callers.

    Raises:
        ArtifactError: one line with the file's name.
    """
    try:
        yield
    except Refusal as refusal:
        raise ArtifactError(f"{path}: refused unopened: {refusal}; copy or export it again") from refusal
    except OSError as error:
        raise ArtifactError(f"{path}: can't be read: {error.strerror or error}; copy or export it again") from error


def require_size(path: Path, most: int) -> int:
    """The size of a regular file.

    Raises:
        Refusal: the file is empty, larger than ``most`` bytes, or not a regular file.
    """
    if not path.is_file():
        raise Refusal(
            f"expected a regular file named {path.name}, found {'something else' if path.exists() else 'none'}"
        )
    size = path.stat().st_size
    if not 0 < size <= most:
        raise Refusal(f"expected 1 to {most} bytes, found {size}")
    return size


def map_file(path: Path, most: int) -> memoryview:
    """A file's bytes, memory-mapped: pages are loaded on access.

    Raises:
        Refusal: as for :func:`require_size`.
    """
    require_size(path, most)
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def quoted(text: object) -> str:
    """Text from a file in a safe form for messages: printable, on one line, short."""
    return ascii(text)[:80]
