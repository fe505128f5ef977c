# SPDX-License-Identifier: Apache-2.0
"""Pass: consecutive encoder layers exchange rows without padding.

A layer computes nothing for the padding after a sequence: it gathers the rows of tokens and restores the padding at its
end. If only the next layer, with the same mask, reads the tensor between two layers, the padding is not needed: the
first layer of a stack removes it once, and the last layer restores it once.
"""

import onnx_ir as ir

from sparse_deploy.graph import operators
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass

_X, _MASK = 0, 1


class UnpadBetweenLayers(SparsityKeepingPass):
    """Set ``unpadded_output`` and ``unpadded_input`` of the layers before and after each value between two layers.

    Attributes:
        values: names of these values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Set the attributes in place."""
        for node in model.graph:
            if not operators.is_encoder_layer(node) or "output_tokens" in node.attributes:
                continue
            readers = _layers_behind(node)
            if readers:
                operators.set_version_2(model, node, unpadded_output=1)
                for reader in readers:
                    operators.set_version_2(model, reader, unpadded_input=1)
                self.values.append(str(node.outputs[0].name))
        return ir.passes.PassResult(model, modified=bool(self.values))


def _layers_behind(layer: ir.Node) -> list[ir.Node]:
    """The layers that read a layer's output; empty if there are other readers or another mask."""
    value = layer.outputs[0]
    if value.is_graph_output():
        return []
    uses = value.uses()
    fit = all(
        use.idx == _X and operators.is_encoder_layer(use.node) and use.node.inputs[_MASK] is layer.inputs[_MASK]
        for use in uses
    )
    return [use.node for use in uses] if fit else []
