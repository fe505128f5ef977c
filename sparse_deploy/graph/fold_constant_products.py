# SPDX-License-Identifier: Apache-2.0
"""Pass: linear layers with constant input are replaced by their result, such as DeBERTa's relative positions.

DeBERTa multiplies its 512 position embeddings by the query and key weights of each layer. ONNX Runtime computes this
once, when a session is created, but not inside custom operators.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.graph.linears import Linear, find_linears
from sparse_deploy.graph.matching import NoMatchError, Subgraph, ancestors
from sparse_deploy.graph.pack_weights import Packer
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import constant


class FoldConstantProducts(SparsityKeepingPass):
    """Store the outputs of linear layers with constant input, if other layers also use their weight."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in place."""
        packer = Packer(model.graph)
        linears, _ = find_linears(model)
        folded = [linear for linear in linears if reads_constant(linear) and _fold(model, linear, packer)]
        if folded:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(folded))


def reads_constant(linear: Linear) -> bool:
    """Whether the input of a linear layer depends only on stored tensors."""
    _, leaves = ancestors([linear.x])
    return all(constant(leaf) is not None for leaf in leaves)


def _fold(model: ir.Model, linear: Linear, packer: Packer) -> bool:
    if len(linear.stored.uses()) < 2:  # without other uses, the record of its zeros would be lost
        return False
    try:
        (result,) = Subgraph([linear.output], []).run({})
    except NoMatchError:
        return False
    stored = packer.constant(f"{linear.name.removesuffix('.weight')}.constant_product", result)
    linear.output.replace_all_uses_with(stored)
    return True
