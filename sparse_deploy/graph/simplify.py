# SPDX-License-Identifier: Apache-2.0
"""Pass: constant folding and clean-up of exported graphs, without changing a weight."""

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter

from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import constant


class Simplify(SparsityKeepingPass):
    """Fold shape arithmetic and scales, drop Identity nodes, make Constant nodes initializers, merge equal nodes.

    The exporter's own optimization folds ``Transpose(weight)`` into an unnamed copy and merges equal initializers (two
    biases of zeros become one), so that names are no longer reliable. So it is disabled, and this pass runs instead.
    Metadata is also removed: it has stack traces with paths of the exporting machine.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Simplify the whole model in place."""
        optimizer.fold_constants(model, should_fold=_may_fold)
        rewriter.rewrite(model)
        optimizer.fold_constants(model, should_fold=_may_fold)
        for clean_up in (
            common.IdentityEliminationPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            _MergeIntegers(),
            common.CommonSubexpressionEliminationPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
            common.ClearMetadataAndDocStringPass(),
        ):
            clean_up(model)
        return ir.passes.PassResult(model, modified=True)


class _MergeIntegers(ir.passes.InPlacePass):
    """Merge initializers of equal axes and shapes, so that each layer's copy of a shape computation can be merged."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        first: dict[tuple[tuple[int, ...], bytes], ir.Value] = {}
        merged = []
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.INT64 or value.is_graph_output():
                continue
            kept = first.setdefault((tuple(tensor.numpy().shape), tensor.tobytes()), value)
            if kept is not value:
                value.replace_all_uses_with(kept)
                merged.append(value)
        for value in merged:
            model.graph.initializers.pop(value.name or "")
        return ir.passes.PassResult(model, modified=bool(merged))


def _may_fold(node: ir.Node) -> bool | None:
    """False for a node that reads a matrix; None means that the constant folder decides."""
    for value in node.inputs:
        tensor = constant(value)
        if tensor is not None and len(tensor.shape) > 1:
            return False
    return None
