# SPDX-License-Identifier: Apache-2.0
"""Refusals of checks: a check raises the reason; the name of the file and the advice are added here."""

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from sparse_deploy.errors import ArtifactError


class Refusal(Exception):  # noqa: N818  never leaves this package; its text is half a sentence
    """The expected content of a file and the content found."""


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn a refusal, or a file that can't be read, into the one error that callers see.

    Raises:
        ArtifactError: one line, which names the file.
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
        Refusal: empty, larger than ``most`` bytes, or no regular file.
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
    """A file's bytes without reading them: pages are loaded where they are looked at.

    Raises:
        Refusal: as :func:`require_size`.
    """
    require_size(path, most)
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def quoted(text: object) -> str:
    """Text from a file, made safe for a message: printable, on one line, short."""
    return ascii(text)[:80]
