# SPDX-License-Identifier: Apache-2.0
"""The quantized matrix products of an exported QDQ graph whose weights are still FP32."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from sparse_deploy.graph.weights import constant, read_weights, weights_of

_BETWEEN = ("DequantizeLinear", "Clip", "QuantizeLinear", "Transpose")


@dataclass(frozen=True)
class QuantizedProduct:
    """One ``MatMul(DequantizeLinear(QuantizeLinear(x)), Transpose(DequantizeLinear(QuantizeLinear(W))))``.

    Attributes:
        name: parameter name of the weight.
        node: the MatMul.
        weight: the FP32 weight, ``[out, in]``.
        quantize, dequantize: the pair around the activation.
    """

    name: str
    node: ir.Node
    weight: ir.Value
    quantize: ir.Node
    dequantize: ir.Node

    @property
    def x(self) -> ir.Value:
        """The activation before its quantization."""
        value = self.quantize.inputs[0]
        assert value is not None  # noqa: S101 - the input of QuantizeLinear is not optional
        return value

    def weight_chain(self) -> list[ir.Node]:
        """The nodes between the weight and the product, from the product up."""
        found: list[ir.Node] = []
        node = _producer(self.node.inputs[1])
        while node is not None and node.op_type in _BETWEEN:
            found.append(node)
            node = _producer(node.inputs[0])
        return found


def quantized_products(model: ir.Model) -> Iterator[QuantizedProduct]:
    """All quantized products of the main graph, in graph order."""
    names = {weight.initializer: weight.name for weight in read_weights(model)}
    for node in model.graph:
        if node.op_type != "MatMul" or node.domain != "":
            continue
        dequantize = _producer(node.inputs[0])
        quantize = _producer(dequantize.inputs[0]) if dequantize is not None and dequantize.inputs else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        for stored in weights_of(node):
            weight = model.graph.initializers.get(stored.initializer)
            if weight is not None and constant(weight) is not None and stored.values.dtype.kind == "f":
                yield QuantizedProduct(names[stored.initializer], node, weight, quantize, dequantize)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()
