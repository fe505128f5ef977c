# SPDX-License-Identifier: Apache-2.0
"""Pass: an encoder layer computes only the tokens that the head reads.

A classifier's pooler reads token 0 of the last layer. Its keys and values need all tokens; query, attention, output,
LayerNorms and the feed-forward block only the tokens that are read. Every reader of the layer's output must be a Gather
or a Slice of the first tokens, directly or after nodes that work token by token.
"""

import onnx_ir as ir

from sparse_deploy.graph import operators
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass
from sparse_deploy.graph.weights import constant

_TOKEN_AXIS = 1
# Nodes whose output at a token depends on their first input at that token only.
_TOKEN_BY_TOKEN = ("LayerNormalization", "Identity", "Cast")
_RANK = 3  # [batch, sequence, hidden]


class TrimLastLayer(SparsityKeepingPass):
    """Set ``output_tokens`` of each SparseEncoderLayer whose readers use only its first tokens.

    Attributes:
        trimmed: number of computed tokens by name of the layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trimmed: dict[str, int] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Set the attributes in place."""
        for node in model.graph:
            if operators.is_encoder_layer(node) and "unpadded_output" not in node.attributes:
                tokens = _tokens_read(node.outputs[0])
                if tokens is not None and tokens != node.attributes.get_int("output_tokens", 0):
                    operators.set_version_2(model, node, output_tokens=tokens)
                    _shorten(node.outputs[0], tokens)
                    self.trimmed[str(node.name)] = tokens
        return ir.passes.PassResult(model, modified=bool(self.trimmed))


def _tokens_read(value: ir.Value) -> int | None:
    """Number of first tokens of a value that its readers use; None if a reader may use all."""
    if value.is_graph_output() or not value.uses():
        return None
    most = 0
    for use in value.uses():
        found = None
        if use.idx == 0:
            found = _tokens_of(use.node)
        if found is None:
            return None
        most = max(most, found)
    return most


def _tokens_of(reader: ir.Node) -> int | None:
    if reader.domain not in ("", "ai.onnx"):
        return None
    if reader.op_type in _TOKEN_BY_TOKEN:
        along_tokens = reader.op_type == "LayerNormalization" and not _over_last_axis(reader)
        return None if along_tokens or len(reader.outputs) != 1 else _tokens_read(reader.outputs[0])
    if reader.op_type == "Gather":
        indices = _numbers(reader, 1)
        if not indices or reader.attributes.get_int("axis", 0) not in (_TOKEN_AXIS, _TOKEN_AXIS - _RANK):
            return None
        return max(indices) + 1 if min(indices) >= 0 else None
    if reader.op_type == "Slice":
        return _end_of_slice(reader)
    return None


def _over_last_axis(norm: ir.Node) -> bool:
    return norm.attributes.get_int("axis", -1) in (-1, _RANK - 1)


def _end_of_slice(reader: ir.Node) -> int | None:
    """The end of a Slice of the first tokens; other axes are ignored."""
    starts, ends, axes = (_numbers(reader, place) for place in (1, 2, 3))
    steps = _numbers(reader, 4) if len(reader.inputs) > 4 and reader.inputs[4] is not None else [1] * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis in (_TOKEN_AXIS, _TOKEN_AXIS - _RANK):
            return end if 0 <= start < end < _NO_END and step > 0 else None
    return None


# Exporters write the largest integer for "to the end".
_NO_END = 2**31 - 1


def _numbers(node: ir.Node, place: int) -> list[int] | None:
    tensor = constant(node.inputs[place]) if len(node.inputs) > place else None
    return None if tensor is None else [int(number) for number in tensor.numpy().ravel()]


def _shorten(value: ir.Value, tokens: int) -> None:
    """Set the new shape of a value and of the values computed from it token by token."""
    if value.shape is not None and len(value.shape) == _RANK:
        value.shape = ir.Shape([value.shape[0], tokens if tokens == 1 else None, value.shape[2]])
    for use in value.uses():
        if use.node.op_type in _TOKEN_BY_TOKEN:
            _shorten(use.node.outputs[0], tokens)
