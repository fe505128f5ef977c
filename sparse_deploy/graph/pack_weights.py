# SPDX-License-Identifier: Apache-2.0
"""Packing of linear layers' weights for sparse operators: INT8 per output channel, then the compact form."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparse_deploy.graph.initializers import add_initializer
from sparse_deploy.graph.linears import Linear
from sparse_deploy.graph.weights import Orientation, constant
from sparse_deploy.sparsity.packing import Int8Matrix, encode

Array = NDArray[Any]

_LARGEST = 127
# One of the suffixes that the reader of weights removes from a name.
_PACKED = "_quantized"
_SCALE = "_scale"


def quantize(weight: NDArray[np.float32]) -> tuple[Int8Matrix, NDArray[np.float32]]:
    """Symmetric INT8 per output channel: ``round_half_even(w / scale)``, ``scale = max|w| / 127``; zeros are kept.

    Args:
        weight: finite float32 ``[out, in]``.

    Returns:
        int8 ``[out, in]`` of -127 to 127; scales ``[out]``, 1 for a channel of zeros.
    """
    scale = np.abs(weight).max(axis=1) / np.float32(_LARGEST)
    # for a denormal, max / 127 is 0
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    steps = np.rint(weight / scale[:, None])
    return np.clip(steps, -_LARGEST, _LARGEST).astype(np.int8), scale


def int8_weight(linear: Linear) -> tuple[Int8Matrix, NDArray[np.float32]]:
    """A linear layer's weight as int8 ``[out, in]`` and scale ``[out]``.

    Stored int8 values are kept, except -128: Neural Compressor's scale is max|w| / 127.5, so a weight that rounds to
    -128 is -127.5, and -127 is equally near. The smoothing of a smoothed weight is undone (the operators quantize the
    unsmoothed input), and the weight is quantized again, like an FP32 weight.
    """
    values = linear.out_in()
    if not linear.weight.quantized:
        return quantize(_unsmoothed(values, linear.smoothing))
    scale = _channel_scale(linear)
    if linear.smoothing is None:
        return np.maximum(values, -_LARGEST), scale
    return quantize(_unsmoothed(values * scale[:, None], linear.smoothing))


@dataclass(frozen=True)
class Packed:
    """Inputs of an operator for one linear layer."""

    weight: ir.Value
    scale: ir.Value
    bias: ir.Value

    @property
    def values(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """In the order of the operators' inputs."""
        return self.weight, self.scale, self.bias


class Packer:
    """Adds packed weights to a graph; a weight shared by several layers is added once.

    Args:
        graph: the graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._packed: dict[tuple[ir.Value, bytes], Packed] = {}

    def pack(self, linear: Linear) -> Packed:
        """The inputs of a layer; :meth:`take_names` later renames the packed weight."""
        factors = b"" if linear.smoothing is None else linear.smoothing.tobytes()
        key = linear.stored, factors
        known = self._packed.get(key)
        if known is None or (linear.bias is not None and known.bias is not linear.bias):
            matrix, scale = int8_weight(linear)
            name = linear.stored.name or linear.name
            known = Packed(
                weight=self.shared(f"{name}{_PACKED}", encode(matrix)) if known is None else known.weight,
                scale=self.shared(f"{name}{_SCALE}", scale) if known is None else known.scale,
                bias=linear.bias or self.constant(f"{name}_zero_bias", np.zeros(len(scale), np.float32)),
            )
            self._packed[key] = known
        return known

    def shared(self, name: str, array: Array) -> ir.Value:
        """:meth:`constant`, or an existing equal constant with this name."""
        stored = self._graph.initializers.get(name)
        tensor = constant(stored)
        if stored is not None and tensor is not None and np.array_equal(tensor.numpy(), array):
            return stored
        return self.constant(name, array)

    def constant(self, name: str, array: Array) -> ir.Value:
        """A new initializer; a number is appended to an existing name."""
        free, number = name, 1
        while free in self._graph.initializers:
            number += 1
            free = f"{name}_{number}"
        return add_initializer(self._graph, free, array)

    def take_names(self) -> None:
        """Rename packed weights to the parameters' names, if the unpacked weights were removed from the graph."""
        for packed in self._packed.values():
            name = (packed.weight.name or "").removesuffix(_PACKED)
            if name not in self._graph.initializers and packed.weight.name != name:
                packed.weight.name = name


def _unsmoothed(weight: NDArray[np.float32], smoothing: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return weight if smoothing is None else np.asarray(weight * smoothing[None, :], np.float32)


def _channel_scale(linear: Linear) -> NDArray[np.float32]:
    stored = linear.weight.scale
    assert stored is not None  # noqa: S101 - find_linears refuses int8 without one
    turned = stored if linear.weight.orientation is Orientation.OUT_IN else stored.T
    scale: NDArray[np.float32] = np.broadcast_to(turned, (linear.shape[0], 1))[:, 0].astype(np.float32)
    return scale
