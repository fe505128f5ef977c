# SPDX-License-Identifier: Apache-2.0
"""Fold FP32 weight -> QuantizeLinear -> DequantizeLinear into an int8 initializer and a DequantizeLinear.

torch's exporter keeps each weight in FP32 and quantizes it whenever the model runs; the file then has FP32 size and
no stored int8 zeros. ONNX Runtime fuses a DequantizeLinear only if it feeds a MatMul directly, so the Transpose
that comes with ``nn.Linear`` is folded as well.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph.initializers import add_initializer
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass

Array = NDArray[Any]


@dataclass(frozen=True)
class _WeightQuantization:
    """The nodes between an FP32 weight and its operator; ``clip`` narrows the int8 range, if present."""

    weight: ir.Value
    quantize: ir.Node
    clip: ir.Node | None
    dequantize: ir.Node


class FoldWeightQuantization(SparsityKeepingPass):
    """Store quantized weights as int8.

    The int8 initializer gets the name of the FP32 initializer (with the suffix ``_quantized`` if the FP32 weight is
    still used elsewhere). If all users transpose the weight, it is stored transposed, ``[in, out]``, and the
    DequantizeLinear's axis is changed.

    Raises:
        QuantizationError: a weight's type is not int8, or its zero point not 0.
        SparsityLostError: a zero of the FP32 weight is not a zero of the int8 one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold all weights of the main graph."""
        matches = [match for node in model.graph if (match := _match(node))]
        for match in matches:
            _fold(model.graph, match)
        if matches:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(matches))


def _match(node: ir.Node) -> _WeightQuantization | None:
    if node.op_type != "DequantizeLinear":
        return None
    producer = _producer(node)
    clip = producer if producer is not None and producer.op_type == "Clip" else None
    quantize = _producer(clip) if clip is not None else producer
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    weight = quantize.inputs[0]
    if weight is None or weight.const_value is None:
        return None
    return _WeightQuantization(weight, quantize, clip, node)


def _producer(node: ir.Node) -> ir.Node | None:
    return node.inputs[0].producer() if node.inputs[0] is not None else None


def _fold(graph: ir.Graph, match: _WeightQuantization) -> None:
    name = match.weight.name or ""
    axis = match.quantize.attributes.get_int("axis", 1)
    stored = _quantize(_constant(match.weight), match, axis)
    transposes = _transposes(match.dequantize)
    if transposes:
        stored, axis = np.ascontiguousarray(stored.T), 1 - axis
    only_user = len(match.weight.uses()) == 1
    match.dequantize.replace_input_with(0, _register(graph, stored, name, take_name=only_user))
    match.dequantize.attributes["axis"] = ir.AttrInt64("axis", axis)
    for transpose in transposes:
        transpose.outputs[0].replace_all_uses_with(match.dequantize.outputs[0])
        graph.remove(transpose, safe=True)
    if transposes and match.dequantize.outputs[0].shape is not None:
        match.dequantize.outputs[0].shape = ir.Shape(stored.shape)


def _register(graph: ir.Graph, stored: NDArray[np.int8], name: str, *, take_name: bool) -> ir.Value:
    if take_name:
        # Not renamed, because onnx_ir would rename the tensor inside the source protobuf message.
        del graph.initializers[name]
    else:
        name = f"{name}_quantized"
    return add_initializer(graph, name, stored)


def _quantize(weight: Array, match: _WeightQuantization, axis: int) -> NDArray[np.int8]:
    """ONNX QuantizeLinear: ``saturate(round_half_even(x / scale) + zero_point)``, with zero point 0."""
    name = match.weight.name
    for node in (match.quantize, match.dequantize):
        zero_point = _constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8)
        if zero_point.dtype != np.int8 or zero_point.any():
            raise QuantizationError(
                f"{name}: expected int8 weights with zero point 0, found {zero_point.dtype} with zero point "
                f"{int(zero_point.flat[np.abs(zero_point.astype(np.int32)).argmax()])}; zeros would be lost. "
                f"Quantize the weight symmetrically, or exclude the layer with quantization.exclude."
            )
    scale = _constant(match.quantize.inputs[1])
    if not np.array_equal(scale, _constant(match.dequantize.inputs[1])):
        raise QuantizationError(f"{name}: expected one scale, found two in QuantizeLinear and DequantizeLinear")
    low, high = _bounds(match.clip)
    if scale.size > 1:
        scale = scale.reshape([-1 if dimension == axis else 1 for dimension in range(weight.ndim)])
    stored: NDArray[np.int8] = np.clip(np.rint(weight / scale), low, high).astype(np.int8)
    return stored


def _bounds(clip: ir.Node | None) -> tuple[int, int]:
    limits = np.iinfo(np.int8)
    given = [_constant(value) if value is not None else None for value in (clip.inputs[1:3] if clip else ())]
    low, high = [*given, None, None][:2]
    return int(limits.min if low is None else low.item()), int(limits.max if high is None else high.item())


def _transposes(dequantize: ir.Node) -> list[ir.Node]:
    """The users of the weight if all of them transpose it; a weight used in both orientations is not changed."""
    users = [use.node for use in dequantize.outputs[0].uses()]
    swaps = [user.op_type == "Transpose" and user.attributes.get_ints("perm", ()) == (1, 0) for user in users]
    return users if users and all(swaps) else []


def _constant(value: ir.Value | None) -> Array:
    if value is None or value.const_value is None:
        raise QuantizationError(
            f"{value.name if value is not None else 'weight'}: expected a constant scale or zero point, found a "
            f"computed one; export the converted model, not the prepared one"
        )
    return value.const_value.numpy()
