# SPDX-License-Identifier: Apache-2.0
"""The weight reader on every form in which a Linear layer's weight is stored."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparse_deploy.graph.weights import Orientation, parameter_count, read_weights, zero_masks

OUT, IN = 6, 4


def graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> ir.Model:
    proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", IN])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUT])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(proto, opset_imports=opsets))


def linear() -> np.ndarray:
    """``[out, in]`` FP32 without an accidental zero, and with required ones that no transposition maps to itself."""
    weight = np.arange(1, OUT * IN + 1, dtype=np.float32).reshape(OUT, IN)
    weight[0, 1] = weight[2, 3] = weight[5, 0] = 0
    weight[4, 2] = -0.0
    return weight


MASK = linear() == 0


def test_matmul_holds_its_weight_in_out() -> None:
    model = graph([helper.make_node("MatMul", ["x", "a.weight"], ["y"])], {"a.weight": linear().T.copy()})
    (weight,) = read_weights(model)
    assert weight.orientation is Orientation.IN_OUT
    np.testing.assert_array_equal(zero_masks(model)["a.weight"], MASK)


@pytest.mark.parametrize(("turned", "stored"), [(1, linear()), (0, linear().T.copy())])
def test_gemm_follows_trans_b(turned: int, stored: np.ndarray) -> None:
    model = graph([helper.make_node("Gemm", ["x", "a.weight"], ["y"], transB=turned)], {"a.weight": stored})
    np.testing.assert_array_equal(zero_masks(model)["a.weight"], MASK)


def test_transpose_between_weight_and_product_is_understood() -> None:
    nodes = [
        helper.make_node("Transpose", ["a.weight"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    model = graph(nodes, {"a.weight": linear()})
    assert read_weights(model)[0].orientation is Orientation.OUT_IN
    np.testing.assert_array_equal(zero_masks(model)["a.weight"], MASK)


def test_constant_node_is_a_weight_too() -> None:
    nodes = [
        helper.make_node("Constant", [], ["a.weight"], value=numpy_helper.from_array(linear().T.copy())),
        helper.make_node("MatMul", ["x", "a.weight"], ["y"]),
    ]
    np.testing.assert_array_equal(zero_masks(graph(nodes, {}))["a.weight"], MASK)


def dequantized(stored: np.ndarray, zero_point: np.ndarray, axis: int, *, transpose: bool) -> ir.Model:
    nodes = [
        helper.make_node("DequantizeLinear", ["a.weight_quantized", "s", "z"], ["d"], axis=axis),
        helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t" if transpose else "d"], ["y"]),
    ]
    nodes = nodes if transpose else [nodes[0], nodes[2]]
    scale = np.ones(zero_point.shape, np.float32)
    return graph(nodes, {"a.weight_quantized": stored, "s": scale, "z": zero_point})


def test_uint8_weight_is_zero_where_it_equals_128() -> None:
    stored = (linear() + 128).astype(np.uint8)
    stored[3, 3] = 0  # the byte 0 is the weight -128
    masks = zero_masks(dequantized(stored.T.copy(), np.uint8(128).reshape(()), 1, transpose=False))
    np.testing.assert_array_equal(masks["a.weight"], MASK)


@pytest.mark.parametrize("transpose", [False, True])
def test_zero_points_count_per_channel(transpose: bool) -> None:
    zero_point = np.arange(100, 100 + OUT).astype(np.uint8)
    stored = (linear() + zero_point[:, None]).astype(np.uint8)
    axis = 0 if transpose else 1
    model = dequantized(stored if transpose else stored.T.copy(), zero_point, axis, transpose=transpose)
    np.testing.assert_array_equal(zero_masks(model)["a.weight"], MASK)


def test_transpose_before_dequantize_turns_the_zero_points() -> None:
    zero_point = np.arange(100, 100 + OUT).astype(np.uint8)
    stored = (linear() + zero_point[:, None]).astype(np.uint8)
    nodes = [
        helper.make_node("Transpose", ["a.weight"], ["t"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["d"], axis=1),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    model = graph(nodes, {"a.weight": stored, "s": np.ones(OUT, np.float32), "z": zero_point})
    np.testing.assert_array_equal(zero_masks(model)["a.weight"], MASK)


@pytest.mark.parametrize(
    ("operator", "inputs", "domain"),
    [
        ("MatMulInteger", ["x", "a.weight_quantized", "", "z"], ""),
        ("QLinearMatMul", ["x", "s0", "z0", "a.weight_quantized", "s", "z", "s0", "z0"], ""),
        ("DynamicQuantizeMatMul", ["x", "a.weight_quantized", "s", "z"], "com.microsoft"),
        ("MatMulIntegerToFloat", ["x", "a.weight_quantized", "s0", "s", "z0", "z"], "com.microsoft"),
    ],
)
def test_integer_products_carry_their_own_zero_point(operator: str, inputs: list[str], domain: str) -> None:
    zero_point = np.arange(100, 100 + OUT).astype(np.uint8)
    constants = {
        "a.weight_quantized": (linear().T + zero_point).astype(np.uint8),
        "s": np.ones(OUT, np.float32),
        "z": zero_point,
        "s0": np.ones((), np.float32),
        "z0": np.zeros((), np.uint8),
    }
    model = graph([helper.make_node(operator, inputs, ["y"], domain=domain)], constants)
    np.testing.assert_array_equal(zero_masks(model)["a.weight"], MASK)


def test_shared_initializer_counts_once_and_embeddings_not_at_all() -> None:
    square = np.eye(IN, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
        helper.make_node("MatMul", ["h", "a.weight"], ["i"]),
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["embeddings.weight", "ids"], ["y"]),
    ]
    model = graph(nodes, {"a.weight": square, "embeddings.weight": np.zeros((9, IN), np.float32)})
    assert list(zero_masks(model)) == ["a.weight"]


def test_torchscript_names_come_from_the_node() -> None:
    node = helper.make_node("MatMul", ["x", "onnx::MatMul_77"], ["y"], name="/bert/layer.0/query/MatMul")
    model = graph([node], {"onnx::MatMul_77": linear().T.copy()})
    assert list(zero_masks(model)) == ["bert.layer.0.query.weight"]


def test_parameter_count_leaves_scales_out() -> None:
    zero_point = np.zeros(OUT, np.int8)
    model = dequantized(linear().T.astype(np.int8), zero_point, 1, transpose=False)
    assert parameter_count(model) == OUT * IN
