# SPDX-License-Identifier: Apache-2.0
"""JSON files of unknown origin: limited size and depth, no duplicate keys."""

import json
from pathlib import Path
from typing import Any


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a file, at most up to the limit, also for a device or a growing file.

    Args:
        path: the file.
        limit: largest number of bytes.

    Raises:
        OSError: the file is unreadable.
        ValueError: the file is longer.
    """
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return data


def load_json_object(data: bytes) -> dict[str, Any]:
    """Parse an object. Duplicate keys are refused, because parsers differ in the value that they use.

    Raises:
        ValueError: not JSON, not an object, a duplicate key, or nested too deep.
    """
    try:
        content = json.loads(data, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")  # noqa: TRY004 - one class for all
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {ascii(twice)[:80]} is given twice")
    return content
