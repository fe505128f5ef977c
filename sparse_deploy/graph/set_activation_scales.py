# SPDX-License-Identifier: Apache-2.0
"""Pass: replace the scales of quantized inputs of matrix products, without quantizing the model again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph.initializers import add_initializer
from sparse_deploy.graph.quantized_products import quantized_products
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass

Array = NDArray[Any]


class SetActivationScales(SparsityKeepingPass):
    """Replace scale and zero point (uint8) of the QuantizeLinear and DequantizeLinear before each product.

    Args:
        scales: scale and zero point of each product of a weight, in order, by the weight's name in the checkpoint or
            with a prefix (``model.`` of a wrapped module).

    Raises:
        QuantizationError: ``scales`` has no entry for a quantized product.
    """

    def __init__(self, scales: Mapping[str, Sequence[tuple[float, int]]]) -> None:
        super().__init__()
        self._scales = scales

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace in place."""
        products = list(quantized_products(model))
        seen: Counter[str] = Counter()
        for product in products:
            use = seen[product.name]
            seen[product.name] += 1
            scale, zero_point = self._scale_of(product.name, use)
            name = input_name(product.name, use)
            inputs = (
                _replace(model.graph, f"{name}_scale", np.array(scale, np.float32)),
                _replace(model.graph, f"{name}_zero_point", np.array(zero_point, np.uint8)),
            )
            for node in (product.quantize, product.dequantize):
                node.replace_input_with(1, inputs[0])
                node.replace_input_with(2, inputs[1])
        return ir.passes.PassResult(model, modified=bool(products))

    def _scale_of(self, name: str, use: int) -> tuple[float, int]:
        for known, scales in self._scales.items():
            if (known == name or known.endswith(f".{name}")) and use < len(scales):
                return scales[use]
        raise QuantizationError(f"{name}: expected a scale for its input, found none among {len(self._scales)}")


def input_name(weight: str, use: int) -> str:
    """Name prefix of the scales of a product's input; ``use`` is the product's number among those of the weight."""
    return f"{weight}_input" if use == 0 else f"{weight}_input{use}"


def _replace(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    graph.initializers.pop(name, None)
    return add_initializer(graph, name, array)
