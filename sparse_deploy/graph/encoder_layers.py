# SPDX-License-Identifier: Apache-2.0
"""Post-LayerNorm encoder layers in a graph, found from their attention outwards."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparse_deploy.graph.activations import NONE, activation_behind, describe_behind
from sparse_deploy.graph.attention import Attention, match_attention
from sparse_deploy.graph.linears import Linear
from sparse_deploy.graph.matching import NoMatchError, escaping_user, only_user, other_operand
from sparse_deploy.graph.weights import constant

# What the operator computes between its two FFN products.
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu")
# Values between the attention weights and the output layer: a guard against NaN, product with v, Transpose, Reshape.
_MOST_STEPS = 16


@dataclass(frozen=True)
class LayerNorm:
    """A LayerNormalization over the last axis."""

    gamma: ir.Value
    beta: ir.Value
    epsilon: float
    output: ir.Value


@dataclass(frozen=True)
class EncoderLayer:
    """A match: all that SparseEncoderLayer needs.

    Attributes:
        x: input ``[batch, sequence, hidden]``.
        output: output of the second LayerNorm.
    """

    x: ir.Value
    attention: Attention
    attention_output: Linear
    intermediate: Linear
    activation: str
    output_linear: Linear
    attention_norm: LayerNorm
    output_norm: LayerNorm

    @property
    def output(self) -> ir.Value:
        """Output of the layer."""
        return self.output_norm.output

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its six products in the operator's order."""
        attention = self.attention
        return (
            attention.query,
            attention.key,
            attention.value,
            self.attention_output,
            self.intermediate,
            self.output_linear,
        )


class EncoderLayerMatcher:
    """Finds the layer around an attention.

    Args:
        linears: all linear layers of the graph.
        graph_inputs: inputs of the model.
    """

    def __init__(self, linears: Sequence[Linear], graph_inputs: Sequence[ir.Value]) -> None:
        self._inputs = graph_inputs
        self._readers: dict[ir.Value, list[Linear]] = {}
        for linear in linears:
            self._readers.setdefault(linear.x, []).append(linear)

    def match(self, anchor: ir.Node) -> EncoderLayer:
        """Match the layer that a Softmax or Attention node belongs to.

        Raises:
            NoMatchError: with the reason, for people.
        """
        attention_output = self._only_reader(self._context(anchor), "the attention")
        attention_norm, x = _residual_norm(attention_output.output, "the attention's output layer")
        attention = match_attention(
            anchor, attention_output.x, x, self._readers.get(x, []), self._inputs
        )  # fmt: skip
        hidden = attention_norm.output
        intermediate = self._only_reader(hidden, "the attention's LayerNorm")
        activation, inner = activation_behind(intermediate.output)
        if activation not in _ACTIVATIONS:
            name = describe_behind(intermediate.output) if activation == NONE else activation
            raise NoMatchError(f"the activation of the feed-forward block is {name}, expected GELU or ReLU")
        output_linear = self._only_reader(inner, "the feed-forward block's activation")
        output_norm, residual = _residual_norm(output_linear.output, "the feed-forward block")
        layer = EncoderLayer(
            x, attention, attention_output, intermediate, activation, output_linear, attention_norm, output_norm
        )
        _check(layer, residual)
        return layer

    def _context(self, anchor: ir.Node) -> ir.Value:
        """The value that the attention's output layer reads: the first one behind the anchor that a layer reads."""
        waiting = [anchor.outputs[0]]
        for value in waiting:
            if value in self._readers:
                return value
            if len(waiting) < _MOST_STEPS:
                waiting += [output for use in value.uses() for output in use.node.outputs if output not in waiting]
        raise NoMatchError(f"no linear layer was found behind {anchor.op_type}")

    def _only_reader(self, value: ir.Value, what: str) -> Linear:
        readers = self._readers.get(value, [])
        if len(readers) != 1:
            raise NoMatchError(f"expected one linear layer behind {what}, found {len(readers)}")
        return readers[0]


def _residual_norm(value: ir.Value, what: str) -> tuple[LayerNorm, ir.Value]:
    """The LayerNorm of ``value + residual``, and the residual."""
    add = only_user(value)
    residual = other_operand(add, value) if add is not None and add.op_type == "Add" else None
    if add is None or residual is None:
        raise NoMatchError(f"expected a residual Add behind {what}, found {_users(value)}")
    norm = only_user(add.outputs[0])
    if norm is None or norm.op_type != "LayerNormalization" or norm.inputs[0] is not add.outputs[0]:
        raise NoMatchError(f"expected LayerNormalization behind the residual Add, found {_users(add.outputs[0])}")
    if len(norm.inputs) < 3 or norm.inputs[1] is None or norm.inputs[2] is None:
        raise NoMatchError("expected a LayerNormalization with weight and bias")
    if norm.attributes.get_int("axis", -1) not in (-1, 2):
        raise NoMatchError("expected LayerNormalization over the last axis")
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    return LayerNorm(norm.inputs[1], norm.inputs[2], epsilon, norm.outputs[0]), residual


def _check(layer: EncoderLayer, residual: ir.Value) -> None:
    """What the edges alone don't say.

    Raises:
        NoMatchError: with the reason.
    """
    norms = (layer.attention_norm, layer.output_norm)
    hidden = layer.attention.query.shape[1]
    intermediate = layer.intermediate.shape[0]
    if residual is not layer.attention_norm.output:
        raise NoMatchError("the feed-forward block's residual is not the attention's LayerNorm")
    for value in (norm_value for norm in norms for norm_value in (norm.gamma, norm.beta)):
        tensor = constant(value)
        if tensor is None or tuple(tensor.shape) != (hidden,):
            raise NoMatchError(f"{value.name} is no stored vector of {hidden}")
    expected = [(hidden, hidden)] * 4 + [(intermediate, hidden), (hidden, intermediate)]
    found = [linear.shape for linear in layer.linears]
    if found != expected:
        raise NoMatchError(f"its weights have shapes {found}, expected {expected}")
    reader = escaping_user([linear.output for linear in layer.linears[:3]], layer.output)
    if reader is not None:
        raise NoMatchError(f"{reader} reads a value from inside it")


def _users(value: ir.Value) -> str:
    users = [use.node.op_type for use in value.uses()]
    return ", ".join(users) + (" and a graph output" if value.is_graph_output() else "") or "nothing"
