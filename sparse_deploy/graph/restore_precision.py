# SPDX-License-Identifier: Apache-2.0
"""Pass: restore FP32 for selected matrix products of a QDQ graph."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph.matching import other_operand
from sparse_deploy.graph.quantized_products import QuantizedProduct, quantized_products
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import constant


class RestorePrecision(SparsityKeepingPass):
    """Remove the QuantizeLinear and DequantizeLinear of products; other readers of an input are not changed.

    For graphs whose weights are still FP32, before :class:`FoldWeightQuantization`. The factor of smoothing before a
    product is multiplied into its weight, which then differs from the checkpoint's at most in the last bit; zeros stay
    zeros.

    Args:
        names: names of the products' weights.

    Raises:
        QuantizationError: a name is not that of a quantized product.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = frozenset(names)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Restore in place."""
        chosen = [product for product in quantized_products(model) if product.name in self._names]
        if missing := sorted(self._names - {product.name for product in chosen}):
            raise QuantizationError(f"{missing[0]}: expected a quantized matrix product to restore, found none")
        for product in chosen:
            _restore(product)
        if chosen:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(chosen))


def _restore(product: QuantizedProduct) -> None:
    chain = product.weight_chain()
    quantization = [node for node in chain if node.op_type != "Transpose"]
    first, last = quantization[0], quantization[-1]
    for use in list(first.outputs[0].uses()):
        use.node.replace_input_with(use.idx, product.weight)
    assert last.inputs[0] is product.weight  # noqa: S101 - the same chain as in the reader of weights
    product.node.replace_input_with(0, product.x)
    _undo_smoothing(product)


def _undo_smoothing(product: QuantizedProduct) -> None:
    """Replace ``(x * f) · (W / f)ᵀ`` by ``x · Wᵀ``, if there is no other reader of ``x * f``."""
    multiply = product.x.producer()
    stored = constant(product.weight)
    if multiply is None or multiply.op_type != "Mul" or stored is None:
        return
    # The removed quantization is still a reader here.
    readers = {use.node for use in product.x.uses()} - {product.node, product.quantize}
    others = {use.node for use in product.dequantize.outputs[0].uses()} - {product.node}
    values = stored.numpy()
    for factor in multiply.inputs:
        tensor = constant(factor)
        if factor is None or tensor is None or tuple(tensor.shape) != (values.shape[1],) or readers or others:
            continue
        if (x := other_operand(multiply, factor)) is not None:
            original = np.ascontiguousarray(values * tensor.numpy(), dtype=values.dtype)
            product.weight.const_value = ir.tensor(original, name=product.weight.name)
            product.node.replace_input_with(0, x)
