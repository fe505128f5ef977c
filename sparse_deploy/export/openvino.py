# SPDX-License-Identifier: Apache-2.0
"""ONNX to OpenVINO IR with all names and zeros kept, and the reader of an IR's weights."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from sparse_deploy.errors import ArtifactError, ConfigError, ExportError
from sparse_deploy.graph.model_file import load_onnx
from sparse_deploy.graph.weights import Orientation, read_weights
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.untrusted.openvino_ir import check_openvino_ir

Array = NDArray[Any]
_MOVED_BY = ("Convert", "Multiply", "FakeQuantize")
_INTEGER_WEIGHTS = ("i8", "u8", "i4", "u4")


@dataclass(frozen=True)
class _Weight:
    """A constant on its way into a MatMul: its values and zeros in the layout reached so far."""

    constant: ov.Node
    values: Array
    zeros: BoolArray


@dataclass(frozen=True)
class IrWeight:
    """One stored weight matrix of an IR.

    Attributes:
        name: parameter name in the PyTorch state dict, where the file tells.
        zeros: ``[out, in]``, true where the weight is zero.
        stored_type: OpenVINO's name of the stored type, such as ``f32`` or ``i8``.
        activation: the node that makes the product's other operand; None when that is constant, too.
    """

    name: str
    zeros: BoolArray
    stored_type: str
    activation: ov.Node | None


def convert_to_ir(onnx_path: Path, xml_path: Path) -> None:
    """Convert an ONNX file to IR (``.xml`` and ``.bin``): FP32 stays FP32, int8 weights stay int8.

    OpenVINO transposes FP32 weights to ``[out, in]`` and drops their names on the way; they get them back.

    Raises:
        ExportError: OpenVINO doesn't take the model, or a weight can't be named.
        OSError: the disk is full or not writable.
    """
    try:
        with _without_telemetry():
            model = ov.convert_model(onnx_path)
    except Exception as error:  # OpenVINO's frontend raises RuntimeError and classes of its own
        raise ExportError(f"{onnx_path.name}: OpenVINO can't convert it: {_one_line(error)}") from error
    _restore_names(model, onnx_path)
    try:
        ov.save_model(model, xml_path, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(f"{xml_path.name}: {_one_line(error)}") from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep the converter from posting usage data, which it does unless a file in the home folder or CI forbids it."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        del os.environ["CI"]
        if before is not None:
            os.environ["CI"] = before


def read_weights_of_ir(xml_path: Path) -> list[IrWeight]:
    """All constant 2-D weights of an IR's matrix products, each constant once.

    Raises:
        ConfigError: no such file.
        ArtifactError: not a readable IR.
    """
    return _named_weights(_read_ir(xml_path))


def read_zero_masks(xml_path: Path) -> dict[str, BoolArray]:
    """Zero masks of all constant 2-D weights of an IR's matrix products: ``[out, in]``, by parameter name.

    Integers are zero where they equal their zero point. A constant that several products share counts once.

    Raises:
        ConfigError: no such file.
        ArtifactError: not a readable IR.
    """
    return _zero_masks(_read_ir(xml_path))


def parameter_count(xml_path: Path) -> int:
    """Number of parameters of an IR, without scales, zero points and single numbers.

    Raises:
        ConfigError: no such file.
        ArtifactError: not a readable IR.
    """
    constants = (op for op in _read_ir(xml_path).get_ordered_ops() if op.get_type_name() == "Constant")
    return sum(int(np.prod(tuple(op.shape))) for op in constants if _is_parameter(op))


def _zero_masks(model: ov.Model) -> dict[str, BoolArray]:
    return {weight.name: weight.zeros for weight in _named_weights(model)}


def _named_weights(model: ov.Model) -> list[IrWeight]:
    found: dict[str, IrWeight] = {}
    names: set[str] = set()
    for product, weight in _weights(model):
        constant = weight.constant.get_friendly_name()
        if constant in found:
            continue
        name = _parameter_name(constant, product.get_friendly_name())
        name = constant if name in names else name
        names.add(name)
        operands = [product.input_value(index).get_node() for index in (0, 1)]
        found[constant] = IrWeight(
            name=name,
            zeros=weight.zeros,
            stored_type=weight.constant.get_element_type().get_type_name(),
            activation=next((node for node in operands if _stored(node) is None), None),
        )
    return list(found.values())


def _weights(model: ov.Model) -> Iterator[tuple[ov.Node, _Weight]]:
    """Every MatMul with a constant operand, and that operand as ``[out, in]``."""
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        attributes = product.get_attributes()
        # Rows times weight: the right operand is [in, out] unless transposed; a left one is [out, in].
        for index, lies_out_in in ((1, attributes["transpose_b"]), (0, not attributes["transpose_a"])):
            weight = _stored(product.input_value(index).get_node())
            if weight is not None and weight.zeros.ndim == 2:
                zeros = weight.zeros if lies_out_in else weight.zeros.T
                yield product, _Weight(weight.constant, weight.values if lies_out_in else weight.values.T, zeros)
                break


def _stored(node: ov.Node) -> _Weight | None:
    """The constant behind a value that only moves, scales or shifts it; None when the value is computed."""
    kind = node.get_type_name()
    if kind == "Constant":
        values = np.asarray(node.data)
        return _Weight(node, values, np.asarray(values == 0))
    if kind not in (*_MOVED_BY, "Subtract", "Transpose", "Reshape"):
        return None
    source = _stored(node.input_value(0).get_node())
    if source is None or kind in _MOVED_BY:
        return source
    other = _stored(node.input_value(1).get_node())
    if other is None:
        return None
    if kind == "Subtract":
        return _Weight(source.constant, source.values, np.asarray(source.values == other.values))
    move = _transposed if kind == "Transpose" else _reshaped
    shape = tuple(node.output(0).shape)
    return _Weight(source.constant, move(source.values, other.values, shape), move(source.zeros, other.values, shape))


def _transposed(array: Array, order: Array, shape: tuple[int, ...]) -> Array:
    del shape
    return array.transpose(tuple(int(axis) for axis in order.ravel()))


def _reshaped(array: Array, target: Array, shape: tuple[int, ...]) -> Array:
    del target
    return array.reshape(shape)


def _restore_names(model: ov.Model, onnx_path: Path) -> None:
    """Name the weights after those of the ONNX file, matched by content; of equal ones, in the order of both."""
    names: dict[bytes, list[str]] = {}
    for weight in read_weights(load_onnx(onnx_path)):
        values = weight.values if weight.orientation is Orientation.OUT_IN else weight.values.T
        names.setdefault(_digest(values), []).append(weight.name)
    named: set[str] = set()
    for _, found in _weights(model):
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


def _read_ir(xml_path: Path) -> ov.Model:
    if not xml_path.is_file():
        raise ConfigError(f"{xml_path}: no such file; expected an OpenVINO IR (.xml with its .bin beside it)")
    if not xml_path.with_suffix(".bin").is_file():
        raise ArtifactError(f"{xml_path}: expected {xml_path.stem}.bin beside it, found none; copy both files")
    check_openvino_ir(xml_path)
    try:
        return ov.Core().read_model(xml_path)
    except Exception as error:  # pugixml, I/O and graph errors all arrive as RuntimeError or plain Exception
        raise ArtifactError(f"{xml_path}: not a readable OpenVINO IR: {_one_line(error)}; export again") from error


def _parameter_name(constant: str, product: str) -> str:
    """The parameter behind a constant.

    Optimum's IR calls it ``self.bert...weight``, or leaves the constant unnamed and the product
    ``__module.bert.encoder.layer.0.attention.self.query/ov_ext::linear/MatMul``.
    """
    if product.startswith("__module.") and not constant.endswith(".weight"):
        return product.removeprefix("__module.").split("/")[0] + ".weight"
    return constant.removeprefix("self.")


def _is_parameter(constant: ov.Node) -> bool:
    if int(np.prod(tuple(constant.shape))) < 2:
        return False
    kind = constant.get_element_type()
    if not kind.is_real() and kind.get_type_name() not in _INTEGER_WEIGHTS:
        return False
    return not any(_scales(user) for user in constant.output(0).get_target_inputs())


def _scales(user: ov.Input) -> bool:
    """Whether an input takes the scale, zero point or range of a quantized weight."""
    node = user.get_node()
    if node.get_type_name() == "Convert":
        return any(_scales(next_user) for next_user in node.output(0).get_target_inputs())
    if node.get_type_name() == "FakeQuantize":
        return bool(user.get_index() > 0)
    if node.get_type_name() not in ("Multiply", "Subtract") or user.get_index() != 1:
        return False
    source = _stored(node.input_value(0).get_node())
    return source is not None and source.constant.get_element_type().is_integral()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
