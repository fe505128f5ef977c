# SPDX-License-Identifier: Apache-2.0
"""The kernels' C interface as Python classes, for tests and benchmarks.

Models run in ONNX Runtime and do not use this module. Calls are serial unless a :class:`ThreadPool` is given.
"""

import ctypes
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.errors import ArtifactError
from sparse_deploy.kernels import abi
from sparse_deploy.kernels.abi import ACTIVATIONS, LINEARS

Float = NDArray[np.float32]
Array = NDArray[Any]


@dataclass(frozen=True)
class WeightInfo:
    """The result of packing a weight.

    Attributes:
        shape: ``(out_features, in_features)``.
        nonzeros: values that are not 0.
        packed_bytes: size of the packed form.
        fill: multiply-add slots of the packed form divided by those of the dense form.
        cost: predicted time divided by that of the dense kernel.
        layout: the weight layout: ``dense``, ``unstructured``, ``one_of_two``, ``block_4x1``, ``block_1x4``, ...
        pattern: the detected pattern: ``dense``, ``unstructured``, ``1:2``, ``block_4x1``, ``block_1x4``.
    """

    shape: tuple[int, int]
    nonzeros: int
    packed_bytes: int
    fill: float
    cost: float
    layout: str
    pattern: str


class RunError(RuntimeError):
    """A product that could not be computed; later calls still work."""


