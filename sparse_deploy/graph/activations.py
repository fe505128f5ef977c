# SPDX-License-Identifier: Apache-2.0
"""The activation after a linear layer: one node, or several nodes of a decomposed GELU."""

import numpy as np
import onnx_ir as ir

from sparse_deploy.graph.matching import NoMatchError, Subgraph, ancestors
from sparse_deploy.graph.weights import constant
from sparse_deploy.kernels.reference import ACTIVATIONS

NONE = "none"
_ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Erf", "Tanh", "Gelu", "Relu", "Sigmoid", "Neg", "Sqrt"))
# The two GELUs differ by at most 5e-4; float32 has a precision of 1e-6 at 10.
_SAME = 2e-5
_SAMPLE = np.linspace(-10, 10, 4001, dtype=np.float32)


def activation_behind(value: ir.Value) -> tuple[str, ir.Value]:
    """The longest run of elementwise nodes after a value that equals one of the operators' activations.

    Args:
        value: output of a linear layer.

    Returns:
        Its name and the value after it: ``("none", value)`` without an activation.
    """
    followers = _elementwise_followers(value)
    for end in reversed(followers):
        run, _ = ancestors([end], stop=[value])
        # A constant may be shared with other layers.
        inner = [value, *(node.outputs[0] for node in run if node.outputs[0] is not end and node.op_type != "Constant")]
        if any(one.is_graph_output() or any(use.node not in run for use in one.uses()) for one in inner):
            continue
        name = _name_of(value, end)
        if name:
            return name, end
    return NONE, value


def gated_activation(value: ir.Value, width: int, end: ir.Value) -> str:
    """The activation of a gated feed-forward block: ``act(first half) * second half`` of a linear layer's outputs.

    Args:
        value: output of the linear layer, ``[batch, sequence, width]``.
        width: twice the intermediate size.
        end: the product, ``[batch, sequence, intermediate]``.

    Raises:
        NoMatchError: the nodes are no gated activation.
    """
    if width % 2:
        raise NoMatchError(f"a gated feed-forward block has an even number of outputs, found {width}")
    random = np.random.default_rng(0)
    sample = random.uniform(-10, 10, (2, 16, width)).astype(np.float32)
    sample[..., width // 2 :] /= 10
    (found,) = Subgraph([end], [value]).run({value: sample})
    activated, factor = np.split(sample, 2, axis=-1)
    for name, function in ACTIVATIONS.items():
        expected = function(activated) * factor
        if found.shape == expected.shape and np.abs(found - expected).max() < _SAME:
            return name
    raise NoMatchError(f"the nodes between its two products are no activation and no gate: {describe_behind(value)}")


def describe_behind(value: ir.Value) -> str:
    """The elementwise nodes after a value, for a message: ``Sigmoid, Mul``, or ``none``."""
    return ", ".join(end.producer().op_type for end in _elementwise_followers(value)) or "none"  # type: ignore[union-attr]


def _elementwise_followers(value: ir.Value) -> list[ir.Value]:
    """Values computed only from this value and from scalars, in topological order."""
    found: dict[ir.Value, None] = {value: None}
    waiting = [use.node for use in value.uses()]
    while waiting:
        node = waiting.pop(0)
        if node.op_type not in _ELEMENTWISE or node.domain != "" or node.outputs[0] in found:
            continue
        if all(source in found or _is_number(source) for source in node.inputs):
            found[node.outputs[0]] = None
            waiting.extend(use.node for use in node.outputs[0].uses())
    return list(found)[1:]


def _is_number(value: ir.Value | None) -> bool:
    tensor = constant(value)
    return tensor is not None and tensor.size == 1


def _name_of(start: ir.Value, end: ir.Value) -> str | None:
    sample = _SAMPLE.reshape(1, -1, 1)
    try:
        (found,) = Subgraph([end], [start]).run({start: sample})
    except NoMatchError:
        return None
    if found.shape != sample.shape:
        return None
    near = (name for name, function in ACTIVATIONS.items() if np.abs(function(sample) - found).max() < _SAME)
    return next((name for name in near if name != NONE), None)
