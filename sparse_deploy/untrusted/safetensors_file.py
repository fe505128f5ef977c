# SPDX-License-Identifier: Apache-2.0
"""safetensors files: the header is checked against the file before it is used.

Format and limit of the header: https://github.com/huggingface/safetensors (8-byte little-endian header length, JSON
header, tensor bytes without holes).
"""

import json
import math
from pathlib import Path
from typing import Any

from sparse_deploy.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 100_000
MAX_RANK = 32
ELEMENT_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


def read_header(path: Path) -> dict[str, Any]:
    """Read and check the header of a safetensors file.

    Returns:
        ``{"dtype", "shape", "data_offsets"}`` by tensor name; offsets start at the end of the header.

    Raises:
        CheckpointError: the file is truncated or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(f"{path}: incomplete safetensors file ({size} bytes); copy or download it again")
            header = json.loads(stream.read(length), object_pairs_hook=_object, parse_constant=_refuse_constant)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = _end_without_holes([_checked_extent(entry) for entry in tensors.values()])
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}; copy or download the file again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the safetensors header is damaged; copy or download the file again") from error
    if 8 + length + end != size:
        raise CheckpointError(
            f"{path}: truncated: the header describes {8 + length + end} bytes, the file has {size}; copy or download "
            f"it again"
        )
    return tensors


def _end_without_holes(extents: list[tuple[int, int]]) -> int:
    """The end of the last tensor; tensors must be contiguous, so that none overlaps another."""
    if len(extents) > MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS} tensors")
    end = 0
    for first, last in sorted(extents):
        if first != end:
            raise ValueError("tensors overlap or leave a hole")
        end = last
    return end


def _checked_extent(entry: dict[str, Any]) -> tuple[int, int]:
    """The position of a tensor's bytes; refuses an entry with inconsistent type, shape and offsets."""
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if len(entry) != 3 or not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise ValueError("unknown entries, or no shape")
    if any(type(number) is not int or number < 0 for number in (*shape, first, last)) or first > last:
        raise ValueError("negative or not a whole number")
    if math.prod(shape) * ELEMENT_BITS[dtype] != 8 * (last - first):
        raise ValueError("shape and offsets contradict each other")
    return first, last


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
