# SPDX-License-Identifier: Apache-2.0
"""Linear layers in a graph: ``x · Wᵀ + bias`` with a stored weight, in FP32 or between QDQ pairs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparse_deploy.graph.matching import NoMatchError, only_user, other_operand
from sparse_deploy.graph.weights import OnnxWeight, Orientation, constant, weights_of
from sparse_deploy.sparsity.pattern import BoolArray

Array = NDArray[Any]


@dataclass(frozen=True)
class StaticScale:
    """Calibrated quantization of an input: ``u8 = round(x / scale) + zero_point``."""

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class Linear:
    """One linear layer.

    Attributes:
        weight: the stored weight, with the parameter's name.
        stored: the weight's value in the graph.
        bias: value ``[out]``; None if there is none.
        x: the input, before quantization and smoothing.
        output: the output, after the bias.
        static: quantization of the input; None in FP32 graphs.
        smoothing: factor per input channel of ``x``, ``[in]``; None without smoothing.
    """

    weight: OnnxWeight
    stored: ir.Value
    bias: ir.Value | None
    x: ir.Value
    output: ir.Value
    static: StaticScale | None
    smoothing: NDArray[np.float32] | None

    @property
    def name(self) -> str:
        """Name of the weight."""
        return self.weight.name

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        rows, columns = self.out_in().shape
        return rows, columns

    def out_in(self) -> Array:
        """The weight as stored, ``[out, in]``."""
        turned = self.weight.orientation is Orientation.IN_OUT
        return self.weight.values.T if turned else self.weight.values

    def zero_mask(self) -> BoolArray:
        """Zero weights, ``[out, in]``."""
        return self.weight.zero_mask()


def find_linears(model: ir.Model) -> tuple[list[Linear], dict[str, str]]:
    """All linear layers of the main graph, in graph order.

    Returns:
        The layers; and other products with a stored weight, by the weight's name, with the reason.
    """
    found: list[Linear] = []
    refused: dict[str, str] = {}
    for node in model.graph:
        if node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
            continue
        for weight in weights_of(node):
            try:
                found.append(_match(node, weight))
            except NoMatchError as reason:
                refused[weight.name] = str(reason)
    return found, refused


def _match(node: ir.Node, weight: OnnxWeight) -> Linear:
    stored = _stored_value(node.inputs[1])
    if stored is None or stored.name != weight.initializer:
        raise NoMatchError(f"the weight is the left operand of {node.op_type}, expected the right one")
    _check_type(weight)
    bias, output = _gemm_bias(node, weight) if node.op_type == "Gemm" else _bias_behind(node, weight)
    x, static = _without_quantization(node.inputs[0])
    x, smoothing = _without_smoothing(x, weight.shape[1])
    return Linear(weight, stored, bias, x, output, static, smoothing)


def _check_type(weight: OnnxWeight) -> None:
    if not weight.quantized:
        if weight.values.dtype != np.float32:
            raise NoMatchError(f"the weight is {weight.values.dtype}, expected float32 or int8")
        if not np.isfinite(weight.values).all():
            raise NoMatchError("the weight has NaN or infinity")
        return
    if weight.values.dtype != np.int8 or weight.scale is None:
        raise NoMatchError(f"the weight is {weight.values.dtype} without a scale, expected int8 with a scale")
    if weight.zero_point is not None and np.any(weight.zero_point != 0):
        raise NoMatchError("the weight's zero point is not 0")
    outputs_along = 0 if weight.orientation is Orientation.OUT_IN else 1
    if weight.scale.size not in (1, weight.scale.shape[outputs_along]):
        raise NoMatchError("the weight has a scale per input channel, expected one per output channel")


def _gemm_bias(node: ir.Node, weight: OnnxWeight) -> tuple[ir.Value | None, ir.Value]:
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    if factors != [1.0, 1.0] or node.attributes.get_int("transA", 0) != 0:
        raise NoMatchError(
            f"Gemm with alpha {factors[0]:g}, beta {factors[1]:g} or a transposed input, expected x · Wᵀ + b"
        )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not _is_vector(bias, weight.shape[0]):
        raise NoMatchError("Gemm adds a value that is not a bias")
    return bias, node.outputs[0]


def _bias_behind(node: ir.Node, weight: OnnxWeight) -> tuple[ir.Value | None, ir.Value]:
    product = node.outputs[0]
    add = only_user(product)
    if add is not None and add.op_type == "Add":
        bias = other_operand(add, product)
        if bias is not None and _is_vector(bias, weight.shape[0]):
            return bias, add.outputs[0]
    return None, product


def _without_quantization(value: ir.Value | None) -> tuple[ir.Value, StaticScale | None]:
    if value is None:
        raise NoMatchError("it has no input")
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return value, None
    quantized = dequantize.inputs[0]
    quantize = quantized.producer() if quantized is not None else None
    if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.inputs[0] is None:
        raise NoMatchError("its input is dequantized, but was not quantized")
    scales = [_static(node) for node in (quantize, dequantize)]
    if scales[0] != scales[1]:
        raise NoMatchError("its input is quantized and dequantized with two scales")
    return quantize.inputs[0], scales[0]


def _static(node: ir.Node) -> StaticScale:
    scale = constant(node.inputs[1])
    zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
        raise NoMatchError("its input is not quantized with one stored scale and zero point")
    if zero_point.dtype != ir.DataType.UINT8:
        raise NoMatchError(f"its input is quantized to {zero_point.dtype.name}, expected UINT8")
    return StaticScale(float(scale.numpy().item()), int(zero_point.numpy().item()))


def _without_smoothing(value: ir.Value, channels: int) -> tuple[ir.Value, NDArray[np.float32] | None]:
    """The input of a multiplication by one stored factor per channel; see quantization/smoothing.py."""
    multiply = value.producer()
    if multiply is None or multiply.op_type != "Mul":
        return value, None
    for factor, x in (multiply.inputs, reversed(multiply.inputs)):
        tensor = constant(factor)
        if x is not None and tensor is not None and tuple(tensor.shape) == (channels,):
            return x, tensor.numpy()
    return value, None


def _stored_value(value: ir.Value | None) -> ir.Value | None:
    """The constant at the start of a chain of nodes with one relevant operand."""
    while value is not None and constant(value) is None:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return value


def _is_vector(value: ir.Value, size: int) -> bool:
    tensor = constant(value)
    return tensor is not None and tuple(tensor.shape) == (size,) and tensor.dtype == ir.DataType.FLOAT
