# SPDX-License-Identifier: Apache-2.0
"""Shared functions of the matchers of subgraphs: reasons of refusals, traversal of edges, running of a subgraph.

A matcher finds the inputs and outputs of a subgraph by its edges and then runs the subgraph on numbers. A subgraph is a
match if its results equal those of the operator that replaces it, for any exporter's form.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from sparse_deploy.errors import one_line
from sparse_deploy.graph.weights import constant

Array = NDArray[Any]
# One attention has 20 to 40 nodes with its shape arithmetic and its mask.
_MOST_NODES = 200


class NoMatchError(Exception):
    """A subgraph does not match its operator; the text is the reason."""


@dataclass(frozen=True)
class Refusal:
    """A part of the graph that was not replaced.

    Attributes:
        name: name of the parameter or node.
        reason: reason why it was not replaced.
    """

    name: str
    reason: str


def only_user(value: ir.Value) -> ir.Node | None:
    """The only reader of a value; None if there are several or none, or if the value is a graph output."""
    users = list(dict.fromkeys(use.node for use in value.uses()))
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other input of a node with two inputs; None if the value is both or neither."""
    if len(node.inputs) != 2 or value not in node.inputs or node.inputs[0] is node.inputs[1]:
        return None
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def ancestors(values: Iterable[ir.Value], stop: Collection[ir.Value] = ()) -> tuple[list[ir.Node], set[ir.Value]]:
    """All nodes on which values depend, in topological order, and the values that these nodes read from outside.

    Args:
        values: values at which the walk starts.
        stop: values at which the walk stops.

    Returns:
        Nodes; graph inputs, constants and values of ``stop`` that the nodes (or ``values``) read.
    """
    nodes: dict[ir.Node, None] = {}
    leaves: set[ir.Value] = set()
    stack: list[tuple[ir.Value, bool]] = [(value, False) for value in values]
    seen: set[ir.Value] = set()
    while stack:
        value, finished = stack.pop()
        node = value.producer()
        if finished and node is not None:
            nodes.setdefault(node)
            continue
        if value in seen:
            continue
        seen.add(value)
        if node is None or value in stop:
            leaves.add(value)
            continue
        stack.append((value, True))
        stack.extend((source, False) for source in node.inputs if source is not None)
    return list(nodes), leaves


def escaping_user(sources: Sequence[ir.Value], end: ir.Value) -> str | None:
    """A reader of a value between ``sources`` and ``end`` that does not lead to ``end``, or None.

    Such a reader needs a value that no longer exists after the replacement.
    """
    inside, _ = ancestors([end], stop=sources)
    stack, seen = list(sources), set(sources)
    while stack:
        value = stack.pop()
        if value is end:
            continue
        if value.is_graph_output():
            return f"the graph output {value.name}"
        for use in value.uses():
            if use.node not in inside:
                return f"{use.node.op_type} {use.node.name}"
            fresh = [output for output in use.node.outputs if output not in seen]
            seen.update(fresh)
            stack.extend(fresh)
    return None


class Subgraph:
    """The nodes between some values of a graph, which can be run on numbers.

    Args:
        outputs: values to compute.
        inputs: given values.

    Raises:
        NoMatchError: there are too many nodes, or they depend on other computed values.
    """

    def __init__(self, outputs: Sequence[ir.Value], inputs: Sequence[ir.Value]) -> None:
        nodes, leaves = ancestors(outputs, stop=inputs)
        unknown = [value for value in leaves if value not in inputs and constant(value) is None]
        if unknown:
            raise NoMatchError(f"it also depends on {', '.join(sorted(str(value.name) for value in unknown))}")
        if len(nodes) > _MOST_NODES:
            raise NoMatchError(f"it spans {len(nodes)} nodes, expected at most {_MOST_NODES}")
        constants = [value for value in leaves if value not in inputs]
        self._inputs = [value for value in inputs if value in leaves]
        graph = onnx.helper.make_graph(
            [ir.to_proto(node) for node in nodes],
            "subgraph",
            [onnx.helper.make_value_info(str(value.name), onnx.TypeProto()) for value in self._inputs],
            [onnx.helper.make_value_info(str(value.name), onnx.TypeProto()) for value in outputs],
            [onnx.numpy_helper.from_array(_array(value), value.name) for value in constants],
        )
        opsets = nodes[0].graph.opset_imports if nodes and nodes[0].graph is not None else {"": 20}
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        try:
            self._evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
        except Exception as error:  # onnx raises its own classes, NotImplementedError and KeyError
            raise NoMatchError(f"its nodes can't be checked ({one_line(error)})") from error

    def run(self, given: Mapping[ir.Value, Array]) -> list[Array]:
        """Compute the outputs.

        Raises:
            NoMatchError: the nodes fail on these numbers (a static shape, another type).
        """
        arrays = {str(value.name): given[value] for value in self._inputs}
        try:
            with np.errstate(all="ignore"):
                return [np.asarray(array) for array in self._evaluator.run(None, arrays)]
        except Exception as error:  # errors of numpy and onnx of any class
            raise NoMatchError(f"its nodes don't take arrays of another size ({one_line(error)})") from error


def _array(value: ir.Value) -> Array:
    tensor = constant(value)
    assert tensor is not None  # noqa: S101 - a leaf without a given value is constant
    return tensor.numpy()
