# SPDX-License-Identifier: Apache-2.0
"""The error of INT8 in each matrix product separately: INT8 against FP32 output for the FP32 model's input."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparse_deploy.graph.linears import Linear, StaticScale, find_linears
from sparse_deploy.graph.weights import OnnxWeight, Orientation, read_weights
from sparse_deploy.sparsity.integers import scale_between

Array = NDArray[Any]
_U8 = 255


def layer_errors(fp32: ir.Model, int8: ir.Model, batches: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """Relative error of each quantized product, ``|y_int8 - y| / |y - mean(y)|`` over all tokens and channels.

    The mean of each channel is subtracted: a part that is equal for all tokens has no information, and a large
    constant (which the bias compensates) would hide the error.

    Args:
        fp32: the FP32 graph.
        int8: static or dynamic INT8 of the same model.
        batches: model inputs, int64 ``[batch, tokens]``, without padding.

    Returns:
        The error by parameter name.
    """
    import onnxruntime

    static = {linear.name: linear for linear in find_linears(int8)[0] if linear.weight.quantized}
    quantized = {weight.name: weight for weight in read_weights(int8) if weight.quantized}
    linears = [linear for linear in find_linears(fp32)[0] if linear.name in quantized]
    products = [_Product(linear, quantized[linear.name], static.get(linear.name)) for linear in linears]
    probe = fp32.clone()
    names = list(dict.fromkeys(str(linear.x.name) for linear in linears))
    values = {value.name: value for node in probe.graph for value in node.outputs}
    del probe.graph.outputs[:]
    probe.graph.outputs.extend(values[name] for name in names)
    session = onnxruntime.InferenceSession(ir.to_proto(probe).SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in batches:
        found = dict(zip(names, session.run(names, dict(batch)), strict=True))
        for linear, product in zip(linears, products, strict=True):
            product.see(found[str(linear.x.name)])
    return {linear.name: product.error() for linear, product in zip(linears, products, strict=True)}


class _Product:
    """Accumulates squared differences of one product, and the spread of its output."""

    def __init__(self, fp32: Linear, int8: OnnxWeight, static: Linear | None) -> None:
        self._weight = fp32.out_in().T
        self._int8 = _dequantized(int8, self._weight, static)
        self._scale = static.static if static is not None else None
        self._smoothing = static.smoothing if static is not None else None
        self._difference, self._tokens = 0.0, 0
        self._sum, self._squares = np.zeros((2, self._weight.shape[1]))

    def see(self, x: Array) -> None:
        x = x.reshape(-1, x.shape[-1])
        expected = x @ self._weight
        smoothed = x if self._smoothing is None else x * self._smoothing
        found = _rounded(smoothed, self._scale) @ self._int8
        self._difference += float(np.square(found - expected).sum())
        self._tokens += len(x)
        self._sum += expected.sum(axis=0, dtype=np.float64)
        self._squares += np.square(expected, dtype=np.float64).sum(axis=0)

    def error(self) -> float:
        spread = float((self._squares - self._sum**2 / self._tokens).sum())
        return float(np.sqrt(self._difference / spread)) if spread > 0 else 0.0


def _dequantized(int8: OnnxWeight, fp32: Array, static: Linear | None) -> Array:
    """The int8 weight in real numbers, ``[in, out]``."""
    turned = int8.orientation is Orientation.OUT_IN
    values = (int8.values.T if turned else int8.values).astype(np.float32)
    if static is not None and static.weight.scale is not None:
        scale = static.weight.scale
        return np.asarray(values * (scale.T if turned else scale))
    # In ONNX Runtime's dynamic form, scales are applied after the product.
    return np.asarray(values * scale_between(values, fp32, axis=0))


def _rounded(x: Array, scale: StaticScale | None) -> Array:
    """Quantize activations to u8 and dequantize, with the calibrated scale or the batch's (DynamicQuantizeLinear)."""
    if scale is None:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        step = (high - low) / _U8 or 1.0
        scale = StaticScale(step, round(-low / step))
    steps = np.clip(np.rint(x / scale.scale) + scale.zero_point, 0, _U8)
    return np.asarray((steps - scale.zero_point) * scale.scale, dtype=np.float32)
