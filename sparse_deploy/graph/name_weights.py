# SPDX-License-Identifier: Apache-2.0
"""Pass: rename every weight to its PyTorch parameter."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparse_deploy.graph.weights import OnnxWeight, Orientation, read_weights

Array = NDArray[Any]


class NameWeights(ir.passes.InPlacePass):
    """Rename initializers to the names of a state dict.

    First by name (``model.bert.x`` of a wrapped model is ``bert.x``), then the remaining weights of matrix products by
    content, in either orientation. So a tensor has the same name in checkpoint, ONNX file and IR.

    Args:
        parameters: the state dict: FP32 arrays by parameter name.
    """

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        super().__init__()
        self._parameters = parameters

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in place."""
        renames = {value: name for value in model.graph.initializers.values() if (name := self._by_name(value))}
        free = {name for name in self._parameters if name not in renames.values()}
        unnamed = [weight for weight in read_weights(model) if weight.initializer not in self._parameters]
        unnamed = [weight for weight in unnamed if model.graph.initializers.get(weight.initializer) not in renames]
        for weight, name in _by_content(unnamed, {name: self._parameters[name] for name in free}):
            if weight.initializer in model.graph.initializers:
                renames[model.graph.initializers[weight.initializer]] = name
        changes = {value: name for value, name in renames.items() if value.name != name}
        for value, name in changes.items():
            value.name = name
        return ir.passes.PassResult(model, modified=bool(changes))

    def _by_name(self, value: ir.Value) -> str | None:
        parts = (value.name or "").split(".")
        names = (".".join(parts[start:]) for start in range(len(parts)))
        return next((name for name in names if name in self._parameters), None)


def _by_content(weights: Iterable[OnnxWeight], parameters: Mapping[str, Array]) -> Iterable[tuple[OnnxWeight, str]]:
    """Pair floating-point weights with parameters of equal bytes; several equal ones are paired in order."""
    names: dict[str, list[str]] = {}
    weights = [weight for weight in weights if not weight.quantized]
    shapes = {weight.shape for weight in weights}
    for name, array in parameters.items():
        if array.shape in shapes:
            names.setdefault(_digest(array), []).append(name)
    for weight in weights:
        as_linear = weight.values if weight.orientation is Orientation.OUT_IN else weight.values.T
        candidates = names.get(_digest(as_linear))
        if candidates:
            yield weight, candidates.pop(0)


def _digest(array: Array) -> str:
    # -0 and 0 are equal in every product.
    contiguous = np.ascontiguousarray(array, dtype=np.float32) + np.float32(0)
    return hashlib.blake2b(contiguous.tobytes(), digest_size=16).hexdigest() + str(contiguous.shape)
