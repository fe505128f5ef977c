# SPDX-License-Identifier: Apache-2.0
"""The sparse operators in numpy, by the formulas of ``docs/sparse_operators.md``, not optimized for speed.

It is used if the compiled library is missing, and the library is tested against it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy.special import erf

from sparse_deploy.errors import RuntimeUnavailableError, one_line
from sparse_deploy.sparsity.packing import Blob, Int8Matrix, decode

Float = NDArray[np.float32]
Array = NDArray[Any]

DOMAIN = "sparse_deploy"
NEWEST_VERSION = 2
_LEVELS = 255
# Cached, because decoding a layer takes longer than a batch of short text.
_DECODED: dict[bytes, Int8Matrix] = {}
_MOST_DECODED = 512


def quantize_rows(x: Float) -> tuple[NDArray[np.uint8], Float, NDArray[np.int32]]:
    """Dynamic quantization: each row of ``[rows, K]`` by its own range, including 0.

    Returns:
        u8 ``[rows, K]``; scale and zero point ``[rows, 1]``.
    """
    low = np.minimum(x.min(axis=1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(axis=1, keepdims=True), np.float32(0))
    scale = (high - low) / np.float32(_LEVELS)
    scale[scale == 0] = 1  # a row of zeros
    zero_point = np.rint(-low / scale).astype(np.int32)
    return _to_u8(x, scale, zero_point), scale, zero_point


def linear(x: Float, blob: Blob, scale: Float, bias: Float, *, static: tuple[float, int] | None = None) -> Float:
    """``x · (W * scale)ᵀ + bias`` with ``x`` quantized to u8.

    Args:
        x: float32 ``[..., K]``.
        blob: compact form of ``W [N, K]``.
        scale: float32 ``[N]``.
        bias: float32 ``[N]``.
        static: scale and zero point of all rows; dynamic per row if omitted or if the scale is 0.
    """
    weight = _decoded(blob)
    rows = x.reshape(-1, x.shape[-1])
    if static is None or static[0] == 0:
        quantized, x_scale, zero_point = quantize_rows(rows)
    else:
        x_scale, zero_point = np.float32(static[0]).reshape(1, 1), np.array([[static[1]]], np.int32)
        quantized = _to_u8(rows, x_scale, zero_point)
    result: Float = accumulate(quantized, zero_point, weight).astype(np.float32) * (x_scale * scale) + bias
    return result.reshape(*x.shape[:-1], len(scale))


def accumulate(x: NDArray[np.uint8], zero_point: NDArray[np.int32], weight: Int8Matrix) -> NDArray[np.int32]:
    """Exact INT32 accumulators ``(x - zero_point) · Wᵀ``, ``[rows, N]``."""
    # float64 is exact up to 2**53 and has a fast product; 255 * 127 * 2**20 is below 2**35.
    product = (x.astype(np.float64) - zero_point) @ weight.T.astype(np.float64)
    return product.astype(np.int32)


def layer_norm(x: Float, gamma: Float, beta: Float, epsilon: float) -> Float:
    """LayerNorm over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    result: Float = centred / np.sqrt(variance + np.float32(epsilon)) * gamma + beta
    return result


