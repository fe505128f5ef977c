# SPDX-License-Identifier: Apache-2.0
"""Matching of encoder layers in a graph, starting at their attention.

LayerNorm is after each residual (BERT), or before attention and before the feed-forward block (ModernBERT).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparse_deploy.graph.activations import NONE, activation_behind, describe_behind, gated_activation
from sparse_deploy.graph.attention import Attention, match_attention
from sparse_deploy.graph.linears import Linear
from sparse_deploy.graph.matching import NoMatchError, escaping_user, only_user, other_operand
from sparse_deploy.graph.weights import constant

# Activations of the operator between its two FFN products.
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu")
# Values between the attention weights and the output layer: a guard against NaN, product with v, Transpose, Reshape.
_MOST_STEPS = 16


@dataclass(frozen=True)
class LayerNorm:
    """A LayerNormalization over the last axis; its beta may be missing."""

    gamma: ir.Value
    beta: ir.Value | None
    epsilon: float
    output: ir.Value


@dataclass(frozen=True)
class EncoderLayer:
    """A match: the inputs and constants of a SparseEncoderLayer.

    Attributes:
        x: input ``[batch, sequence, hidden]``.
        output: input of the next layer.
        attention_norm: the LayerNorm of attention; None in a pre-LayerNorm layer without it.
        gated: whether the intermediate layer's activated first half is multiplied by its second half.
        norm_first: whether the layer is pre-LayerNorm.
    """

    x: ir.Value
    attention: Attention
    attention_output: Linear
    intermediate: Linear
    activation: str
    output_linear: Linear
    attention_norm: LayerNorm | None
    output_norm: LayerNorm
    output: ir.Value
    gated: bool = False
    norm_first: bool = False

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The six products in the operator's order."""
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
        """Match the layer of a Softmax or Attention node.

        Raises:
            NoMatchError: the layer does not match; with the reason.
        """
        context = self._read_behind(anchor.outputs[0], anchor.op_type)
        attention_output = self._only_reader(context, "the attention")
        total, x = _residual(attention_output.output, "the attention's output layer")
        norm = _norms_behind(total)
        in_front = len(norm) == 1 and len({use.node for use in total.uses()}) > 1
        if not in_front:
            attention_norm: LayerNorm | None = _norm_of(total)
            attention = match_attention(anchor, context, x, self._readers.get(x, []), self._inputs)
            hidden = fed = attention_norm.output if attention_norm else total
        else:
            attention_norm, attention = self._attention_behind_norm(anchor, context, x)
            hidden, fed = total, _layer_norm(norm[0]).output
        intermediate = self._only_reader(fed, "the attention's LayerNorm")
        activation, inner, gated = self._activation(intermediate)
        output_linear = self._only_reader(inner, "the feed-forward block's activation")
        output, residual = _residual(output_linear.output, "the feed-forward block")
        if residual is not hidden:
            whose = "sum after attention" if in_front else "attention's LayerNorm"
            raise NoMatchError(f"the feed-forward block's residual is not the {whose}")
        output_norm = _layer_norm(norm[0]) if in_front else _norm_of(output)
        layer = EncoderLayer(
            x, attention, attention_output, intermediate, activation, output_linear, attention_norm, output_norm,
            output if in_front else output_norm.output, gated, in_front,
        )  # fmt: skip
        _check(layer)
        return layer

    def _attention_behind_norm(
        self, anchor: ir.Node, context: ir.Value, x: ir.Value
    ) -> tuple[LayerNorm | None, Attention]:
        """Attention on the LayerNorm of a layer's input, or on the input itself."""
        norms = [_layer_norm(node) for node in _norms_behind(x)]
        for norm in (*norms, None):
            inside = x if norm is None else norm.output
            if inside in self._readers:
                return norm, match_attention(anchor, context, inside, self._readers[inside], self._inputs)
        raise NoMatchError("no linear layer reads the layer's input or its LayerNorm")

    def _activation(self, intermediate: Linear) -> tuple[str, ir.Value, bool]:
        """Name of the activation, the value after it, and whether it is gated."""
        activation, inner = activation_behind(intermediate.output)
        if activation in _ACTIVATIONS:
            return activation, inner, False
        found = describe_behind(intermediate.output) if activation == NONE else activation
        if activation == NONE and intermediate.output not in self._readers:
            try:
                inner = self._read_behind(intermediate.output, "the intermediate layer")
                gated = gated_activation(intermediate.output, intermediate.shape[0], inner)
            except NoMatchError:
                gated = NONE
            if gated in _ACTIVATIONS:
                return gated, inner, True
        raise NoMatchError(f"the activation of the feed-forward block is {found}, expected GELU or ReLU")

    def _read_behind(self, value: ir.Value, what: str) -> ir.Value:
        """The first value after this one that a linear layer reads."""
        waiting = [value]
        for one in waiting:
            if one in self._readers:
                return one
            if len(waiting) < _MOST_STEPS:
                waiting += [output for use in one.uses() for output in use.node.outputs if output not in waiting]
        raise NoMatchError(f"no linear layer was found after {what}")

    def _only_reader(self, value: ir.Value, what: str) -> Linear:
        readers = self._readers.get(value, [])
        if len(readers) != 1:
            raise NoMatchError(f"expected one linear layer after {what}, found {len(readers)}")
        return readers[0]


