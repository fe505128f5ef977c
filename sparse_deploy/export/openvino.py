# SPDX-License-Identifier: Apache-2.0
"""Conversion of ONNX to OpenVINO IR, with all names and zeros."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from sparse_deploy.errors import ExportError, one_line
from sparse_deploy.graph.model_file import load_onnx, save_onnx
from sparse_deploy.graph.openvino_ir import stored_weights
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.unshare_weights import UnshareWeights, shared_weights
from sparse_deploy.graph.weights import Orientation, read_weights

Array = NDArray[Any]


def convert_to_ir(onnx_path: Path, xml_path: Path, extension: Path | None = None) -> None:
    """Convert an ONNX file to IR (``.xml`` and ``.bin``): FP32 stays FP32, int8 weights stay int8.

    OpenVINO transposes FP32 weights to ``[out, in]`` and drops their names, which are restored.

    Args:
        onnx_path: the model.
        xml_path: the IR.
        extension: library of the sparse operators, for a model with them; their weights stay in compact form.

    Raises:
        ExportError: OpenVINO can't convert the model, or the name of a weight is unknown.
        OSError: the disk is full or not writable.
    """
    try:
        with _without_telemetry(), _with_weights_unshared(onnx_path) as source:
            model = ov.convert_model(source, extension=[str(extension)] if extension else None)
    except Exception as error:  # OpenVINO's frontend raises RuntimeError and its own classes
        raise ExportError(f"{onnx_path.name}: OpenVINO can't convert it: {one_line(error)}") from error
    _restore_names(model, onnx_path)
    try:
        ov.save_model(model, xml_path, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(f"{xml_path.name}: {one_line(error)}") from error


@contextmanager
def _with_weights_unshared(onnx_path: Path) -> Iterator[Path]:
    """The file, or a temporary copy for the block; see :mod:`sparse_deploy.graph.unshare_weights`."""
    graph = load_onnx(onnx_path)
    if not shared_weights(graph):
        yield onnx_path
        return
    with tempfile.TemporaryDirectory(dir=onnx_path.parent) as folder:
        copy = Path(folder, onnx_path.name)
        save_onnx(run_passes(graph, UnshareWeights()), copy)
        yield copy


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Disable the converter's usage data, which it sends unless a file in the home folder or CI forbids it."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        del os.environ["CI"]
        if before is not None:
            os.environ["CI"] = before


def _restore_names(model: ov.Model, onnx_path: Path) -> None:
    """Restore the ONNX file's weight names, matched by content; equal weights are matched in order."""
    names: dict[bytes, list[str]] = {}
    for weight in read_weights(load_onnx(onnx_path)):
        values = weight.values if weight.orientation is Orientation.OUT_IN else weight.values.T
        names.setdefault(_digest(values), []).append(weight.name)
    named: set[str] = set()
    for _, found in stored_weights(model):
        if found.constant.get_friendly_name() in named:
            continue
        candidates = names.get(_digest(found.values))
        if not candidates:
            raise ExportError(
                f"{onnx_path.name}: OpenVINO changed the weight {found.constant.get_friendly_name()!r} while "
                f"converting; set export.openvino: false and report this"
            )
        name = candidates.pop(0) if len(candidates) > 1 else candidates[0]
        found.constant.set_friendly_name(name)
        named.add(name)


def _digest(array: Array) -> bytes:
    contiguous = np.ascontiguousarray(array)
    return hashlib.blake2b(contiguous.tobytes() + repr(contiguous.shape).encode(), digest_size=16).digest()
