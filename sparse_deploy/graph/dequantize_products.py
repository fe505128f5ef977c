# SPDX-License-Identifier: Apache-2.0
"""Pass: convert the products and embeddings of ONNX Runtime's dynamic quantizer back to FP32.

So a file that is already quantized, such as those of sentence-transformers, can have sparse layers and other INT8. The
weights have the values of their integers; only the rounding of activations is removed.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.graph.initializers import add_initializer
from sparse_deploy.graph.matching import only_user, other_operand
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import constant, weights_of


class DequantizeProducts(SparsityKeepingPass):
    """Replace ``Mul(Cast(MatMulInteger(DynamicQuantizeLinear(x), W)), scales)`` by ``MatMul(x, W * scale)``.

    And ``DequantizeLinear(Gather(table, ids))`` by ``Gather(table * scale, ids)``.

    Attributes:
        replaced: number of products that the last run replaced.
    """

    replaced = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace all such products of the main graph."""
        graph = model.graph
        stored: dict[ir.Value, ir.Value] = {}
        products = [node for node in graph if node.domain == "" and node.op_type == "MatMulInteger"]
        self.replaced = sum([_replace(graph, product, stored) for product in products])
        if self.replaced:
            for node in [node for node in graph if node.domain == "" and node.op_type == "DequantizeLinear"]:
                _replace_embedding(graph, node)
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(self.replaced))


def _replace(graph: ir.Graph, product: ir.Node, stored: dict[ir.Value, ir.Value]) -> bool:
    """Replace one product; ``stored`` is the cache of FP32 weights by quantized weight."""
    a, b, a_zero, b_zero = [*product.inputs, None, None][:4]
    cast = only_user(product.outputs[0])
    end = None if cast is None or cast.op_type != "Cast" else only_user(cast.outputs[0])
    quantize = None if a is None else a.producer()
    if end is None or end.op_type != "Mul" or quantize is None or quantize.op_type != "DynamicQuantizeLinear":
        return False
    assert cast is not None  # noqa: S101 - end uses it
    factor = other_operand(end, cast.outputs[0])
    scales = None if factor is None else factor.producer()
    scale = None if scales is None or scales.op_type != "Mul" else constant(other_operand(scales, quantize.outputs[1]))
    integers, zero = constant(b), constant(b_zero)
    if a is not quantize.outputs[0] or a_zero is not quantize.outputs[2] or scale is None or integers is None:
        return False
    if b is None or len(integers.shape) != 2 or (b_zero is not None and zero is None):
        return False
    if b not in stored:
        (weight,) = weights_of(product)
        stored[b] = _add_floats(graph, weight.name, integers, zero, scale)
    matmul = ir.node("MatMul", [quantize.inputs[0], stored[b]], name=product.name)
    ir.convenience.replace_nodes_and_values(
        graph, end, [product, cast, end], [matmul], [end.outputs[0]], [matmul.outputs[0]]
    )
    return True


def _replace_embedding(graph: ir.Graph, dequantize: ir.Node) -> None:
    gathered, scale, zero = [*dequantize.inputs, None][:3]
    gather = None if gathered is None else gathered.producer()
    if gather is None or gather.op_type != "Gather" or only_user(gather.outputs[0]) is not dequantize:
        return
    table, steps = constant(gather.inputs[0]), constant(scale)
    if table is None or steps is None or steps.size != 1 or (zero is not None and constant(zero) is None):
        return
    name = str(gather.inputs[0].name).removesuffix("_quantized")  # type: ignore[union-attr]
    found = ir.node(
        "Gather", [_add_floats(graph, name, table, constant(zero), steps), gather.inputs[1]],
        {"axis": gather.attributes.get_int("axis", 0)}, name=gather.name,
    )  # fmt: skip
    ir.convenience.replace_nodes_and_values(
        graph, dequantize, [gather, dequantize], [found], [dequantize.outputs[0]], [found.outputs[0]]
    )


def _add_floats(
    graph: ir.Graph, name: str, integers: ir.TensorProtocol, zero: ir.TensorProtocol | None, scale: ir.TensorProtocol
) -> ir.Value:
    """A new initializer with the dequantized values."""
    steps = integers.numpy().astype(np.float32) - (0 if zero is None else zero.numpy().astype(np.float32))
    return add_initializer(graph, name, steps * scale.numpy())
