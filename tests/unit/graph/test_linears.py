# SPDX-License-Identifier: Apache-2.0
"""Linear layers are found in FP32 and QDQ graphs; refusals have a reason."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparse_deploy.graph.linears import StaticScale, find_linears

OUT, IN = 3, 4
WEIGHT = np.arange(OUT * IN, dtype=np.float32).reshape(OUT, IN) - 5
QDQ = {
    "x_scale": np.float32(0.1), "x_zero": np.uint8(7), "scale": np.array([0.1, 0.2, 0.3], np.float32),
    "zero": np.zeros(OUT, np.int8), "weight": WEIGHT.astype(np.int8), "bias": np.ones(OUT, np.float32),
}  # fmt: skip
QDQ_NODES = [
    ("QuantizeLinear", ["x", "x_scale", "x_zero"], "q", {}),
    ("DequantizeLinear", ["q", "x_scale", "x_zero"], "d", {}),
    ("DequantizeLinear", ["weight", "scale", "zero"], "w", {"axis": 0}),
    ("Gemm", ["d", "w", "bias"], "y", {"transB": 1}),
]


def find(nodes, initializers, dims=("batch",)):
    proto = helper.make_graph(
        [helper.make_node(kind, sources, [end], **attributes) for kind, sources, end, attributes in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*dims, IN])],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()],
    )
    model = ir.from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    return find_linears(model)


def only(nodes, initializers):
    (linear,), refused = find(nodes, initializers)
    assert refused == {}
    np.testing.assert_array_equal(linear.out_in(), WEIGHT)
    assert (linear.name, linear.shape) == ("weight", (OUT, IN))
    return linear


def test_matmul_with_its_bias():
    nodes = [("MatMul", ["x", "weight"], "p", {}), ("Add", ["bias", "p"], "y", {})]
    linear = only(nodes, {"weight": WEIGHT.T.copy(), "bias": np.ones(OUT, np.float32)})
    assert (linear.x.name, linear.output.name, linear.bias.name) == ("x", "y", "bias")
    assert (linear.static, linear.smoothing) == (None, None)


def test_an_add_of_something_else_is_no_bias():
    nodes = [("MatMul", ["x", "weight"], "p", {}), ("Add", ["p", "table"], "y", {})]
    linear = only(nodes, {"weight": WEIGHT.T.copy(), "table": np.ones((2, OUT), np.float32)})
    assert (linear.output.name, linear.bias) == ("p", None)


def test_gemm():
    linear = only([("Gemm", ["x", "weight", "bias"], "y", {"transB": 1})], {"weight": WEIGHT, "bias": QDQ["bias"]})
    assert (linear.output.name, linear.bias.name) == ("y", "bias")


def test_qdq_gives_the_input_in_front_of_it_and_its_scale():
    linear = only(QDQ_NODES, QDQ)
    assert linear.x.name == "x"
    assert linear.static == StaticScale(pytest.approx(0.1), 7)
    np.testing.assert_allclose(linear.weight.scale.ravel(), [0.1, 0.2, 0.3], rtol=1e-6)


def test_smoothing_is_taken_off_the_input():
    nodes = [("Mul", ["factor", "x"], "m", {}), ("QuantizeLinear", ["m", "x_scale", "x_zero"], "q", {}), *QDQ_NODES[1:]]
    factor = np.array([1, 2, 3, 4], np.float32)
    linear = only(nodes, QDQ | {"factor": factor})
    assert linear.x.name == "x"
    np.testing.assert_array_equal(linear.smoothing, factor)


@pytest.mark.parametrize(
    ("nodes", "changes", "reason"),
    [
        (QDQ_NODES, {"zero": np.array([0, 1, 0], np.int8)}, "zero point is not 0"),
        (QDQ_NODES, {"weight": WEIGHT.astype(np.int8).view(np.uint8), "zero": np.zeros(OUT, np.uint8)}, "uint8"),
        (QDQ_NODES, {"x_zero": np.int8(7)}, "quantized to INT8, expected UINT8"),
        (QDQ_NODES[1:], {"q": np.ones((2, IN), np.uint8)}, "but was not quantized"),
        (
            [QDQ_NODES[0], ("DequantizeLinear", ["q", "other", "x_zero"], "d", {}), *QDQ_NODES[2:]],
            {"other": np.float32(0.2)},
            "two scales",
        ),
        ([*QDQ_NODES[:3], ("Gemm", ["d", "w", "bias"], "y", {"transB": 1, "alpha": 0.5})], {}, "alpha 0.5"),
        ([*QDQ_NODES[:3], ("Gemm", ["d", "w", "b2"], "y", {"transB": 1})], {"b2": np.ones((2, OUT), np.float32)},
         "not a bias"),
        ([("Gemm", ["x", "weight"], "y", {"transB": 1})], {"weight": np.full((OUT, IN), np.nan, np.float32)}, "NaN"),
        ([("Gemm", ["x", "weight"], "y", {"transB": 1})], {"weight": WEIGHT.astype(np.float16)}, "float16"),
        ([("Transpose", ["x"], "t", {}), ("MatMul", ["weight", "t"], "y", {})], {"weight": WEIGHT}, "left operand"),
    ],
)  # fmt: skip
def test_what_is_no_linear_layer_says_why(nodes, changes, reason):
    used = {name for _, sources, _, _ in nodes for name in sources}
    found, refused = find(nodes, {name: array for name, array in (QDQ | changes).items() if name in used})
    assert found == []
    assert list(refused) == ["weight"]
    assert reason in refused["weight"]


def test_a_product_of_two_computed_values_is_left_out():
    found, refused = find([("Transpose", ["x"], "t", {}), ("MatMul", ["x", "t"], "y", {})], {})
    assert (found, refused) == ([], {})
