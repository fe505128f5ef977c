# SPDX-License-Identifier: Apache-2.0
"""Timing of single kernels in this process: pairs of blocks, sparse and dense in turn, on one thread."""

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.bars import kernel_bar
from harness.cells import parse_pattern
from harness.rivals import Block, Ratio, speedup
from sparse_deploy.kernels import abi, native
from sparse_deploy.kernels.loader import instruction_set
from sparse_deploy.measurement.machine_state import State
from sparse_deploy.measurement.pairing import middle_ms
from sparse_deploy.sparsity.packing import encode
from sparse_deploy.sparsity.pattern import DENSE, PatternKind

_SEED = 7
_EMPTY_CALLS = 2000

Call = Callable[[], None]


@dataclass(frozen=True)
class MicroCell:
    """One multiplication: ``[tokens, k]`` by the transpose of a weight ``[n, k]`` with a pattern."""

    pattern: str
    n: int
    k: int
    tokens: int

    @property
    def name(self) -> str:
        """``PATTERN-NxK-mTOKENS``."""
        return f"{self.pattern}-{self.n}x{self.k}-m{self.tokens}"

    @property
    def gmac(self) -> float:
        """1e9 multiply-adds of the dense product."""
        return self.tokens * self.n * self.k / 1e9


@dataclass(frozen=True)
class MicroPlan:
    """Number of pairs of blocks per cell, and the length of a block."""

    rounds: int = 15
    milliseconds: float = 4.0


def measure_shape(cells: Sequence[MicroCell], plan: MicroPlan, peak_gmacs: float | None) -> Iterator[dict[str, Any]]:
    """Time the cells of one weight: the complete SparseLinear, and the multiplication alone.

    Args:
        cells: cells of one pattern and shape.
        plan: number and length of blocks.
        peak_gmacs: peak rate of the CPU's multiply-add instruction; None if unknown.

    Yields:
        A record per cell. Times are per call, minus the time of an empty call.
    """
    first = cells[0]
    weight = random_weight(first.pattern, first.n, first.k)
    blob = encode(weight)
    scale = np.full(first.n, 0.001, np.float32)
    bias = np.zeros(first.n, np.float32)
    linears = [native.Linear(blob, scale, bias), native.Linear(blob, scale, bias, layout="dense")]
    weights = [native.Weight(blob), native.Weight(blob, "dense")]
    info = weights[0].describe()
    overhead = empty_call_ms()
    chosen = instruction_set().name
    for cell in cells:
        bar = kernel_bar(chosen, cell.pattern, cell.k, cell.tokens)
        linear = _pair(_linear_call(linears[0], cell), _linear_call(linears[1], cell), plan, overhead)
        matmul = _pair(_matmul_call(weights[0], cell), _matmul_call(weights[1], cell), plan, overhead)
        yield {
            "kind": "kernel",
            "cell": cell.name,
            "pattern": cell.pattern,
            "shape": [cell.n, cell.k],
            "tokens": cell.tokens,
            "kernel": info.layout,
            "found_pattern": info.pattern,
            "fill": round(info.fill, 4),
            "predicted_cost": round(info.cost, 4),
            "packed_ratio": round(info.packed_bytes / (cell.n * cell.k), 4),
            "bar": bar,
            "linear": operator_record(cell, *linear, peak_gmacs, bar),
            "matmul": operator_record(cell, *matmul, peak_gmacs, bar),
            "empty_call_us": round(overhead * 1e3, 3),
        }