class ThreadPool:
    """An ``sd_pool`` of Python threads; ctypes releases the interpreter lock while a task runs.

    It has a large overhead per task: use it for tests with threads, not for measurements.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads)
        self._run = abi.Run(self._map)
        self.handle = abi.Pool(None, self._run, threads)

    def _map(self, _context: int | None, task: Any, arg: int | None, count: int) -> int:
        list(self._executor.map(lambda index: task(arg, index), range(count)))
        return 0


class Weight:
    """A packed INT8 matrix.

    Args:
        blob: compact form, uint8.
        layout: one of the layouts of :class:`WeightInfo`; default: chosen by cost.
        isa: one of the supported sets of :func:`~sparse_deploy.kernels.loader.instruction_set`; default: the set in
            use.

    Raises:
        ArtifactError: the blob is damaged, or the layout can't represent it.
    """

    def __init__(self, blob: NDArray[np.uint8], layout: str | None = None, isa: str | None = None) -> None:
        blob = np.ascontiguousarray(blob, np.uint8)
        error = abi.Error()
        self._owner: object = None
        self._handle = _checked(
            abi.core().sd_weight_create(blob.ctypes.data, blob.size, _name(layout), _name(isa), ctypes.byref(error)),
            error,
        )

    @classmethod
    def _borrowed(cls, handle: int, owner: object) -> Self:
        weight = cls.__new__(cls)
        weight._owner, weight._handle = owner, handle
        return weight

    def describe(self) -> WeightInfo:
        """The result of packing."""
        info = abi.WeightInfo()
        abi.core().sd_weight_describe(self._handle, ctypes.byref(info))
        return WeightInfo(
            (info.n, info.k), info.nonzeros, info.packed_bytes, info.fill, info.cost,
            info.layout.decode(), info.pattern.decode(),
        )  # fmt: skip

    def unpack(self) -> NDArray[np.int8]:
        """The unpacked matrix, int8 ``[N, K]``."""
        dense = np.empty(self.describe().shape, np.int8)
        abi.core().sd_weight_unpack(self._handle, dense.ctypes.data)
        return dense

    def matmul_i32(self, x: NDArray[np.uint8], pool: ThreadPool | None = None) -> NDArray[np.int32]:
        """Exact accumulators ``x · Wᵀ`` of uint8 ``x [M, K]``, int32 ``[M, N]``.

        Raises:
            RunError: out of memory.
        """
        rows, columns = self.describe().shape
        x = _matrix(x, columns, np.uint8)
        y = np.empty((len(x), rows), np.int32)
        _run("sd_matmul_i32", self._handle, x.ctypes.data, len(x), y.ctypes.data, _pool(pool))
        return y

    def __del__(self) -> None:
        if getattr(self, "_handle", None) and self._owner is None:
            abi.core().sd_weight_destroy(self._handle)


class Linear:
    """The operator ``SparseLinear`` of ``docs/sparse_operators.md``.

    Args:
        blob: compact form of ``W [N, K]``.
        scale: float32 ``[N]``.
        bias: float32 ``[N]``, or none.
        activation: one of :data:`ACTIVATIONS`.
        static: scale and zero point of the input; default: dynamic, per row.
        layout: as for :class:`Weight`.
        isa: as for :class:`Weight`.

    Raises:
        ArtifactError: the blob is damaged, or the layout can't represent it.
    """

    def __init__(
        self,
        blob: NDArray[np.uint8],
        scale: Float,
        bias: Float | None = None,
        *,
        activation: str = "none",
        static: tuple[float, int] | None = None,
        layout: str | None = None,
        isa: str | None = None,
    ) -> None:
        arrays = _Arrays()
        config = abi.LinearConfig(
            *arrays.linear(blob, scale, bias),
            activation=ACTIVATIONS.index(activation),
            quantization=abi.Quantization(*(static or (0.0, 0))),
            layout=_name(layout),
            isa=_name(isa),
        )
        error = abi.Error()
        self._handle = _checked(abi.core().sd_linear_create(ctypes.byref(config), ctypes.byref(error)), error)
        self._shape = self.weight.describe().shape

    @property
    def weight(self) -> Weight:
        """The packed matrix."""
        return Weight._borrowed(abi.core().sd_linear_weight(self._handle), self)

    def run(self, x: Float, pool: ThreadPool | None = None) -> Float:
        """Float32 ``[M, N]`` of float32 ``x [M, K]``.

        Raises:
            RunError: out of memory.
        """
        x = _matrix(x, self._shape[1], np.float32)
        y = np.empty((len(x), self._shape[0]), np.float32)
        _run("sd_linear_run", self._handle, x.ctypes.data, len(x), y.ctypes.data, _pool(pool))
        return y

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            abi.core().sd_linear_destroy(self._handle)


class Layer:
    """The operator ``SparseEncoderLayer`` of ``docs/sparse_operators.md``.

    Args:
        linears: blob, scale and bias of each of :data:`LINEARS`; with ``packed_qkv`` the query's weight has the rows of
            query, key and value, and key and value may be missing.
        norms: gamma and beta of the attention's LayerNorm, then of the output's, float32 ``[hidden]``. With
            ``norm_first`` the first two may be None: attention then has no LayerNorm.
        heads: divides the hidden size.
        epsilon: epsilon of both LayerNorms.
        activation: ``gelu``, ``gelu_tanh`` or ``relu``.
        static: scales and zero points of the inputs of query/key/value, attention output, intermediate and output.
        output_tokens: n > 0: the result has the first n tokens of each sequence; 0: all.
        unpadded_input: ``x`` begins with the rows of tokens, without padding between them.
        unpadded_output: the result has the same form.
        position_bias: :meth:`run` gets a bias of the attention scores.
        attention_scale: factor of the products of queries and keys; 0 means 1 / sqrt(head size).
        output_epsilon: epsilon of the output LayerNorm; 0 means ``epsilon``.
        norm_first: LayerNorm is before attention and before the feed-forward block.
        gated: the intermediate layer has twice the rows: the activated half, then the half that it is multiplied by.
        packed_qkv: the query's weight has all three matrices.
        rotary: :meth:`run` gets cosines and sines of the positions.
        window: largest distance of tokens that attend to each other; 0 means no limit.
        isa: as for :class:`Weight`.

    Raises:
        ArtifactError: a blob is damaged, or the shapes do not match.
    """

    def __init__(
        self,
        linears: Mapping[str, tuple[NDArray[np.uint8], Float, Float]],
        norms: Sequence[Float | None],
        *,
        heads: int,
        epsilon: float,
        activation: str = "gelu",
        static: Sequence[tuple[float, int]] | None = None,
        output_tokens: int = 0,
        unpadded_input: bool = False,
        unpadded_output: bool = False,
        position_bias: bool = False,
        attention_scale: float = 0.0,
        output_epsilon: float = 0.0,
        norm_first: bool = False,
        gated: bool = False,
        packed_qkv: bool = False,
        rotary: bool = False,
        window: int = 0,
        isa: str | None = None,
    ) -> None:
        arrays = _Arrays()
        hidden, intermediate = len(linears["output"][1]), len(linears["intermediate"][1]) // (2 if gated else 1)
        config = abi.LayerConfig(
            hidden=hidden,
            intermediate=intermediate,
            heads=heads,
            epsilon=epsilon,
            activation=ACTIVATIONS.index(activation),
            output_tokens=output_tokens,
            unpadded_input=unpadded_input,
            unpadded_output=unpadded_output,
            position_bias=position_bias,
            attention_scale=attention_scale,
            output_epsilon=output_epsilon,
            norm_first=norm_first,
            gated=gated,
            packed_qkv=packed_qkv,
            rotary=rotary,
            window=window,
            isa=_name(isa),
        )
        for index, name in enumerate(LINEARS):
            if not packed_qkv or name not in ("key", "value"):
                config.linears[index] = abi.LayerLinear(*arrays.linear(*linears[name]))
        names = ("attention_gamma", "attention_beta", "output_gamma", "output_beta")
        for name, norm in zip(names, norms, strict=True):
            if norm is not None:
                setattr(config, name, arrays.address(norm, np.float32, hidden))
            elif not norm_first or name.startswith("output"):
                raise ValueError(f"{name} is missing")
        for index, (scale_, zero_point) in enumerate(static or ()):
            config.quantization[index] = abi.Quantization(scale_, zero_point)
        error = abi.Error()
        self._handle = _checked(abi.core().sd_layer_create(ctypes.byref(config), ctypes.byref(error)), error)
        self._hidden, self._output_tokens = hidden, output_tokens
        self._heads, self._position_bias, self._rotary = heads, position_bias, rotary

    def weight(self, name: str) -> Weight:
        """The packed matrix of one of :data:`LINEARS`."""
        return Weight._borrowed(abi.core().sd_layer_weight(self._handle, LINEARS.index(name)), self)

    def run(
        self,
        x: Float,
        mask: NDArray[np.int64],
        pool: ThreadPool | None = None,
        bias: Float | None = None,
        positions: tuple[Float, Float] | None = None,
    ) -> Float:
        """Float32 ``[batch, sequence, hidden]`` from such an ``x``, with ``mask [batch, sequence]``, 0 = padding.

        ``bias`` is ``[1 or batch, heads, sequence, sequence]``, and ``positions`` are cosines and sines,
        ``[sequence, head]`` each, if the layer has them.
        With ``output_tokens`` the result is ``[batch, min(output_tokens, sequence), hidden]``.

        Raises:
            RunError: out of memory, or a sequence is too long.
        """
        batch, sequence, hidden = x.shape
        if hidden != self._hidden or mask.shape != (batch, sequence):
            wanted = f"x [batch, sequence, {self._hidden}] and mask [batch, sequence]"
            raise ValueError(f"expected {wanted}, found {list(x.shape)} and {list(mask.shape)}")
        x, mask = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(mask, np.int64)
        y = np.empty((batch, min(self._output_tokens or sequence, sequence), hidden), np.float32)
        if (bias is not None) != self._position_bias:
            raise ValueError(f"expected {'a' if self._position_bias else 'no'} position bias")
        biases = None if bias is None else np.ascontiguousarray(bias, np.float32)
        if biases is not None and biases.shape[1:] != (self._heads, sequence, sequence):
            raise ValueError(
                f"expected a bias [1 or {batch}, {self._heads}, {sequence}, {sequence}], found {biases.shape}"
            )
        if (positions is not None) != self._rotary:
            raise ValueError(f"expected {'positions' if self._rotary else 'no positions'}")
        tables = [np.ascontiguousarray(table, np.float32) for table in positions or ()]
        if any(table.shape != (sequence, hidden // self._heads) for table in tables):
            raise ValueError(f"expected cosines and sines [{sequence}, {hidden // self._heads}]")
        inputs = abi.LayerInputs(x.ctypes.data, mask.ctypes.data, batch, sequence)
        if biases is not None:
            inputs.bias, inputs.bias_batch = biases.ctypes.data, len(biases)
        if tables:
            inputs.cos, inputs.sin = (table.ctypes.data for table in tables)
        _run("sd_layer_run", self._handle, ctypes.byref(inputs), y.ctypes.data, _pool(pool))
        return y

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            abi.core().sd_layer_destroy(self._handle)


class _Arrays:
    """Holds references to the arrays whose addresses are in a configuration."""

    def __init__(self) -> None:
        self._kept: list[Array] = []

    def address(self, array: Array, dtype: type[np.generic], length: int) -> int:
        if array.shape != (length,):
            raise ValueError(f"expected an array of {length} values, found {list(array.shape)}")
        self._kept.append(np.ascontiguousarray(array, dtype))
        return self._kept[-1].ctypes.data

    def linear(self, blob: NDArray[np.uint8], scale: Float, bias: Float | None) -> tuple[int, int, int, int | None]:
        """Blob, its size, scale and bias, in the order of configurations."""
        # The library reads one scale per row of the blob's header.
        rows = int(blob[8:12].view("<u4")[0]) if blob.size >= 12 else len(scale)
        bias_address = None if bias is None else self.address(bias, np.float32, rows)
        return self.address(blob, np.uint8, blob.size), blob.size, self.address(scale, np.float32, rows), bias_address


def _run(function: str, *arguments: Any) -> None:
    error = abi.Error()
    if getattr(abi.core(), function)(*arguments, ctypes.byref(error)):
        raise RunError(error.message.decode())


def _name(text: str | None) -> bytes | None:
    return text.encode() if text else None


def _checked(handle: int | None, error: abi.Error) -> int:
    if not handle:
        raise ArtifactError(error.message.decode() or "the sparse kernels refused this without a reason")
    return handle


def _matrix(x: Array, columns: int, dtype: type[np.generic]) -> Array:
    if x.ndim != 2 or x.shape[1] != columns or x.dtype != dtype:
        raise ValueError(f"expected {np.dtype(dtype)} [rows, {columns}], found {x.dtype} {list(x.shape)}")
    return np.ascontiguousarray(x)


def _pool(pool: ThreadPool | None) -> Any:
    return None if pool is None else ctypes.byref(pool.handle)
