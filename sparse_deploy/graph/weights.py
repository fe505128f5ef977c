# SPDX-License-Identifier: Apache-2.0
"""The weights of matrix products in an ONNX graph: storage, orientation and zeros.

One reader for all forms of a Linear layer's weight: FP32 MatMul and Gemm, QDQ, the integer products of ONNX Runtime's
quantizer, with Transpose, Cast or Constant nodes in between, and the sparse operators.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparse_deploy.errors import ArtifactError
from sparse_deploy.graph.model_file import load_onnx
from sparse_deploy.graph.operators import packed_inputs, scale_inputs
from sparse_deploy.sparsity.integers import as_distances, largest_integer
from sparse_deploy.sparsity.packing import decode, read_header
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.weight_grid import largest_neighbour_sum

Array = NDArray[Any]

MICROSOFT = "com.microsoft"
# Suffixes that quantizers append to a weight's name (ONNX Runtime: _quantized; Neural Compressor for ONNX: _q).
_NAME_SUFFIX = re.compile(r"(_quantized|_q|_int8|_transposed)+$")
# Constants next to a product: factors (after it in ONNX Runtime's dynamic quantizer, before it in smoothing),
# and the bias of zeros of a sparse operator for a layer without a bias.
_SCALE_NAMES = ("_scale", "_zero_point", ".smoothing", "_zero_bias")
_PASSED_THROUGH = ("Identity", "Cast", "CastLike", "Clip")


class Orientation(StrEnum):
    """The orientation of a stored matrix: ``[out, in]`` as in ``torch.nn.Linear.weight``, or ``[in, out]``."""

    OUT_IN = "out,in"
    IN_OUT = "in,out"


@dataclass(frozen=True)
class OnnxWeight:
    """One stored weight matrix.

    Attributes:
        name: parameter name in the PyTorch state dict, if the file has it.
        initializer: name of the value in the graph.
        values: stored values: floating point, int8 or uint8; ``[out, in]`` or ``[in, out]``.
        orientation: the orientation.
        zero_point: the stored value of a zero weight, broadcastable to ``values``; None for floating point.
        scale: real value per step, broadcastable to ``values``; None for floating point, or if the scale is applied
            after the product (``MatMulInteger``).
        part: name of the part, if an initializer has several weights; else empty.
    """

    name: str
    initializer: str
    values: Array
    orientation: Orientation
    zero_point: Array | None = None
    scale: Array | None = None
    part: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``, whichever way the matrix is stored."""
        rows, columns = self.values.shape
        return (rows, columns) if self.orientation is Orientation.OUT_IN else (columns, rows)

    @property
    def quantized(self) -> bool:
        """Whether the values are stored as integers."""
        return self.values.dtype.kind in "iu"

    def largest(self) -> int:
        """Largest distance of stored integers from their zero point; 0 for floating point."""
        return largest_integer(self.values, self.zero_point)

    def largest_neighbour_sum(self) -> int:
        """See :func:`sparse_deploy.sparsity.weight_grid.largest_neighbour_sum`."""
        integers = as_distances(self.values, self.zero_point) if self.quantized else self.values
        return largest_neighbour_sum(integers if self.orientation is Orientation.OUT_IN else integers.T)

    def zero_mask(self) -> BoolArray:
        """``[out, in]``, true where the weight is zero (integers: equal to their zero point)."""
        zeros: BoolArray = np.asarray(self.values == (0 if self.zero_point is None else self.zero_point))
        return zeros if self.orientation is Orientation.OUT_IN else zeros.T


def read_weights(model: ir.Model) -> list[OnnxWeight]:
    """All stored 2-D weights of matrix products, in graph order; each parameter once.

    Embeddings (``Gather``) are not included.

    Raises:
        ArtifactError: the packed weight of a sparse operator is damaged.
    """
    found: dict[str, OnnxWeight] = {}
    seen: set[tuple[str, str]] = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for weight in weights_of(node):
            key = weight.initializer, weight.part
            if key in seen:
                continue
            seen.add(key)
            known = found.get(weight.name)
            if known is not None and _holds_fewer_zeros(known, weight):
                continue
            if known is not None and not _holds_fewer_zeros(weight, known):
                weight = replace(weight, name=weight.initializer + weight.part)
            found[weight.name] = weight
    return list(found.values())


def _holds_fewer_zeros(one: OnnxWeight, other: OnnxWeight) -> bool:
    """Whether two weights are the same parameter, with the zeros of the first.

    A parameter may be stored in two precisions, under its name with and without a quantizer's suffix. The zeros are
    those of both.
    """
    if _NAME_SUFFIX.sub("", one.initializer) != _NAME_SUFFIX.sub("", other.initializer):
        return False
    zeros, others = one.zero_mask(), other.zero_mask()
    return zeros.shape == others.shape and bool((others | ~zeros).all())