def attention(
    query: Float,
    key: Float,
    value: Float,
    mask: NDArray[np.int64],
    heads: int,
    *,
    scale: float = 0.0,
    bias: Float | None = None,
    positions: tuple[Float, Float] | None = None,
    window: int = 0,
) -> Float:
    """``softmax(q · kᵀ * scale + bias + mask) · v`` per head, ``[batch, sequence, hidden]`` each.

    Tokens with 0 in ``mask [batch, sequence]`` are not attended to; a row of zeros counts as a row of ones.

    Args:
        query: float32 ``[batch, sequence, hidden]``.
        key: the same.
        value: the same.
        mask: int64 ``[batch, sequence]``.
        heads: number of heads.
        scale: 0 means 1 / sqrt(head size).
        bias: ``[1 or batch, heads, sequence, sequence]``, or with its first two dimensions merged.
        positions: cosines and sines of rotary positions of queries and keys, ``[sequence, head]`` each.
        window: largest distance of tokens that attend to each other; 0 means no limit.
    """
    batch, sequence, hidden = query.shape
    q, k, v = (x.reshape(batch, sequence, heads, -1).transpose(0, 2, 1, 3) for x in (query, key, value))
    if positions is not None:
        q, k = (_rotated(x, *positions) for x in (q, k))
    scores = q @ k.transpose(0, 1, 3, 2) * np.float32(scale or (hidden // heads) ** -0.5)
    if bias is not None:
        scores = scores + bias.reshape(-1, heads, sequence, sequence)
    mask = np.where(mask.any(axis=1, keepdims=True), mask, 1)
    attended = mask[:, None, None, :] != 0
    if window:
        places = np.arange(sequence)
        attended = attended & (np.abs(places[:, None] - places) <= window)
    scores[np.broadcast_to(~attended, scores.shape)] = np.finfo(np.float32).min
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    context: Float = (weights @ v).transpose(0, 2, 1, 3).reshape(batch, sequence, hidden)
    return context


def _rotated(x: Float, cos: Float, sin: Float) -> Float:
    """Rotary positions (https://arxiv.org/abs/2104.09864) on the halves of each head, ``[..., sequence, head]``."""
    first, second = np.split(x, 2, axis=-1)
    turned: Array = np.concatenate([-second, first], axis=-1)
    result: Float = np.asarray(x * cos + turned * sin, np.float32)
    return result


def _gelu(x: Float) -> Float:
    result: Float = 0.5 * x * (1 + erf(x / np.float32(np.sqrt(2))))
    return result


def _gelu_tanh(x: Float) -> Float:
    # https://onnx.ai/onnx/operators/onnx__Gelu.html, approximate = tanh
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    result: Float = 0.5 * x * (1 + np.tanh(inner))
    return result


ACTIVATIONS: Mapping[str, Callable[[Float], Float]] = {
    "none": lambda x: x,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "tanh": np.tanh,
}


class SparseLinear(OpRun):
    """The operator for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = DOMAIN

    def _run(self, x: Float, *constants: Any, activation: str = "none") -> tuple[Float]:
        weight, scale, bias, x_scale, x_zero_point = (*constants, None, None)[:5]
        static = _static(x_scale, x_zero_point, 0)
        return (ACTIVATIONS[activation](linear(x, weight, scale, bias, static=static)),)


class SparseEncoderLayer(OpRun):
    """The operator for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = DOMAIN

    def _run(
        self,
        x: Float,
        mask: NDArray[np.int64],
        *constants: Any,
        num_heads: int = 0,
        epsilon: float = 0.0,
        activation: str = "gelu",
        operator_version: int = 1,
        output_tokens: int = 0,
        unpadded_input: int = 0,
        unpadded_output: int = 0,
        position_bias: int = 0,
        attention_scale: float = 0.0,
        output_epsilon: float = 0.0,
        norm_first: int = 0,
        attention_norm: int = 1,
        gated: int = 0,
        packed_qkv: int = 0,
        rotary: int = 0,
        window: int = 0,
    ) -> tuple[Float]:
        if operator_version > NEWEST_VERSION:
            raise RuntimeError(f"a SparseEncoderLayer needs operator version {operator_version}")
        tokens = _up_to_the_last_token(mask)
        if unpadded_input:
            x = _padded(x, tokens)
        linears = [constants[start : start + 3] for start in range(0, 18, 3)]
        gamma1, beta1, gamma2, beta2 = constants[18:22]
        x_scale, x_zero_point = (*constants[22:], None, None)[:2]
        tensors = list(constants[24:])
        bias = tensors.pop(0) if position_bias else None
        positions = None
        if rotary:
            cos, sin = (table.reshape(x.shape[1], -1) for table in tensors)
            positions = cos, sin
        static = [_static(x_scale, x_zero_point, index) for index in range(4)]

        def norm(hidden: Float, behind: bool, number: int) -> Float:
            """The LayerNorm of a position, if the layer has it."""
            if behind == bool(norm_first) or (number == 0 and not attention_norm):
                return hidden
            gamma, beta = ((gamma1, beta1), (gamma2, beta2))[number]
            return layer_norm(hidden, gamma, beta, (epsilon, output_epsilon or epsilon)[number])

        inside = norm(x, False, 0)
        if packed_qkv:
            query, key, value = np.split(linear(inside, *linears[0], static=static[0]), 3, axis=-1)
        else:
            query, key, value = (linear(inside, *weights, static=static[0]) for weights in linears[:3])
        context = attention(
            query, key, value, mask, num_heads, scale=attention_scale, bias=bias, positions=positions, window=window
        )
        hidden = norm(x + linear(context, *linears[3], static=static[1]), True, 0)
        inner = linear(norm(hidden, False, 1), *linears[4], static=static[2])
        if gated:
            activated, factor = np.split(inner, 2, axis=-1)
            inner = ACTIVATIONS[activation](activated) * factor
        else:
            inner = ACTIVATIONS[activation](inner)
        result = norm(hidden + linear(inner, *linears[5], static=static[3]), True, 1)
        result = np.where(tokens[:, :, None], result, np.float32(0))
        if unpadded_output:
            return (_unpadded(result, tokens),)
        return (result[:, : output_tokens or None],)


class ReferenceSession:
    """A model with sparse operators, run in numpy.

    Args:
        path: ``model_sparse.onnx``.
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        self._outputs = [output.name for output in model.graph.output]
        self._evaluator = ReferenceEvaluator(model, new_ops=[SparseLinear, SparseEncoderLayer])

    def run(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """Run one batch; return the outputs in the file's order.

        Raises:
            RuntimeUnavailableError: onnx's evaluator does not support a standard operator of the file.
        """
        try:
            with np.errstate(all="ignore"):
                taken = {name: inputs[name] for name in self._evaluator.input_names}
                return tuple(self._evaluator.run(self._outputs, taken))
        except (KeyError, TypeError, NotImplementedError, RuntimeError, ValueError, IndexError) as error:
            reason = one_line(error)
            raise RuntimeUnavailableError(f"onnx's reference evaluator can't run this file: {reason}") from error

    def close(self) -> None:
        """Does nothing; part of the runtimes' interface."""


def _up_to_the_last_token(mask: NDArray[np.int64]) -> NDArray[np.bool_]:
    """False for the padding after each sequence, which the operator omits; all true for a mask of zeros."""
    tokens_behind = np.flip(np.cumsum(np.flip(mask != 0, axis=1), axis=1), axis=1)
    kept: NDArray[np.bool_] = (tokens_behind > 0) | ~mask.any(axis=1, keepdims=True)
    return kept


def _unpadded(x: Float, tokens: NDArray[np.bool_]) -> Float:
    """The rows of tokens at the start of ``[batch, sequence, hidden]``; later rows are undefined."""
    result = np.full_like(x, np.nan)
    result.reshape(-1, x.shape[2])[: tokens.sum()] = x[tokens]
    return result


def _padded(x: Float, tokens: NDArray[np.bool_]) -> Float:
    result = np.zeros_like(x)
    result[tokens] = x.reshape(-1, x.shape[2])[: tokens.sum()]
    return result


def _to_u8(x: Float, scale: Float, zero_point: NDArray[np.int32]) -> NDArray[np.uint8]:
    steps: NDArray[np.uint8] = np.clip(np.rint(x / scale) + zero_point, 0, _LEVELS).astype(np.uint8)
    return steps


def _static(x_scale: Array | None, x_zero_point: Array | None, index: int) -> tuple[float, int] | None:
    if x_scale is None or x_zero_point is None:
        return None
    return float(x_scale[index]), int(x_zero_point[index])


def _decoded(blob: Blob) -> Int8Matrix:
    header = blob[:32].tobytes()  # includes a checksum, so it identifies the blob
    if header not in _DECODED:
        if len(_DECODED) >= _MOST_DECODED:
            _DECODED.clear()
        _DECODED[header] = decode(blob)
    return _DECODED[header]
