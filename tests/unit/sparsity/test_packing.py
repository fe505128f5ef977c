# SPDX-License-Identifier: Apache-2.0
"""The compact weight form gives back every matrix exactly, in every encoding, and refuses every damaged blob."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparse_deploy.errors import ArtifactError, QuantizationError
from sparse_deploy.sparsity.packing import Encoding, choose_encoding, decode, encode, read_header

MATRICES = hnp.arrays(
    np.int8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=19),
    elements=st.one_of(st.just(0), st.integers(-127, 127)),
    fill=st.just(0),
)


def block_sparse(shape, block, share, seed=0):
    """An int8 matrix whose zeros lie in whole blocks; shape need not be a multiple of the block."""
    random = np.random.default_rng(seed)
    grid = random.random((-(-shape[0] // block[0]), -(-shape[1] // block[1]))) >= share
    keep = np.kron(grid, np.ones(block, bool))[: shape[0], : shape[1]]
    values = random.integers(1, 128, shape) * random.choice((-1, 1), shape)
    return np.where(keep, values, 0).astype(np.int8)


def reference_blob(weight, encoding):
    """The form of docs/sparse_operators.md, written unit by unit."""
    rows, columns = weight.shape
    height, width = {0: (1, 1), 1: (1, 1), 2: (4, 1), 3: (1, 4)}[encoding]
    grid = [(row, column) for row in range(0, rows, height) for column in range(0, columns, width)]
    bits, values, kept = bytearray(-(-len(grid) // 8)), bytearray(), 0
    for index, (row, column) in enumerate(grid):
        places = [(row + down, column + right) for down in range(height) for right in range(width)]
        unit = [int(weight[r, c]) if r < rows and c < columns else 0 for r, c in places]
        if any(unit) or encoding == 0:
            bits[index // 8] |= 1 << index % 8
            values += struct.pack(f"<{len(unit)}b", *unit)
            kept += 1
    body = bytes(values) if encoding == 0 else bytes(bits + values)
    head = struct.pack("<4sHHIIQII", b"SPDW", 1, encoding, rows, columns, kept, zlib.crc32(body), 0)
    return np.frombuffer(head + body, np.uint8)


@settings(max_examples=150, deadline=None)
@given(MATRICES, st.sampled_from(Encoding))
def test_every_matrix_comes_back_and_the_bytes_are_those_of_the_document(weight, encoding):
    blob = encode(weight, encoding)
    np.testing.assert_array_equal(blob, reference_blob(weight, encoding))
    np.testing.assert_array_equal(decode(blob), weight)


@settings(max_examples=60, deadline=None)
@given(MATRICES)
def test_the_chosen_encoding_is_the_smallest(weight):
    sizes = {encoding: len(encode(weight, encoding)) for encoding in Encoding}
    assert len(encode(weight)) == min(sizes.values()) == sizes[choose_encoding(weight)]


@pytest.mark.parametrize(
    ("weight", "encoding"),
    [
        (block_sparse((64, 96), (1, 1), 0.0), Encoding.DENSE),
        (block_sparse((64, 96), (1, 1), 0.1), Encoding.DENSE),  # the bitmap costs more than a tenth
        (block_sparse((64, 96), (1, 1), 0.7), Encoding.ELEMENT),
        (block_sparse((64, 96), (4, 1), 0.8), Encoding.BLOCK_4X1),
        (block_sparse((64, 96), (1, 4), 0.8), Encoding.BLOCK_1X4),
        (block_sparse((63, 97), (4, 1), 0.8), Encoding.BLOCK_4X1),
        (block_sparse((63, 97), (1, 4), 0.8), Encoding.BLOCK_1X4),
    ],
)
def test_each_pattern_gets_its_encoding(weight, encoding):
    assert choose_encoding(weight) is encoding
    header = read_header(encode(weight))
    assert (header.encoding, header.shape) == (encoding, weight.shape)


def test_a_transposed_view_is_read_in_its_own_order():
    weight = block_sparse((24, 40), (1, 1), 0.6).T
    np.testing.assert_array_equal(decode(encode(weight, Encoding.BLOCK_4X1)), weight)


@pytest.mark.parametrize("encoding", Encoding)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_changed_byte_is_refused(encoding, data):
    weight = block_sparse((13, 21), (4, 1), 0.5, seed=3)
    blob = encode(weight, encoding)
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ArtifactError, match="compact weight: "):
        decode(blob)


@pytest.mark.parametrize("encoding", Encoding)
def test_any_other_length_is_refused(encoding):
    blob = encode(block_sparse((9, 14), (1, 4), 0.5), encoding)
    for length in range(len(blob)):
        with pytest.raises(ArtifactError, match="expected"):
            decode(blob[:length])
    with pytest.raises(ArtifactError, match="bytes after the header"):
        decode(np.append(blob, np.uint8(0)))


def _blob(encoding, shape, units, body):
    """A form with a correct checksum over any body."""
    head = struct.pack("<4sHHIIQII", b"SPDW", 1, encoding, *shape, units, zlib.crc32(body), 0)
    return np.frombuffer(head + body, np.uint8)


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (_blob(0, (1, 2), 2, b"\x01\x80"), "found -128"),
        (_blob(0, (1, 2), 1, b"\x01"), "expected 2 units, found 1"),
        (_blob(1, (1, 2), 3, b"\x03\x01\x01\x01"), "at most 2 units, found 3"),
        (_blob(1, (1, 2), 1, b"\x03\x01"), "expected 1 bits set in the bitmap, found 2"),
        (_blob(1, (1, 2), 1, b"\x04\x01"), "after the last unit"),
        (_blob(1, (1, 2), 1, b"\x01\x00"), "other than 0"),
        (_blob(2, (1, 1), 1, b"\x01\x01\x00\x00\x07"), "past the 1 x 1 matrix"),
        (_blob(3, (1, 3), 1, b"\x01\x01\x00\x00\x07"), "past the 1 x 3 matrix"),
        (_blob(4, (1, 1), 1, b"\x01\x01"), "expected encoding 0, 1, 2, 3, found 4"),
        (_blob(1, (0, 1), 0, b""), "found 0 x 1"),
        (_blob(1, (2**20 + 1, 1), 0, b""), "found 1048577 x 1"),
        (_blob(1, (2**20, 2**16 - 1), 1, b"\x01\x01"), "expected 8589803521 bytes"),
        (np.zeros((2, 40), np.uint8), r"one dimension of uint8, found uint8 \[2, 40\]"),
        (np.zeros(40, np.int8), "found int8"),
    ],
)
def test_a_form_that_contradicts_itself_is_refused(blob, reason):
    with pytest.raises(ArtifactError, match=reason):
        decode(blob)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (np.full((2, 2), -128, np.int8), "found -128"),
        (np.zeros((2, 2), np.uint8), "found uint8"),
        (np.zeros(4, np.int8), r"found int8 \[4\]"),
        (np.zeros((0, 4), np.int8), r"found \[0, 4\]"),
    ],
)
def test_a_matrix_that_the_form_cannot_hold_is_refused(weight, reason):
    for attempt in (encode, choose_encoding):
        with pytest.raises(QuantizationError, match=reason):
            attempt(weight)
