# SPDX-License-Identifier: Apache-2.0
"""The reader of an OpenVINO IR's weights: their names, zeros and types."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from sparse_deploy.errors import ArtifactError, ConfigError, one_line
from sparse_deploy.graph.operators import DOMAIN, PACKED_INPUTS, SCALE_INPUTS
from sparse_deploy.kernels.openvino_extension import ready_openvino_library
from sparse_deploy.sparsity.integers import as_distances, largest_integer
from sparse_deploy.sparsity.packing import decode, read_header
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.weight_grid import largest_neighbour_sum
from sparse_deploy.untrusted.openvino_ir import check_openvino_ir, holds_sparse_operators

Array = NDArray[Any]
_MOVED_BY = ("Convert", "Multiply", "FakeQuantize")
_INTEGER_WEIGHTS = ("i8", "u8", "i4", "u4")
# Nodes between a quantized activation and its product that do not change values.
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze")
_INT8_LEVELS = 256
_PRODUCTS = ("MatMul", "Einsum", "Convolution")
_FLOAT = "f32"


@dataclass(frozen=True)
class StoredWeight:
    """A constant on the path to a MatMul: its values and zeros in the current layout; see :class:`IrWeight`."""

    constant: ov.Node
    values: Array
    zeros: BoolArray
    integers: Array


@dataclass(frozen=True)
class IrWeight:
    """One stored weight matrix of an IR.

    Attributes:
        name: parameter name in the PyTorch state dict, if the file has it.
        zeros: ``[out, in]``, true where the weight is zero.
        stored_type: OpenVINO's name of the stored type, such as ``f32`` or ``i8``.
        activation_type: type of the product's other operand: ``u8`` or ``i8`` if the file quantizes it with a stored
            scale, ``f32`` otherwise.
        integers: ``[out, in]``, the stored values minus their zero point; floating point for other weights.
    """

    name: str
    zeros: BoolArray
    stored_type: str
    activation_type: str
    integers: Array

    def largest(self) -> int:
        """See :func:`sparse_deploy.sparsity.integers.largest_integer`."""
        return largest_integer(self.integers)

    def largest_neighbour_sum(self) -> int:
        """See :func:`sparse_deploy.sparsity.weight_grid.largest_neighbour_sum`."""
        return largest_neighbour_sum(self.integers)


def read_weights_of_ir(xml_path: Path) -> list[IrWeight]:
    """All constant 2-D weights of an IR's matrix products and sparse operators, each constant once.

    Raises:
        ConfigError: no such file.
        ArtifactError: not a readable IR.
        RuntimeUnavailableError: it has sparse operators, and their extension is not built.
    """
    return weights_of(_read_ir(xml_path))


def read_zero_masks(xml_path: Path) -> dict[str, BoolArray]:
    """Zero masks of all weights of :func:`read_weights_of_ir`: ``[out, in]``, by parameter name.

    Integers are zero if they equal their zero point. A constant shared by several products counts once.

    Raises:
        ConfigError, ArtifactError, RuntimeUnavailableError: as there.
    """
    return {weight.name: weight.zeros for weight in read_weights_of_ir(xml_path)}


def parameter_count(xml_path: Path) -> int:
    """Number of parameters of an IR, without scales, zero points and single numbers.

    Raises:
        ConfigError, ArtifactError, RuntimeUnavailableError: as :func:`read_weights_of_ir`.
    """
    constants = (op for op in _read_ir(xml_path).get_ordered_ops() if op.get_type_name() == "Constant")
    return sum(_parameters_in(op) for op in constants)


def weights_of(model: ov.Model) -> list[IrWeight]:
    """As :func:`read_weights_of_ir`, for an opened model.

    Raises:
        ArtifactError: a packed weight is damaged.
    """
    found = _packed_weights(model)
    names = {weight.name for weight in found.values()}
    for product, weight in stored_weights(model):
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
            activation_type=_activation_type(next((node for node in operands if _stored(node) is None), None)),
            integers=weight.integers,
        )
    return list(found.values())


def products_not_understood(xml_path: Path) -> list[str]:
    """Names of products with a stored operand that :func:`read_weights_of_ir` can't read.

    Raises:
        ConfigError, ArtifactError, RuntimeUnavailableError: as there.
    """
    model = _read_ir(xml_path)
    read = {product.get_friendly_name() for product, _ in stored_weights(model)}
    return [
        f"{op.get_type_name()} {op.get_friendly_name()}"
        for op in model.get_ordered_ops()
        if op.get_type_name() in _PRODUCTS
        and op.get_friendly_name() not in read
        and any(_is_computed_from_constants(op.input_value(index).get_node()) for index in range(2))
    ]


def _is_computed_from_constants(node: ov.Node) -> bool:
    stack, seen = [node], set()
    while stack:
        one = stack.pop()
        name = one.get_friendly_name()
        if one.get_type_name() == "Parameter":
            return False
        if name not in seen:
            seen.add(name)
            stack.extend(one.input_value(index).get_node() for index in range(one.get_input_size()))
    return True


def _packed_weights(model: ov.Model) -> dict[str, IrWeight]:
    """Weights of sparse operators in the compact form, by their constant's name."""
    found: dict[str, IrWeight] = {}
    for node in model.get_ordered_ops():
        for index in PACKED_INPUTS[node.get_type_name()] if _is_sparse(node) else ():
            constant = node.input_value(index).get_node()
            name = constant.get_friendly_name()
            if name in found or constant.get_type_name() != "Constant":
                continue
            try:
                matrix = decode(np.asarray(constant.data))
            except ArtifactError as error:
                raise ArtifactError(f"{name}: {error}") from error
            found[name] = IrWeight(name, matrix == 0, "i8", "u8", matrix)
    return found


