# SPDX-License-Identifier: Apache-2.0
"""Pass: copy a shared integer weight, with its DequantizeLinear, for each product that uses it.

ALBERT's layers share weights, and so do DeBERTa's contents and positions. OpenVINO keeps integers only if one product
reads them, and folds a shared weight to FP32. It writes equal constants into an IR once, so the copies take no space in
an IR. In an ONNX file they do, so this pass is for temporary files of a conversion.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.graph.initializers import add_initializer
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import constant


class UnshareWeights(SparsityKeepingPass):
    """Copy shared integer matrices and their DequantizeLinear."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Copy in place."""
        shared = shared_weights(model)
        for nodes in shared:
            uses = [(node, *use) for node in nodes for use in node.outputs[0].uses()]
            for number, (node, user, index) in enumerate(uses[1:], start=2):
                user.replace_input_with(index, _copy(model.graph, node, user, number))
        if shared:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(shared))


def shared_weights(model: ir.Model) -> list[list[ir.Node]]:
    """The DequantizeLinear nodes of each integer matrix that several products read."""
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        stored = node.inputs[0] if _holds_matrix(node) else None
        if stored is not None:
            readers.setdefault(stored, []).append(node)
    return [nodes for nodes in readers.values() if sum(len(node.outputs[0].uses()) for node in nodes) > 1]


def _copy(graph: ir.Graph, node: ir.Node, user: ir.Node, number: int) -> ir.Value:
    stored, *rest = node.inputs
    assert stored is not None  # noqa: S101 - checked by _holds_matrix
    tensor = constant(stored)
    assert tensor is not None  # noqa: S101 - the same
    value = add_initializer(graph, f"{stored.name}_{number}", tensor.numpy().copy())
    copied = ir.node("DequantizeLinear", [value, *rest], {}, version=node.version, name=f"{node.name}_{number}")
    for attribute in node.attributes.values():
        copied.attributes[attribute.name] = attribute
    output = copied.outputs[0]
    output.name = f"{node.outputs[0].name}_{number}"
    output.type, output.shape = node.outputs[0].type, node.outputs[0].shape
    graph.insert_before(user, copied)
    return output


def _holds_matrix(node: ir.Node) -> bool:
    if node.op_type != "DequantizeLinear":
        return False
    stored = constant(node.inputs[0])
    return stored is not None and len(stored.shape) == 2