def products_not_understood(model: ir.Model) -> list[str]:
    """Names of matrix products with a stored operand that :func:`read_weights` can't read.

    A product of two computed tensors, as in attention, is not included.
    """
    names = []
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type not in _PRODUCTS or next(weights_of(node), None) is not None:
            continue
        operands = [value for value in node.inputs[: _OPERANDS.get(node.op_type, 2)] if value is not None]
        if any(_is_stored(value) for value in operands):
            names.append(f"{node.op_type} {node.name or node.outputs[0].name}")
    return names


def _is_stored(value: ir.Value) -> bool:
    """Whether a value is computed only from constants."""
    stack, seen = [value], set()
    while stack:
        one = stack.pop()
        producer = one.producer()
        if producer is None and constant(one) is None:
            return False
        if producer is not None and producer not in seen:
            seen.add(producer)
            stack.extend(source for source in producer.inputs if source is not None)
    return True


def weights_of(node: ir.Node) -> Iterator[OnnxWeight]:
    """The stored 2-D weights of a node: one of a matrix product, six of an encoder layer.

    Raises:
        ArtifactError: as :func:`read_weights`.
    """
    weight = _find_weight(node)
    if weight is not None and node.op_type in _FUSED_ATTENTION:
        yield from _split(weight, node)
    elif weight is not None:
        yield weight
    for index in packed_inputs(node):
        packed = _packed(node, index)
        if packed is not None:
            yield packed


def zero_masks(model: ir.Model) -> dict[str, BoolArray]:
    """Zero masks of all weights that :func:`read_weights` finds: ``[out, in]``, by parameter name."""
    return {weight.name: weight.zero_mask() for weight in read_weights(model)}


def read_zero_masks(path: Path) -> dict[str, BoolArray]:
    """:func:`zero_masks` of a file.

    Raises:
        ConfigError: no such file.
        ArtifactError: not a readable ONNX file.
    """
    return zero_masks(load_onnx(path))


def parameter_count(model: ir.Model) -> int:
    """Number of parameters of linear layers, embeddings and norms, without scales, zero points and scalars."""
    return sum(_parameters_in(value, tensor) for value, tensor in constants(model))


def constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Every constant of the graph with its tensor: initializers, then Constant nodes."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            yield value, value.const_value
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type == "Constant":
            tensor = constant(node.outputs[0])
            if tensor is not None:
                yield node.outputs[0], tensor


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or of a Constant node's output; None for other values."""
    return None if value is None else ir.convenience.get_const_tensor(value)


@dataclass(frozen=True)
class _Form:
    """Indices of an operator's inputs for a weight, its scale and its zero point; -1 for none."""

    weight: int
    scale: int = -1
    zero_point: int = -1


# https://onnx.ai/onnx/operators and, for com.microsoft, docs/ContribOperators.md of ONNX Runtime
_FORMS: dict[tuple[str, str], _Form] = {
    ("", "MatMul"): _Form(1),
    ("", "Gemm"): _Form(1),
    ("", "MatMulInteger"): _Form(1, zero_point=3),
    ("", "QLinearMatMul"): _Form(3, scale=4, zero_point=5),
    (MICROSOFT, "FusedMatMul"): _Form(1),
    (MICROSOFT, "FusedGemm"): _Form(1),
    (MICROSOFT, "DynamicQuantizeMatMul"): _Form(1, scale=2, zero_point=3),
    (MICROSOFT, "MatMulIntegerToFloat"): _Form(1, scale=3, zero_point=5),
    (MICROSOFT, "QGemm"): _Form(3, scale=4, zero_point=5),
    (MICROSOFT, "Attention"): _Form(1),
    (MICROSOFT, "QAttention"): _Form(1, scale=4, zero_point=7),
}
# Operators whose weight has those of query, key and value in one matrix, [in, 3 x out].
_FUSED_ATTENTION = ("Attention", "QAttention")
_PARTS = (".query", ".key", ".value")
# Operators that multiply with a stored matrix, including forms that this module can't read.
_PRODUCTS = frozenset(name for _, name in _FORMS) | {"Einsum", "Conv", "MatMulNBits", "MatMulBnb4", "MatMulFpQ4"}
# Inputs that may be operands, if they are not the first two.
_OPERANDS = {"QLinearMatMul": 4, "QGemm": 4}


@dataclass(frozen=True)
class _Operand:
    """A weight in the form of its consumer; each step towards its constant converts it to the stored form."""

    value: ir.Value | None
    orientation: Orientation
    zero_point: Array | None = None
    scale: Array | None = None

    def before(self, node: ir.Node) -> "_Operand | None":
        """The operand as the input of its producer; None if the producer does more than move or scale it."""
        source = _input(node, 0)
        if node.op_type == "Transpose":
            # Without perm, Transpose reverses the axes.
            if tuple(node.attributes.get_ints("perm", (1, 0))) != (1, 0):
                return None
            turned = Orientation.IN_OUT if self.orientation is Orientation.OUT_IN else Orientation.OUT_IN
            return _Operand(source, turned, _turned(self.zero_point), _turned(self.scale))
        if node.op_type == "DequantizeLinear":
            axis = node.attributes.get_int("axis", 1) % 2
            scale, zero_point = _through_casts(_input(node, 1)), _through_casts(_input(node, 2))
            return _Operand(source, self.orientation, _along(zero_point, axis), _along(scale, axis))
        if node.op_type == "QuantizeLinear":
            return _Operand(source, self.orientation)
        return replace(self, value=source) if node.op_type in _PASSED_THROUGH else None


