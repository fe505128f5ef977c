# SPDX-License-Identifier: Apache-2.0
"""Activations are recognized by their results, in any form of nodes."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparse_deploy.graph.activations import activation_behind, describe_behind

ERF = [
    ("Div", ["x", "sqrt2"], "a"), ("Erf", ["a"], "b"), ("Add", ["b", "one"], "c"), ("Mul", ["x", "c"], "d"),
    ("Mul", ["d", "half"], "y"),
]  # fmt: skip
TANH = [
    ("Pow", ["x", "three"], "a"), ("Mul", ["cubic", "a"], "b"), ("Add", ["x", "b"], "c"),
    ("Mul", ["c", "sqrt2overpi"], "d"), ("Tanh", ["d"], "e"), ("Add", ["one", "e"], "f"), ("Mul", ["x", "half"], "g"),
    ("Mul", ["g", "f"], "y"),
]  # fmt: skip
NUMBERS = {
    "sqrt2": np.sqrt(2), "one": 1, "half": 0.5, "three": 3, "cubic": 0.044715, "sqrt2overpi": np.sqrt(2 / np.pi),
    "two": 2,
}  # fmt: skip


def graph(steps, outputs=("y",), **attributes):
    """The steps behind an Identity, whose output is looked at."""
    nodes = [helper.make_node("Identity", ["input"], ["x"])]
    for kind, sources, target in steps:
        nodes.append(helper.make_node(kind, sources, [target], **(attributes if kind == "Gelu" else {})))
    proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.float32(number), name) for name, number in NUMBERS.items()],
    )
    model = ir.from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    return model.graph[0].outputs[0]


@pytest.mark.parametrize(
    ("steps", "attributes", "name"),
    [
        (ERF, {}, "gelu"),
        (TANH, {}, "gelu_tanh"),
        ([("Gelu", ["x"], "y")], {}, "gelu"),
        ([("Gelu", ["x"], "y")], {"approximate": "tanh"}, "gelu_tanh"),
        ([("Relu", ["x"], "y")], {}, "relu"),
        ([("Tanh", ["x"], "y")], {}, "tanh"),
        ([("Relu", ["x"], "y"), ("MatMul", ["y", "y"], "z")], {}, "relu"),
        ([("Relu", ["x"], "y"), ("Mul", ["y", "half"], "z")], {}, "relu"),  # the activation, not what follows it
    ],
)
def test_an_activation_is_known(steps, attributes, name):
    found, end = activation_behind(graph(steps, (steps[-1][2],), **attributes))
    assert (found, end.name) == (name, "y")


@pytest.mark.parametrize(
    "steps",
    [
        [("Sigmoid", ["x"], "a"), ("Mul", ["x", "a"], "y")],
        [("Mul", ["x", "half"], "y")],
        [(kind, ["two" if name == "sqrt2" else name for name in sources], end) for kind, sources, end in ERF],
        [("Sub", ["x", "two"], "a"), ("Relu", ["a"], "y")],
        [("Erf", ["x"], "y")],
    ],
    ids=["silu", "scale", "GELU with another constant", "shifted", "erf"],
)
def test_another_function_is_none(steps):
    value = graph(steps)
    assert activation_behind(value) == ("none", value)


def test_a_value_that_is_needed_elsewhere_is_not_swallowed():
    value = graph([("Relu", ["x"], "y"), ("Add", ["x", "y"], "z")], ("z",))
    assert activation_behind(value) == ("none", value)
    value = graph(ERF, ("y", "c"))
    assert activation_behind(value) == ("none", value)
    value = graph([("Relu", ["x"], "y")], ("x", "y"))
    assert activation_behind(value) == ("none", value)


def test_what_follows_is_described():
    assert describe_behind(graph([("Sigmoid", ["x"], "a"), ("Mul", ["x", "a"], "y")])) == "Sigmoid, Mul"
    assert describe_behind(graph([("MatMul", ["x", "x"], "y")])) == "none"
