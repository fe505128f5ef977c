# SPDX-License-Identifier: Apache-2.0
"""Pass: store weights in the orientation of their MatMul, ``[in, out]``, instead of transposing at load."""

import numpy as np
import onnx_ir as ir

from sparse_deploy.graph.sparsity_check import SparsityKeepingPass


class TransposeWeights(SparsityKeepingPass):
    """Fold ``Transpose(W)`` of a 2-D initializer into the initializer, which keeps its name.

    ONNX Runtime's quantizer only handles weights that feed a MatMul directly. A weight with another reader is not
    changed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold all such Transposes of the main graph."""
        graph = model.graph
        folded = [value for value in graph.initializers.values() if _only_transposed(value)]
        for value in folded:
            _fold(graph, value)
        return ir.passes.PassResult(model, modified=bool(folded))


def _only_transposed(value: ir.Value) -> bool:
    if value.const_value is None or len(value.const_value.shape) != 2:
        return False
    users = [use.node for use in value.uses()]
    return bool(users) and all(
        user.op_type == "Transpose" and tuple(user.attributes.get_ints("perm", (1, 0))) == (1, 0) for user in users
    )


def _fold(graph: ir.Graph, value: ir.Value) -> None:
    assert value.const_value is not None  # noqa: S101 - checked by _only_transposed
    stored = np.ascontiguousarray(value.const_value.numpy().T)
    transposes = [use.node for use in value.uses()]
    for transpose in transposes:
        transpose.outputs[0].replace_all_uses_with(value)
        graph.remove(transpose, safe=True)
    value.const_value = ir.tensor(stored, name=value.name)
    value.shape = ir.Shape(stored.shape)