def _find_weight(node: ir.Node) -> OnnxWeight | None:
    form = _FORMS.get((node.domain, node.op_type))
    if form is None:
        return None
    turned = bool(node.attributes.get_int("transB", 0))
    axis = 0 if turned else 1
    right = _Operand(
        _input(node, form.weight),
        Orientation.OUT_IN if turned else Orientation.IN_OUT,
        _along(_input(node, form.zero_point), axis),
        _along(_input(node, form.scale), axis),
    )
    weight = _stored(right, node)
    if weight is None and node.op_type == "MatMul":
        # Weight times columns instead of rows times weight.
        weight = _stored(_Operand(_input(node, 0), Orientation.OUT_IN), node)
    return weight


def _split(weight: OnnxWeight, node: ir.Node) -> Iterator[OnnxWeight]:
    """The weights of query, key and value from the weight of a fused attention, ``[in, query + key + value]``."""
    columns = weight.values.shape[1]
    widths = node.attributes.get_ints("qkv_hidden_sizes", ()) or (columns // 3,) * 3
    end = 0
    for part, width in zip(_PARTS, widths, strict=True):
        begin, end = end, end + width
        yield replace(
            weight,
            name=weight.name.removesuffix(".weight") + part + ".weight",
            values=weight.values[:, begin:end],
            zero_point=_columns(weight.zero_point, columns, begin, end),
            scale=_columns(weight.scale, columns, begin, end),
            part=part,
        )


def _columns(along: Array | None, columns: int, begin: int, end: int) -> Array | None:
    """The part of a scale or zero point for some columns; the complete one if it is common to all."""
    return along if along is None or along.shape[-1] != columns else along[..., begin:end]


def _packed(node: ir.Node, index: int) -> OnnxWeight | None:
    value = _input(node, index)
    tensor = constant(value)
    if value is None or tensor is None:
        return None
    name = value.name or ""
    scale = _along(_input(node, index + 1), 0)
    try:
        matrix = decode(tensor.numpy())
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    zero_point = np.zeros((1, 1), np.int8)
    return OnnxWeight(_NAME_SUFFIX.sub("", name), name, matrix, Orientation.OUT_IN, zero_point, scale)


def _stored(operand: _Operand | None, consumer: ir.Node) -> OnnxWeight | None:
    while operand is not None and operand.value is not None:
        tensor = constant(operand.value)
        if tensor is not None:
            if len(tensor.shape) != 2:
                return None
            initializer = operand.value.name or ""
            name = _parameter_name(initializer, consumer.name or "")
            return OnnxWeight(name, initializer, tensor.numpy(), operand.orientation, operand.zero_point, operand.scale)
        producer = operand.value.producer()
        operand = operand.before(producer) if producer is not None else None
    return None


def _parameter_name(initializer: str, node: str) -> str:
    """The parameter's name of a value: its name without a quantizer's suffix.

    TorchScript exports name a weight ``onnx::MatMul_123`` and its node ``/bert/encoder/layer.0/.../query/MatMul``; if a
    name is not that of a parameter, the node's path is used as the module's path.
    """
    name = _NAME_SUFFIX.sub("", initializer)
    path = node.strip("/").split("/")[:-1]
    if not name.endswith(".weight") and path:
        return ".".join([*path, "weight"])
    return name


def _parameters_in(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    uses = [_role(user.node, user.idx) for user in value.uses()]
    if "packed" in uses:
        rows, columns = read_header(tensor.numpy()).shape
        return rows * columns
    if "scale" in uses or (value.name or "").endswith(_SCALE_NAMES) or not len(tensor.shape):
        return 0
    return tensor.size if tensor.dtype.is_floating_point() or "weight" in uses else 0


def _role(node: ir.Node, index: int) -> str:
    """The kind of an input of an operator: ``weight``, ``packed``, ``scale`` (or zero point), or other."""
    if index in packed_inputs(node):
        return "packed"
    if index in scale_inputs(node):
        return "scale"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "scale" if index else "weight"
    form = _FORMS.get((node.domain, node.op_type))
    if form is None:
        return "other"
    return "weight" if index == form.weight else "scale" if index in (form.scale, form.zero_point) else "other"


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if 0 <= index < len(node.inputs) else None


def _through_casts(value: ir.Value | None) -> ir.Value | None:
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Cast", "CastLike"):
        value = _input(node, 0)
    return value


def _along(value: ir.Value | None, axis: int) -> Array | None:
    """A scale or zero point as an array that can be broadcast to a matrix, with its values along ``axis``."""
    tensor = constant(value)
    if tensor is None:
        return None
    return tensor.numpy().reshape((-1, 1) if axis == 0 else (1, -1))


def _turned(array: Array | None) -> Array | None:
    return None if array is None else array.T
