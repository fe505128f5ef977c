# SPDX-License-Identifier: Apache-2.0
"""Pass: convert a Gemm between two Reshapes, as written by a simplifier, back to MatMul and Add.

Gemm needs matrices, so onnxsim flattens batch and tokens before it and restores them after it. ONNX Runtime's quantizer
and this package's matchers expect layers of tokens as MatMul with a stored weight.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.graph.matching import NoMatchError, Subgraph, only_user
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import constant

Array = NDArray[Any]
# batch, tokens: different, so that dynamic axes must work for both shapes.
_PROBES = ((2, 5), (3, 7))
# Tolerance for float32 sums of up to 10,000 products in another order, relative to the largest one.
_SAME = 1e-4


class UnflattenGemms(SparsityKeepingPass):
    """Replace ``Reshape(Gemm(Reshape(x)))`` by ``MatMul(x) + bias`` if both give equal results on random numbers.

    For a weight that Gemm transposes (``transB``) a Transpose is added; :mod:`~sparse_deploy.graph.transpose_weights`
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace all such Gemms of the main graph."""
        gemms = [node for node in model.graph if node.domain == "" and node.op_type == "Gemm"]
        replaced = [gemm for gemm in gemms if _replace(model.graph, gemm)]
        if replaced:
            RemoveUnusedNodesPass()(model)  # removes the shape arithmetic of the Reshapes
        return ir.passes.PassResult(model, modified=bool(replaced))


def _replace(graph: ir.Graph, gemm: ir.Node) -> bool:
    front = None if gemm.inputs[0] is None else gemm.inputs[0].producer()
    behind = only_user(gemm.outputs[0])
    weight = constant(gemm.inputs[1])
    if front is None or behind is None or weight is None or {front.op_type, behind.op_type} != {"Reshape"}:
        return False
    x, bias = front.inputs[0], gemm.inputs[2] if len(gemm.inputs) > 2 else None
    turned = bool(gemm.attributes.get_int("transB", 0))
    matrix = weight.numpy().T if turned else weight.numpy()
    if x is None or behind.inputs[0] is not gemm.outputs[0] or not _same(behind.outputs[0], x, matrix, bias):
        return False
    nodes: list[ir.Node] = []

    def add(op_type: str, *inputs: ir.Value | None) -> ir.Value:
        name = gemm.name or str(gemm.outputs[0].name)  # also for the product, because a weight may be identified by it
        nodes.append(ir.node(op_type, inputs, name=name if op_type == "MatMul" else f"{name}_{op_type}"))
        return nodes[-1].outputs[0]

    result = add("MatMul", x, add("Transpose", gemm.inputs[1]) if turned else gemm.inputs[1])
    if bias is not None:
        result = add("Add", result, bias)
    end = behind.outputs[0]
    ir.convenience.replace_nodes_and_values(graph, behind, [gemm, behind], nodes, [end], [result])
    if not front.outputs[0].uses():
        graph.remove(front, safe=True)
    return True


def _same(end: ir.Value, x: ir.Value, matrix: Array, bias: ir.Value | None) -> bool:
    """Whether ``end`` is ``x`` times the matrix, plus the bias, for ``x`` of three dimensions."""
    stored = None if bias is None else constant(bias)
    if bias is not None and stored is None:
        return False
    added = 0.0 if stored is None else stored.numpy()
    rng = np.random.default_rng(0)
    try:
        subgraph = Subgraph([end], [x])
        for shape in _PROBES:
            numbers = rng.normal(size=(*shape, matrix.shape[0])).astype(matrix.dtype)
            (found,) = subgraph.run({x: numbers})
            expected = numbers @ matrix + added
            if found.shape != expected.shape or not np.allclose(
                found, expected, rtol=0, atol=_SAME * float(np.abs(expected).max())
            ):
                return False
    except NoMatchError:
        return False
    return True
