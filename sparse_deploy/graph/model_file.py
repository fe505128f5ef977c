# SPDX-License-Identifier: Apache-2.0
"""ONNX models in single files, without external data."""

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from sparse_deploy.errors import ArtifactError, ConfigError, ExportError, one_line
from sparse_deploy.untrusted.onnx_file import MAX_FILE_BYTES, check_onnx


def load_onnx(path: Path) -> ir.Model:
    """Read an ONNX file.

    Raises:
        ConfigError: no such file.
        ArtifactError: the file is damaged or refused by :func:`sparse_deploy.untrusted.onnx_file.check_onnx`.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected an ONNX model")
    check_onnx(path)
    try:
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except (DecodeError, ValueError, OSError) as error:
        raise ArtifactError(f"{path}: not a readable ONNX file ({one_line(error)}); export again") from error
    try:
        model: ir.Model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises KeyError, ValueError and its own classes
        raise ArtifactError(f"{path}: the ONNX graph is damaged ({one_line(error)}); export again") from error
    return model


def save_onnx(model: ir.Model, path: Path) -> None:
    """Write a model as one file.

    Raises:
        ExportError: the model exceeds the 2 GB limit of an ONNX file.
        OSError: the disk is full or not writable.
    """
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights > MAX_FILE_BYTES:
        raise ExportError(
            f"{path.name}: the weights take {weights} bytes and an ONNX file has at most {MAX_FILE_BYTES}; use a "
            f"smaller model"
        )
    proto = ir.to_proto(model)
    # Readers infer the shapes between nodes, and shapes from before a pass may be wrong: ONNX Runtime's quantizer
    # refuses a file if they differ from the inferred ones.
    for value in proto.graph.value_info:
        value.type.tensor_type.ClearField("shape")
    path.write_bytes(proto.SerializeToString())