def _is_sparse(node: ov.Node) -> bool:
    return bool(node.get_type_info().version_id == DOMAIN)


def _activation_type(node: ov.Node | None) -> str:
    """Type in which the CPU plugin multiplies an activation: an IR has a FakeQuantize for a QDQ pair.

    OpenVINO 2026.4 uses i8 if the range is that of a signed byte with zero point 0, else u8 (according to its execution
    graph).
    """
    while node is not None and node.get_type_name() in _MOVES:
        node = node.input_value(0).get_node()
    if node is None or node.get_type_name() != "FakeQuantize" or node.get_attributes()["levels"] > _INT8_LEVELS:
        return _FLOAT
    low, high = (node.input_value(index).get_node() for index in (1, 2))
    if low.get_type_name() != "Constant" or high.get_type_name() != "Constant":
        return _FLOAT
    low, high = np.asarray(low.data, np.float64), np.asarray(high.data, np.float64)
    return "i8" if np.allclose(low / high, -128 / 127) else "u8"


def stored_weights(model: ov.Model) -> Iterator[tuple[ov.Node, StoredWeight]]:
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
                values = weight.values if lies_out_in else weight.values.T
                integers = weight.integers if lies_out_in else weight.integers.T
                yield product, StoredWeight(weight.constant, values, zeros, integers)
                break


def _stored(node: ov.Node) -> StoredWeight | None:
    """The constant before nodes that only move, scale or shift it; None if the value is computed."""
    kind = node.get_type_name()
    if kind == "Constant":
        values = np.asarray(node.data)
        return StoredWeight(node, values, np.asarray(values == 0), values)
    if kind not in (*_MOVED_BY, "Subtract", "Transpose", "Reshape"):
        return None
    source = _stored(node.input_value(0).get_node())
    if source is None or kind in _MOVED_BY:
        return source
    other = _stored(node.input_value(1).get_node())
    if other is None:
        return None
    if kind == "Subtract":
        zeros = np.asarray(source.values == other.values)
        stored = source.values
        integers = as_distances(stored, other.values) if stored.dtype.kind in "iu" else stored
        return StoredWeight(source.constant, stored, zeros, integers)
    move = _transposed if kind == "Transpose" else _reshaped
    shape = tuple(node.output(0).shape)
    values, zeros, integers = (
        move(array, other.values, shape) for array in (source.values, source.zeros, source.integers)
    )
    return StoredWeight(source.constant, values, zeros, integers)


def _transposed(array: Array, order: Array, shape: tuple[int, ...]) -> Array:
    del shape
    return array.transpose(tuple(int(axis) for axis in order.ravel()))


def _reshaped(array: Array, target: Array, shape: tuple[int, ...]) -> Array:
    del target
    return array.reshape(shape)


def _read_ir(xml_path: Path) -> ov.Model:
    if not xml_path.is_file():
        raise ConfigError(f"{xml_path}: no such file; expected an OpenVINO IR (.xml with its .bin in the same folder)")
    if not xml_path.with_suffix(".bin").is_file():
        raise ArtifactError(f"{xml_path}: expected {xml_path.stem}.bin in the same folder, found none; copy both files")
    check_openvino_ir(xml_path)
    core = ov.Core()
    if holds_sparse_operators(xml_path):
        core.add_extension(str(ready_openvino_library()))
    try:
        return core.read_model(xml_path)
    except Exception as error:  # pugixml, I/O and graph errors are RuntimeError or Exception
        raise ArtifactError(f"{xml_path}: not a readable OpenVINO IR: {one_line(error)}; export again") from error


def _parameter_name(constant: str, product: str) -> str:
    """The parameter's name of a constant.

    Optimum's IR names it ``self.bert...weight``, or has an unnamed constant and the product
    ``__module.bert.encoder.layer.0.attention.self.query/ov_ext::linear/MatMul``; from an ONNX file of TorchScript's
    exporter the product is ``/bert/encoder/layer.0/attention/self/query/MatMul``.
    """
    if constant.endswith(".weight"):
        return constant.removeprefix("self.")
    if product.startswith("__module."):
        return product.removeprefix("__module.").split("/")[0] + ".weight"
    path = product.strip("/").split("/")[:-1]
    return ".".join([*path, "weight"]) if path else constant.removeprefix("self.")


def _parameters_in(constant: ov.Node) -> int:
    users = constant.output(0).get_target_inputs()
    if any(_is_sparse(user.get_node()) and user.get_index() in _places(PACKED_INPUTS, user) for user in users):
        rows, columns = read_header(np.asarray(constant.data)).shape
        return rows * columns
    size = int(np.prod(tuple(constant.shape)))
    kind = constant.get_element_type()
    if size < 2 or (not kind.is_real() and kind.get_type_name() not in _INTEGER_WEIGHTS):
        return 0
    return 0 if any(_scales(user) for user in users) else size


def _places(table: Mapping[str, tuple[int, ...]], user: ov.Input) -> tuple[int, ...]:
    return table[user.get_node().get_type_name()]


def _scales(user: ov.Input) -> bool:
    """Whether an input is the scale, zero point or range of a quantized weight."""
    node = user.get_node()
    if _is_sparse(node):
        return user.get_index() in _places(SCALE_INPUTS, user)
    if node.get_type_name() == "Convert":
        return any(_scales(next_user) for next_user in node.output(0).get_target_inputs())
    if node.get_type_name() == "FakeQuantize":
        return bool(user.get_index() > 0)
    if node.get_type_name() not in ("Multiply", "Subtract") or user.get_index() != 1:
        return False
    source = _stored(node.input_value(0).get_node())
    return source is not None and source.constant.get_element_type().is_integral()
