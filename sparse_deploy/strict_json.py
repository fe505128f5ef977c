# SPDX-License-Identifier: Apache-2.0
"""JSON files of unknown origin: a bounded read, one meaning, and no more depth than the reader survives."""

import json
from pathlib import Path
from typing import Any


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a file; a device or a growing file can't make it longer than the limit.

    Args:
        path: the file.
        limit: most bytes.

    Raises:
        OSError: unreadable.
        ValueError: longer.
    """
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return data


def load_json_object(data: bytes) -> dict[str, Any]:
    """Parse an object. A key that comes twice is refused: parsers differ in which of the values they take.

    Raises:
        ValueError: no JSON, no object, a key twice, or too deep.
    """
    try:
        content = json.loads(data, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")  # noqa: TRY004 - one kind for all
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {ascii(twice)[:80]} is there twice")
    return content
