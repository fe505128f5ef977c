# SPDX-License-Identifier: Apache-2.0
"""Pass: append the pooling of sentence-transformers to an encoder with token vectors as output."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from sparse_deploy.graph.initializers import add_initializer

# Exporters' names of the token vectors.
TOKEN_VECTORS = ("last_hidden_state", "token_embeddings")
SENTENCE_VECTOR = "sentence_embedding"


class AppendPooling(ir.passes.InPlacePass):
    """Replace the outputs of a model by ``sentence_embedding``, ``[batch, width]``, computed from its token vectors.

    Args:
        first_token: use the vector of the first token; else the mean over all tokens without padding.
        normalize: scale vectors to length 1.
    """

    def __init__(self, *, first_token: bool, normalize: bool) -> None:
        super().__init__()
        self._first_token, self._normalize = first_token, normalize

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Append the pooling, unless the model already has the output or has no token vectors."""
        graph = model.graph
        outputs = {str(value.name): value for value in graph.outputs}
        hidden = next((outputs[name] for name in TOKEN_VECTORS if name in outputs), None)
        mask = next((value for value in graph.inputs if value.name == "attention_mask"), None)
        if SENTENCE_VECTOR in outputs or hidden is None or (mask is None and not self._first_token):
            return ir.passes.PassResult(model, modified=False)
        build = _Builder(graph)
        if self._first_token or mask is None:
            pooled = build.add("Gather", [hidden, build.constant("first", np.int64(0))], axis=1)
        else:
            kept = build.add("Unsqueeze", [mask, build.constant("last_axis", np.array([2]))])
            kept = build.add("Cast", [kept], to=int(ir.DataType.FLOAT))
            tokens = build.constant("tokens_axis", np.array([1]))
            total = build.add("ReduceSum", [build.add("Mul", [hidden, kept]), tokens], keepdims=0)
            count = build.add("ReduceSum", [kept, tokens], keepdims=0)
            pooled = build.add("Div", [total, build.add("Max", [count, build.constant("least", np.float32(1e-9))])])
        if self._normalize:
            squares = build.add("Mul", [pooled, pooled])
            length = build.add("Sqrt", [build.add("ReduceSum", [squares, build.constant("width", np.array([1]))])])
            pooled = build.add("Div", [pooled, build.add("Max", [length, build.constant("some", np.float32(1e-12))])])
        pooled.name, pooled.type = SENTENCE_VECTOR, ir.TensorType(ir.DataType.FLOAT)
        batch, width = (None, None) if hidden.shape is None else (hidden.shape[0], hidden.shape[2])
        pooled.shape = ir.Shape([batch, width])
        del graph.outputs[:]
        graph.outputs.append(pooled)
        return ir.passes.PassResult(model, modified=True)


class _Builder:
    """Appends nodes to a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def add(self, op_type: str, inputs: Sequence[ir.Value], **attributes: int) -> ir.Value:
        """Append a node; return its output."""
        node = ir.node(op_type, inputs, attributes, name=f"pooling/{op_type}_{len(self._graph)}")
        node.outputs[0].name = f"{node.name}_output"
        self._graph.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: ArrayLike) -> ir.Value:
        """Add an initializer."""
        return add_initializer(self._graph, f"pooling.{name}", array)