def _residual(value: ir.Value, what: str) -> tuple[ir.Value, ir.Value]:
    """``value + residual``, and the residual."""
    add = only_user(value)
    residual = other_operand(add, value) if add is not None and add.op_type == "Add" else None
    if add is None or residual is None:
        raise NoMatchError(f"expected a residual Add after {what}, found {_users(value)}")
    return add.outputs[0], residual


def _norms_behind(value: ir.Value) -> list[ir.Node]:
    users = dict.fromkeys(use.node for use in value.uses() if use.idx == 0)
    return [node for node in users if node.op_type == "LayerNormalization"]


def _norm_of(value: ir.Value) -> LayerNorm:
    """The LayerNorm that is the only reader of a value."""
    norm = only_user(value)
    if norm is None or norm.op_type != "LayerNormalization" or norm.inputs[0] is not value:
        raise NoMatchError(f"expected LayerNormalization after the residual Add, found {_users(value)}")
    return _layer_norm(norm)


def _layer_norm(norm: ir.Node) -> LayerNorm:
    gamma, beta = (*norm.inputs[1:], None, None)[:2]
    if gamma is None:
        raise NoMatchError("expected a LayerNormalization with a weight")
    if norm.attributes.get_int("axis", -1) not in (-1, 2):
        raise NoMatchError("expected LayerNormalization over the last axis")
    return LayerNorm(gamma, beta, norm.attributes.get_float("epsilon", 1e-5), norm.outputs[0])


def _check(layer: EncoderLayer) -> None:
    """Check shapes and readers.

    Raises:
        NoMatchError: with the reason.
    """
    norms = [norm for norm in (layer.attention_norm, layer.output_norm) if norm is not None]
    hidden = layer.attention.query.shape[1]
    outputs = layer.intermediate.shape[0]
    intermediate = outputs // 2 if layer.gated else outputs
    for value in (norm_value for norm in norms for norm_value in (norm.gamma, norm.beta) if norm_value is not None):
        tensor = constant(value)
        if tensor is None or tuple(tensor.shape) != (hidden,):
            raise NoMatchError(f"{value.name} is not a stored vector of {hidden}")
    query = (3 * hidden if layer.attention.packed else hidden, hidden)
    expected = [query] * 3 + [(hidden, hidden), (outputs, hidden), (hidden, intermediate)]
    found = [linear.shape for linear in layer.linears]
    if found != expected:
        raise NoMatchError(f"its weights have shapes {found}, expected {expected}")
    reader = escaping_user([linear.output for linear in layer.linears[:3]], layer.output)
    if reader is not None:
        raise NoMatchError(f"{reader} reads a value from inside it")


def _users(value: ir.Value) -> str:
    users = [use.node.op_type for use in value.uses()]
    return ", ".join(users) + (" and a graph output" if value.is_graph_output() else "") or "nothing"
