# SPDX-License-Identifier: Apache-2.0
"""The header is compared with the file in whole numbers; more damage is in ``test_checkpoint.py``."""

import json
import struct

import pytest
from safetensors import SafetensorError, safe_open

from sparse_deploy.errors import ArtifactError, CheckpointError
from sparse_deploy.untrusted.model_file import check_model_file
from sparse_deploy.untrusted.safetensors_file import read_header

FIRST = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SECOND = {"dtype": "I8", "shape": [4], "data_offsets": [8, 12]}


def write(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_a_whole_file(tmp_path):
    path = write(tmp_path / "m.safetensors", {"a": FIRST, "b": SECOND, "__metadata__": {"format": "pt"}}, bytes(12))
    assert read_header(path) == {"a": FIRST, "b": SECOND}
    check_model_file(path)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"a": FIRST, "b": SECOND | {"data_offsets": [4, 8]}}, 8),  # overlap
        ({"a": FIRST, "b": FIRST}, 8),  # the same bytes
        ({"a": FIRST, "b": SECOND | {"data_offsets": [10, 14]}}, 14),  # a hole
        ({"a": SECOND}, 12),  # does not begin at 0
        ({"a": SECOND | {"shape": [5], "data_offsets": [0, 4]}}, 4),
        ({"a": FIRST | {"shape": [2**62, 2**62], "data_offsets": [0, 0]}}, 0),  # wraps to 0 in 64 bits
        ({"a": FIRST | {"dtype": "F99"}}, 8),
        ({"a": FIRST | {"location": "/etc/passwd"}}, 8),
        (b'{"a": ' + json.dumps(FIRST).encode() + b', "a": ' + json.dumps(FIRST).encode() + b"}", 8),
        (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', 8),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, header, size):
    path = write(tmp_path / "m.safetensors", header, bytes(size))
    with pytest.raises(CheckpointError, match="damaged"):
        read_header(path)
    with pytest.raises(ArtifactError, match="damaged"):
        check_model_file(path)


def test_the_library_refuses_overlaps_too(tmp_path):
    """The check is no stricter than the format."""
    path = write(tmp_path / "m.safetensors", {"a": FIRST, "b": SECOND | {"data_offsets": [4, 8]}}, bytes(8))
    with pytest.raises(SafetensorError), safe_open(path, "np") as stored:
        stored.keys()


def test_a_format_that_nobody_checks_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"suffix '\.pt'"):
        check_model_file(tmp_path / "model.pt")
