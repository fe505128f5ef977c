# SPDX-License-Identifier: Apache-2.0
"""The compact form in which the sparse operators store an INT8 weight; ``docs/sparse_operators.md`` has its layout.

It is independent of instruction sets. Numbers are little-endian; the bitmap has one bit per unit of the grid, row by
row, so only its last byte can have tail bits.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.errors import ArtifactError, QuantizationError

Blob = NDArray[np.uint8]
Int8Matrix = NDArray[np.int8]

MAGIC = 0x57445053  # "SPDW"
VERSION = 1
LARGEST_DIMENSION = 2**20
# Packed layouts store positions in 16 bits, and a sum of this many products of u8 and int8 fits int32.
MOST_INPUTS = 2**16 - 1

_HEADER = struct.Struct("<IHHIIQII")
_BLOCK = 4
_BYTE_POPULATION = np.array([value.bit_count() for value in range(256)], np.uint8)


class Encoding(IntEnum):
    """The unit of a compact form."""

    DENSE = 0
    ELEMENT = 1
    BLOCK_4X1 = 2
    BLOCK_1X4 = 3


@dataclass(frozen=True)
class PackedHeader:
    """The checked header of a compact form.

    Attributes:
        encoding: the kind of unit.
        shape: ``(out_features, in_features)``.
        units: number of kept units.
        crc: CRC-32 of the bytes after the header.
    """

    encoding: Encoding
    shape: tuple[int, int]
    units: int
    crc: int


def encode(weight: Int8Matrix, encoding: Encoding | None = None) -> Blob:
    """The compact form of a weight.

    Args:
        weight: int8 ``[out, in]``, symmetric: -127 to 127.
        encoding: the unit; default: the one with the fewest bytes.

    Raises:
        QuantizationError: not a two-dimensional int8 matrix, too large, or it contains -128.
    """
    _check_matrix(weight)
    chosen = choose_encoding(weight) if encoding is None else encoding
    units = _units(np.ascontiguousarray(weight), chosen)
    if chosen is Encoding.DENSE:
        bitmap, kept = np.empty(0, np.uint8), units.ravel()
    else:
        keep = units != 0
        bitmap, kept = np.packbits(keep, axis=None, bitorder="little"), units[keep]
    values = kept.view(np.uint8)
    rows, columns = weight.shape
    crc = zlib.crc32(values.data, zlib.crc32(bitmap.data))
    header = _HEADER.pack(MAGIC, VERSION, chosen, rows, columns, kept.size, crc, 0)
    return np.concatenate([np.frombuffer(header, np.uint8), bitmap, values])


def decode(blob: Blob) -> Int8Matrix:
    """The int8 ``[out, in]`` matrix of a compact form, including zeros.

    Raises:
        ArtifactError: the form is damaged: truncated, too long, altered, of another version, or not in the form of
            :func:`encode`.
    """
    header = read_header(blob)
    body = blob[_HEADER.size :]
    bits = _grid_size(header.encoding, header.shape)
    bitmap_bytes = 0 if header.encoding is Encoding.DENSE else _ceil(bits, 8)
    expected = bitmap_bytes + header.units * _width(header.encoding)
    if len(body) != expected:
        raise _damaged(f"expected {expected} bytes after the header, found {len(body)}")
    found = zlib.crc32(np.ascontiguousarray(body).data)
    if found != header.crc:
        raise _damaged(f"expected checksum {header.crc:#010x}, found {found:#010x}")
    bitmap, values = body[:bitmap_bytes], body[bitmap_bytes:]
    if np.any(values == 0x80):
        raise _damaged("expected values of -127 to 127, found -128")
    if header.encoding is Encoding.DENSE:
        return values.view(np.int8).reshape(header.shape).copy()
    keep = _keep_mask(bitmap, bits, header.units)
    kept = np.ascontiguousarray(values).view(_unit_type(header.encoding))
    if not kept.all():
        raise _damaged("expected a value other than 0 in every kept unit, found a unit with only zeros")
    units = np.zeros(bits, kept.dtype)
    units[keep] = kept
    return _matrix(units, header.encoding, header.shape)


def read_header(blob: Blob) -> PackedHeader:
    """Read the header (32 bytes) and check its consistency. The body is not read.

    Raises:
        ArtifactError: not a compact form, or an unknown encoding.
    """
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise _damaged(f"expected one dimension of uint8, found {blob.dtype} {list(blob.shape)}")
    if len(blob) < _HEADER.size:
        raise _damaged(f"expected a header of {_HEADER.size} bytes, found {len(blob)} bytes in all")
    magic, version, encoding, rows, columns, units, crc, reserved = _HEADER.unpack(blob[: _HEADER.size].tobytes())
    if magic != MAGIC:
        raise _damaged(f"expected it to begin with {MAGIC:#010x} (SPDW), found {magic:#010x}")
    if version != VERSION:
        raise _damaged(f"expected version {VERSION}, found {version}")
    if encoding not in iter(Encoding):
        raise _damaged(f"expected encoding {', '.join(f'{kind.value}' for kind in Encoding)}, found {encoding}")
    if not (1 <= rows <= LARGEST_DIMENSION and 1 <= columns <= LARGEST_DIMENSION):
        raise _damaged(f"expected a shape of 1 to {LARGEST_DIMENSION} each way, found {rows} x {columns}")
    if columns > MOST_INPUTS:
        raise ArtifactError(f"compact weight: {too_many_inputs(columns)}; export again without this layer")
    if reserved:
        raise _damaged(f"expected 0 in the reserved field, found {reserved}")
    kind = Encoding(encoding)
    grid = _grid_size(kind, (rows, columns))
    if units > grid or (kind is Encoding.DENSE and units != grid):
        raise _damaged(f"expected {'' if kind is Encoding.DENSE else 'at most '}{grid} units, found {units}")
    return PackedHeader(kind, (rows, columns), units, crc)


def too_many_inputs(columns: int) -> str:
    """The message for a weight of more than :data:`MOST_INPUTS` columns."""
    return (
        f"it has {columns} input channels, the sparse operators support at most {MOST_INPUTS}: positions fit 16 bits, "
        f"sums fit INT32"
    )


def choose_encoding(weight: Int8Matrix) -> Encoding:
    """The encoding with the fewest bytes; with equal sizes the first in the order of :class:`Encoding`.

    Raises:
        QuantizationError: as for :func:`encode`.
    """
    _check_matrix(weight)
    matrix = np.ascontiguousarray(weight)
    return min(Encoding, key=lambda kind: _packed_size(matrix, kind))


def _packed_size(weight: Int8Matrix, encoding: Encoding) -> int:
    if encoding is Encoding.DENSE:
        return weight.size
    kept = int(np.count_nonzero(_units(weight, encoding)))
    return _ceil(_grid_size(encoding, weight.shape), 8) + kept * _width(encoding)


def _units(weight: Int8Matrix, encoding: Encoding) -> NDArray[Any]:
    """The grid of units, one number each: four int8 of a block are read as one little-endian uint32."""
    if _width(encoding) == 1:
        return weight
    rows, columns = weight.shape
    if encoding is Encoding.BLOCK_1X4:
        padded = _padded(weight, rows, _ceil(columns, _BLOCK) * _BLOCK)
    else:
        tall = _padded(weight, _ceil(rows, _BLOCK) * _BLOCK, columns).reshape(-1, _BLOCK, columns)
        padded = np.ascontiguousarray(tall.transpose(0, 2, 1)).reshape(len(tall), columns * _BLOCK)
    return padded.view(_unit_type(encoding))


def _matrix(units: NDArray[Any], encoding: Encoding, shape: tuple[int, int]) -> Int8Matrix:
    """Undo :func:`_units` on the flat grid.

    Raises:
        ArtifactError: a block has a value other than 0 outside the matrix.
    """
    values = units.view(np.int8)
    rows, columns = shape
    if encoding is Encoding.ELEMENT:
        return values.reshape(shape)
    if encoding is Encoding.BLOCK_1X4:
        padded = values.reshape(rows, -1)
    else:
        padded = values.reshape(-1, columns, _BLOCK).transpose(0, 2, 1).reshape(-1, columns)
    if padded[rows:].any() or padded[:, columns:].any():
        raise _damaged(f"expected zeros past the {rows} x {columns} matrix, found other values")
    return np.ascontiguousarray(padded[:rows, :columns])


def _keep_mask(bitmap: Blob, bits: int, units: int) -> NDArray[np.bool_]:
    found = int(_BYTE_POPULATION[bitmap].sum(dtype=np.int64))
    if found != units:
        raise _damaged(f"expected {units} bits set in the bitmap, found {found}")
    unpacked = np.unpackbits(bitmap, bitorder="little")
    if unpacked[bits:].any():
        raise _damaged("expected 0 in the bits after the last unit, found others")
    return unpacked[:bits].view(np.bool_)


def _padded(weight: Int8Matrix, rows: int, columns: int) -> Int8Matrix:
    if weight.shape == (rows, columns):
        return weight
    padded = np.zeros((rows, columns), np.int8)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    return padded


def _check_matrix(weight: Int8Matrix) -> None:
    if weight.dtype != np.int8 or weight.ndim != 2:
        raise QuantizationError(
            f"compact weight: expected int8 [out, in], found {weight.dtype} {list(weight.shape)}; quantize the weight "
            f"to int8 first"
        )
    if not all(1 <= size <= LARGEST_DIMENSION for size in weight.shape):
        raise QuantizationError(
            f"compact weight: expected 1 to {LARGEST_DIMENSION} rows and columns, found {list(weight.shape)}; exclude "
            f"the layer"
        )
    if weight.shape[1] > MOST_INPUTS:
        raise QuantizationError(f"compact weight: {too_many_inputs(weight.shape[1])}; exclude the layer")
    if int(weight.min()) < -127:
        raise QuantizationError(
            "compact weight: expected values of -127 to 127, found -128, which has no positive counterpart; quantize "
            "symmetrically"
        )


def _grid_size(encoding: Encoding, shape: tuple[int, ...]) -> int:
    rows, columns = shape
    if encoding is Encoding.BLOCK_4X1:
        return _ceil(rows, _BLOCK) * columns
    if encoding is Encoding.BLOCK_1X4:
        return rows * _ceil(columns, _BLOCK)
    return rows * columns


def _width(encoding: Encoding) -> int:
    return _BLOCK if encoding in (Encoding.BLOCK_4X1, Encoding.BLOCK_1X4) else 1


def _unit_type(encoding: Encoding) -> np.dtype[Any]:
    return np.dtype("<u4" if _width(encoding) == _BLOCK else np.int8)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)


def _damaged(reason: str) -> ArtifactError:
    return ArtifactError(f"compact weight: {reason}; the file is damaged, export again")
