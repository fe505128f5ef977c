# SPDX-License-Identifier: Apache-2.0
"""Pass: int8 weights with a DequantizeLinear each in an FP32 graph (weights compressed, activations FP32).

OpenVINO 2026.4 has no MatMulInteger: it turns ONNX Runtime's dynamic INT8 into products of int32 constants, as large
as FP32 and computed in FP32. From this form it keeps int8 constants; products still run in FP32 (its execution graph
shows FullyConnectedCompressed, brgemm_avx512_f32, on a CPU with VNNI).
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph.initializers import add_initializer
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import OnnxWeight, Orientation, read_weights
from sparse_deploy.sparsity.integers import scale_between


class CompressWeights(SparsityKeepingPass):
    """Use the int8 values of another graph; scales per output channel are computed from both weights.

    Args:
        quantized: weights of the INT8 graph (zero point 0) made from the graph of this pass.
    """

    def __init__(self, quantized: Sequence[OnnxWeight]) -> None:
        super().__init__()
        self._quantized = {weight.name: weight for weight in quantized if weight.quantized}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the FP32 weights in place.

        Raises:
            QuantizationError: the two graphs store a weight in different orientations.
        """
        replaced = False
        for weight in read_weights(model):
            int8 = self._quantized.get(weight.name)
            if int8 is None:
                continue
            if int8.orientation is not weight.orientation or int8.values.shape != weight.values.shape:
                raise QuantizationError(f"{weight.name}: expected one layout in the FP32 and INT8 graphs, found two")
            _replace(model.graph, weight, int8)
            replaced = True
        return ir.passes.PassResult(model, modified=replaced)


def _replace(graph: ir.Graph, weight: OnnxWeight, int8: OnnxWeight) -> None:
    out_axis = 0 if weight.orientation is Orientation.OUT_IN else 1
    scale = scale_between(int8.values, weight.values, axis=1 - out_axis)
    float_value = graph.initializers.pop(weight.initializer)
    float_value.name = f"{weight.initializer}_fp32"
    inputs = (
        add_initializer(graph, weight.initializer, int8.values),
        add_initializer(graph, f"{weight.initializer}_scale", scale),
        add_initializer(graph, f"{weight.initializer}_zero_point", np.zeros(len(scale), np.int8)),
    )
    dequantize = ir.node("DequantizeLinear", inputs, {"axis": out_axis}, name=f"{weight.initializer}_dequantize")
    dequantize.outputs[0].name = f"{weight.initializer}_dequantized"
    float_value.replace_all_uses_with(dequantize.outputs[0])
    graph.insert_before(graph[0], dequantize)
