# SPDX-License-Identifier: Apache-2.0
"""Pass: a SparseLinear node for each remaining linear layer whose weight has enough zeros."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.graph import operators
from sparse_deploy.graph.activations import activation_behind
from sparse_deploy.graph.fold_constant_products import reads_constant
from sparse_deploy.graph.fuse_encoder_layers import free_name, replace_value, static_scale
from sparse_deploy.graph.linears import Linear, find_linears
from sparse_deploy.graph.matching import Refusal
from sparse_deploy.graph.pack_weights import Packer
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.sparsity.packing import MOST_INPUTS, too_many_inputs

# 1:2 is the densest pattern with faster sparse kernels; a tensor of a model with half of all weights pruned
# may have slightly fewer zeros. With fewer zeros the operator would run its dense kernel, and INT8 instead of FP32.
ENOUGH_ZEROS = 0.4


class ReplaceLinears(SparsityKeepingPass):
    """Replace matrix products by a stored weight, with their bias and an activation that follows directly.

    Args:
        static: quantize activations with the scales of the file, if it has them.
        exclude: weights whose name contains one of these texts are not replaced.

    Attributes:
        replaced: names of the replaced weights.
        refused: the other weights, with the reason.
    """

    def __init__(self, *, static: bool = False, exclude: Sequence[str] = ()) -> None:
        super().__init__()
        self._static = static
        self._exclude = tuple(exclude)
        self.replaced: list[str] = []
        self.refused: list[Refusal] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace in place."""
        linears, refused = find_linears(model)
        self.refused += [Refusal(name, reason) for name, reason in refused.items()]
        packer = Packer(model.graph)
        reasons = {linear: self._why_not(linear) for linear in linears}
        self.refused += [Refusal(linear.name, reason) for linear, reason in reasons.items() if reason]
        # Last layer first, so that a layer's input is still the matched value.
        for linear in reversed([linear for linear, reason in reasons.items() if not reason]):
            self._replace(model.graph, linear, packer)
            self.replaced.insert(0, linear.name)
        if self.replaced:
            operators.import_domain(model)
            RemoveUnusedNodesPass()(model)
            packer.take_names()
        self.replaced = list(dict.fromkeys(self.replaced))
        return ir.passes.PassResult(model, modified=bool(self.replaced))

    def _why_not(self, linear: Linear) -> str:
        if any(part in linear.name for part in self._exclude):
            return "it is excluded from INT8"
        if reads_constant(linear):
            return "its input is constant, so the runtime computes it once"
        zeros = linear.zero_mask()
        if zeros.shape[1] > MOST_INPUTS:
            return too_many_inputs(zeros.shape[1])
        share = float(zeros.mean())
        if share < ENOUGH_ZEROS:
            return f"it has {share:.1%} zeros, a sparse product is faster from {ENOUGH_ZEROS:.0%} on"
        return ""

    def _replace(self, graph: ir.Graph, linear: Linear, packer: Packer) -> None:
        activation, end = activation_behind(linear.output)
        scale = static_scale(linear)
        inputs = [linear.x, *packer.pack(linear).values]
        if self._static and scale.scale:
            inputs.append(packer.constant(f"{linear.name}.x_scale", np.array([scale.scale], np.float32)))
            inputs.append(packer.constant(f"{linear.name}.x_zero_point", np.array([scale.zero_point], np.uint8)))
        node = ir.node(
            operators.SPARSE_LINEAR,
            inputs,
            {"activation": activation},
            domain=operators.DOMAIN,
            version=operators.VERSION,
            name=free_name(graph, linear.name.removesuffix(".weight")),
        )
        replace_value(graph, end, node)
