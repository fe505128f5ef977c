# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's own sparse path, sparse-weights decompression: its conditions, its rate, and whether it was used.

The conditions are those of ``useSparseWeightsDecompression`` in OpenVINO's
``src/plugins/intel_cpu/src/nodes/fullyconnected.cpp`` (2026.4): where one fails, the dense kernel runs without a
message. This module does not measure; it uses the flags of the CPU and the tensors of the file.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from sparse_deploy.sparsity.pattern import DENSE_BELOW

SPARSE_RATE_PROPERTY = "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"
# oneDNN's avx512_core_amx, which OpenVINO requires: both AMX types and AVX512-FP16.
AMX_FLAGS = ("amx_tile", "amx_int8", "amx_bf16", "avx512_fp16")
AMX_TILE_MULTIPLE = 64
INT8_ACTIVATIONS = ("u8", "i8")
_HIGHEST_RATE = 0.99  # 1.0 means off


class Fact(BaseModel):
    """Base of classes with facts on a file or a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorFacts(Fact):
    """The facts that determine the kernel of a runtime for one weight.

    Attributes:
        name: parameter name.
        shape: ``[out, in]``.
        zero_share: stored zeros divided by weights, 0 to 1.
        weight_type: type in the file, in OpenVINO's terms (``f32``, ``bf16``, ``i8``, ``u8`` ...).
        activation_type: type of the product's other operand: ``u8`` or ``i8`` if the file quantizes
            it with a stored scale, ``f32`` otherwise.
    """

    name: str
    shape: tuple[int, int]
    zero_share: float
    weight_type: str
    activation_type: str


class Condition(Fact):
    """One condition of a runtime's sparse path.

    Attributes:
        text: the condition, as a statement.
        holds: whether it is met; for conditions on tensors, by at least one sparse tensor.
        found: the value found.
    """

    text: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Decision:
    """Whether the setting would have an effect.

    Attributes:
        cpu: the condition on the CPU.
        model: the conditions on the tensors, in the runtime's order.
        ready: sparse tensors that meet all conditions on the model.
        sparse: number of tensors with enough zeros.
        reaching: rate that includes all ready tensors; None if there are none.
    """

    cpu: Condition
    model: tuple[Condition, ...]
    ready: tuple[TensorFacts, ...]
    sparse: int
    reaching: float | None

    @property
    def rate(self) -> float | None:
        """The value of :data:`SPARSE_RATE_PROPERTY`; None means that it is not set."""
        return self.reaching if self.cpu.holds else None

    @property
    def reason(self) -> str:
        """The reason why it is not set; empty if it is."""
        if not self.cpu.holds:
            return f"{self.cpu.text} does not hold: {self.cpu.found}"
        if not self.sparse:
            return "no tensor has enough zeros"
        failed = next((condition for condition in self.model if not condition.holds), None)
        if failed is not None:
            return f"{failed.text} does not hold: {failed.found}"
        return "" if self.ready else "no tensor meets all conditions at once"


@dataclass(frozen=True)
class SparseLayers:
    """The kernels in an execution graph.

    Attributes:
        sparse: fully connected layers that run a sparse kernel.
        all: fully connected layers.
    """

    sparse: int
    all: int


def cpu_condition(flags: Collection[str]) -> Condition:
    """The condition on the CPU alone.

    Args:
        flags: flags of the CPU, as in ``/proc/cpuinfo``.
    """
    missing = [flag for flag in AMX_FLAGS if flag not in flags]
    return Condition(
        text="the CPU has AMX",
        holds=not missing,
        found=f"no {', '.join(missing)}" if missing else ", ".join(AMX_FLAGS),
    )


def decide(flags: Collection[str], facts: Sequence[TensorFacts]) -> Decision:
    """Decide for one file on one CPU.

    Args:
        flags: flags of the CPU, as in ``/proc/cpuinfo``.
        facts: the file's weights.
    """
    sparse = [tensor for tensor in facts if tensor.zero_share >= DENSE_BELOW]
    conditions = tuple(_model_condition(check, sparse) for check in _CHECKS)
    ready = tuple(tensor for tensor in sparse if all(check.passes(tensor) for check in _CHECKS))
    lowest = min((tensor.zero_share for tensor in ready), default=None)
    rate = None if lowest is None else min(_HIGHEST_RATE, math.floor(lowest * 100) / 100)
    return Decision(cpu_condition(flags), conditions, ready, len(sparse), rate)


def count_sparse_layers(compiled: Any) -> SparseLayers:
    """Read the kernels of an ``openvino.CompiledModel``.

    The plugin's execution graph has their names: ``brgemm_sparse_avx512_amx_I8`` if the sparse path runs.
    """
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kernels = [info["primitiveType"].value for info in nodes if info["layerType"].value == "FullyConnected"]
    return SparseLayers(sum("sparse" in kernel for kernel in kernels), len(kernels))


@dataclass(frozen=True)
class _Check:
    text: str
    passes: Callable[[TensorFacts], bool]
    describe: Callable[[TensorFacts], str]


_CHECKS = (
    _Check(
        f"both sides of the weight are multiples of {AMX_TILE_MULTIPLE}",
        lambda tensor: all(side % AMX_TILE_MULTIPLE == 0 for side in tensor.shape),
        lambda tensor: f"{tensor.shape[0]}x{tensor.shape[1]}",
    ),
    _Check(
        "activations reach the product as u8 or i8",
        lambda tensor: tensor.activation_type in INT8_ACTIVATIONS,
        lambda tensor: tensor.activation_type,
    ),
    _Check("weights are stored as i8", lambda tensor: tensor.weight_type == "i8", lambda tensor: tensor.weight_type),
)


def _model_condition(check: _Check, sparse: Sequence[TensorFacts]) -> Condition:
    passed = sum(check.passes(tensor) for tensor in sparse)
    failed = sorted({check.describe(tensor) for tensor in sparse if not check.passes(tensor)})
    others = f"; found {', '.join(failed[:4])}" if failed else ""
    return Condition(text=check.text, holds=passed > 0, found=f"{passed} of {len(sparse)} sparse tensors{others}")
