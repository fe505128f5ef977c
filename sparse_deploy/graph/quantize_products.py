# SPDX-License-Identifier: Apache-2.0
"""Pass: quantize selected matrix products of an FP32 graph with given scales.

The result equals the export of Neural Compressor's converted graph, without tracing that graph, which takes as long as
the trace of the FP32 model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph.initializers import add_initializer
from sparse_deploy.graph.set_activation_scales import input_name
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import constant


@dataclass(frozen=True)
class ProductQuantization:
    """The quantization of one matrix product.

    Attributes:
        weight: FP32 ``[out, in]``; may differ from the graph's by ``smoothing``, or be already rounded.
        weight_scale: FP32 ``[out]``, per output channel; the zero point is 0.
        weight_range: lowest and highest integer of the weight.
        input_scale, input_zero_point: scale and uint8 zero point of the input, per tensor.
        smoothing: FP32 ``[in]``, factor of the input; None without smoothing.
    """

    weight: NDArray[np.float32]
    weight_scale: NDArray[np.float32]
    weight_range: tuple[int, int]
    input_scale: float
    input_zero_point: int
    smoothing: NDArray[np.float32] | None = None


class QuantizeProducts(SparsityKeepingPass):
    """Insert QuantizeLinear and DequantizeLinear before both operands of selected products; weights stay FP32.

    :class:`sparse_deploy.graph.fold_weight_quantization.FoldWeightQuantization` converts the weights to integers.

    Args:
        products: the products of each weight, in order, by the weight's name in the checkpoint or with a prefix
            (``model.`` of a wrapped module); None for an FP32 product.

    Raises:
        QuantizationError: the graph's products ``x · Wᵀ`` of a weight differ from these.
    """

    def __init__(self, products: Mapping[str, Sequence[ProductQuantization | None]]) -> None:
        super().__init__()
        self._products = products

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantize in place."""
        nodes: dict[str, list[ir.Node]] = {}
        for node in model.graph:
            if (name := _weight_name(node)) is not None:
                nodes.setdefault(name, []).append(node)
        inputs: dict[tuple[ir.Value, float, int], ir.Value] = {}
        for wanted, products in self._products.items():
            name = next((name for name in nodes if wanted == name or wanted.endswith(f".{name}")), wanted)
            found = len(nodes.get(name, ()))
            if found != len(products):
                raise QuantizationError(
                    f"{name}: expected {len(products)} matrix products of this weight, found {found}"
                )
            chosen = [(node, how) for node, how in zip(nodes[name], products, strict=True) if how is not None]
            if chosen:
                weight = _quantize_weight(model.graph, name, chosen[0][1])
            for use, (node, how) in enumerate(chosen):
                _quantize_input(model.graph, node, input_name(name, use), how, inputs)
                node.replace_input_with(1, weight)
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(self._products))


def _weight_name(node: ir.Node) -> str | None:
    """Name of the weight of ``MatMul(x, Transpose(W))`` or of ``Gemm``, the exported forms of a Linear layer."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain != "" or node.inputs[1] is None:
        return None
    transpose = node.inputs[1].producer()
    weight = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else node.inputs[1]
    return None if weight is None or constant(weight) is None else str(weight.name)


def _quantize_weight(graph: ir.Graph, name: str, how: ProductQuantization) -> ir.Value:
    """The quantized and dequantized weight, transposed for MatMul."""
    weight = graph.initializers[name]
    weight.const_value = ir.tensor(np.ascontiguousarray(how.weight, dtype=np.float32), name=name)
    scale = add_initializer(graph, f"{name}_scale", np.asarray(how.weight_scale, np.float32))
    zero_point = add_initializer(graph, f"{name}_zero_point", np.zeros(len(how.weight_scale), np.int8))
    low, high = (np.array(bound, np.int8) for bound in how.weight_range)
    bounds = add_initializer(graph, f"{name}_low", low), add_initializer(graph, f"{name}_high", high)
    quantize = _node("QuantizeLinear", (weight, scale, zero_point), f"{name}_quantize", axis=0)
    clip = _node("Clip", (quantize.outputs[0], *bounds), f"{name}_clip")
    dequantize = _node("DequantizeLinear", (clip.outputs[0], scale, zero_point), f"{name}_dequantize", axis=0)
    transpose = _node("Transpose", (dequantize.outputs[0],), f"{name}_transpose", perm=(1, 0))
    graph.insert_before(graph[0], (quantize, clip, dequantize, transpose))
    return transpose.outputs[0]


def _quantize_input(
    graph: ir.Graph, node: ir.Node, name: str, how: ProductQuantization,
    quantized: dict[tuple[ir.Value, float, int], ir.Value],
) -> None:  # fmt: skip
    x = node.inputs[0]
    assert x is not None  # noqa: S101 - the operands of MatMul are not optional
    scale = add_initializer(graph, f"{name}_scale", np.array(how.input_scale, np.float32))
    zero_point = add_initializer(graph, f"{name}_zero_point", np.array(how.input_zero_point, np.uint8))
    if how.smoothing is not None:
        factor = add_initializer(graph, f"{name}.smoothing", np.asarray(how.smoothing, np.float32))
        smooth = _node("Mul", (x, factor), f"{name}_smooth")
        graph.insert_before(node, smooth)
        x = smooth.outputs[0]
    key = x, how.input_scale, how.input_zero_point
    if key not in quantized:
        quantize = _node("QuantizeLinear", (x, scale, zero_point), f"{name}_quantize")
        graph.insert_before(node, quantize)
        quantized[key] = quantize.outputs[0]
    dequantize = _node("DequantizeLinear", (quantized[key], scale, zero_point), f"{name}_dequantize")
    graph.insert_before(node, dequantize)
    node.replace_input_with(0, dequantize.outputs[0])


def _node(kind: str, inputs: tuple[ir.Value, ...], name: str, **attributes: int | tuple[int, ...]) -> ir.Node:
    node = ir.node(kind, inputs, attributes, name=name)
    node.outputs[0].name = name
    return node