def random_weight(pattern: str, n: int, k: int) -> NDArray[np.int8]:
    """Normal weights, pruned by magnitude in units of the pattern, as int8 with a scale per output channel.

    Args:
        pattern: see :func:`harness.cells.parse_pattern`.
        n: output channels.
        k: input channels.
    """
    wanted, share = parse_pattern(pattern)
    values = np.random.default_rng(_SEED).standard_normal((n, k), dtype=np.float32)
    if wanted.kind is PatternKind.N_M:
        groups = np.abs(values).reshape(n, k // wanted.m, wanted.m)
        ranks = groups.argsort(axis=2).argsort(axis=2)
        values[(ranks < wanted.m - wanted.n).reshape(n, k)] = 0
    elif wanted != DENSE:
        height, width = wanted.block
        scores = np.abs(values).reshape(n // height, height, k // width, width).mean(axis=(1, 3))
        zeros = scores <= np.partition(scores.ravel(), round(share * scores.size) - 1)[round(share * scores.size) - 1]
        values[zeros.repeat(height, 0).repeat(width, 1)] = 0
    stored = np.rint(values / np.abs(values).max(axis=1, keepdims=True) * 127).astype(np.int8)
    # A kept weight that rounds to 0 would raise the sparsity above the pattern's.
    return np.where((stored == 0) & (values != 0), np.sign(values), stored).astype(np.int8)


def operator_record(
    cell: MicroCell, ours_ms: float, dense_ms: float, ratio: Ratio, peak: float | None, bar: float | None
) -> dict[str, Any]:
    """Figures of one operator; GMAC/s count the multiply-adds of the dense product."""
    gmacs, dense_gmacs = cell.gmac / ours_ms * 1e3, cell.gmac / dense_ms * 1e3
    return {
        "us": round(ours_ms * 1e3, 2),
        "gmacs": round(gmacs, 1),
        "dense_us": round(dense_ms * 1e3, 2),
        "dense_gmacs": round(dense_gmacs, 1),
        "dense_of_peak": round(dense_gmacs / peak, 3) if peak else None,
        "ratio": round(ratio.value, 3),
        "interval": [round(ratio.low, 3), round(ratio.high, 3)],
        "rounds": ratio.rounds,
        "reached": None if bar is None else ratio.value >= bar,
    }


def empty_call_ms() -> float:
    """Milliseconds of an empty call through ctypes: a multiplication with zero tokens."""
    weight = native.Weight(encode(np.ones((16, 16), np.int8)))
    x, y = np.zeros((1, 16), np.uint8), np.zeros((1, 16), np.int32)
    call = _call(abi.core().sd_matmul_i32, weight, x, 0, y)
    for _ in range(_EMPTY_CALLS):
        call()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(_EMPTY_CALLS):
            call()
        times.append((time.perf_counter() - start) / _EMPTY_CALLS)
    return min(times) * 1e3


def _linear_call(linear: native.Linear, cell: MicroCell) -> Call:
    x = np.random.default_rng(_SEED).standard_normal((cell.tokens, cell.k), dtype=np.float32)
    y = np.empty((cell.tokens, cell.n), np.float32)
    return _call(abi.core().sd_linear_run, linear, x, cell.tokens, y)


def _matmul_call(weight: native.Weight, cell: MicroCell) -> Call:
    x = np.random.default_rng(_SEED).integers(0, 256, (cell.tokens, cell.k), dtype=np.uint8)
    y = np.empty((cell.tokens, cell.n), np.int32)
    return _call(abi.core().sd_matmul_i32, weight, x, cell.tokens, y)


def _call(function: Any, handle: Any, x: NDArray[Any], tokens: int, y: NDArray[Any]) -> Call:
    """The call with its arguments converted once; it holds references to the arrays."""
    arguments = (
        ctypes.c_void_p(handle._handle), ctypes.c_void_p(x.ctypes.data), ctypes.c_int64(tokens),
        ctypes.c_void_p(y.ctypes.data), None, None,
    )  # fmt: skip

    def call(kept: object = (handle, x, y)) -> None:
        function(*arguments)

    return call


def _pair(ours: Call, dense: Call, plan: MicroPlan, overhead: float) -> tuple[float, float, Ratio]:
    """Milliseconds per call of both (median over blocks), and their ratio."""
    calls = {"ours": ours, "dense": dense}
    counts = {name: _repeats(call, plan.milliseconds) for name, call in calls.items()}
    blocks: dict[str, list[Block]] = {name: [] for name in calls}
    for turn in range(plan.rounds):
        order = list(calls) if turn % 2 else list(calls)[::-1]
        for name in order:
            samples = _block(calls[name], counts[name], overhead)
            blocks[name].append(Block(name, turn, samples, (State(None, None),)))
    ratio = speedup(blocks["ours"], blocks["dense"])
    assert ratio is not None  # both ran in every round
    return middle_ms(blocks["ours"]), middle_ms(blocks["dense"]), ratio


def _repeats(call: Call, milliseconds: float) -> int:
    call()
    start = time.perf_counter()
    call()
    once = (time.perf_counter() - start) * 1e3
    return max(3, round(milliseconds / max(once, 1e-4)))


def _block(call: Call, count: int, overhead: float) -> tuple[float, ...]:
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start) * 1e3)
    # At least a tenth of the time: a call of a microsecond takes hardly longer than the empty one.
    return tuple(max(sample - overhead, sample / 10) for sample in samples)
