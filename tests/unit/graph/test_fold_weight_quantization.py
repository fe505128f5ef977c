# SPDX-License-Identifier: Apache-2.0
"""Folding of quantized weights, on graphs made by hand."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from sparse_deploy.errors import QuantizationError, SparsityLostError
from sparse_deploy.graph.fold_weight_quantization import FoldWeightQuantization
from sparse_deploy.graph.sparsity_check import run_passes

NAME = "bert.encoder.layer.0.output.dense.weight"
OUT, IN = 6, 4


def sparse_weight():
    weight = np.random.default_rng(1).normal(size=(OUT, IN)).astype(np.float32)
    weight[::2, 1] = 0.0
    weight[3] = 0.0
    return weight


def graph_of(
    weight, zero_point=0, dtype=np.int8, clip=(-128, 127), tail="transpose", per_channel=True, other_scale=None
):
    """x @ W.T behind QuantizeLinear -> Clip -> DequantizeLinear, as torch's exporter writes it."""
    channels = np.abs(weight).max(axis=1) / np.float32(127.5) + np.float32(1e-6)
    scale = channels if per_channel else channels.max()
    attributes = {"axis": 0} if per_channel else {}
    nodes = [
        helper.make_node("QuantizeLinear", [NAME, "scale", "zero"], ["q"], **attributes),
        helper.make_node("Clip", ["q", "low", "high"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "scale2" if other_scale else "scale", "zero"], ["d"], **attributes),
    ]
    if tail == "gemm":
        nodes.append(helper.make_node("Gemm", ["x", "d"], ["y"], transB=1))
    else:
        nodes += [
            helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["y"]),
        ]
    if tail == "shared":
        nodes.append(helper.make_node("Identity", [NAME], ["weight_too"]))
    constants = {
        NAME: weight,
        "scale": np.asarray(scale, np.float32),
        "zero": np.full(np.shape(scale), zero_point, dtype),
        "low": np.asarray(clip[0], dtype),
        "high": np.asarray(clip[1], dtype),
    }
    if other_scale:
        constants["scale2"] = np.asarray(scale * np.float32(other_scale), np.float32)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", OUT])]
    if tail == "shared":
        outputs.append(helper.make_tensor_value_info("weight_too", TensorProto.FLOAT, [OUT, IN]))
    graph = helper.make_graph(
        nodes,
        "hand_made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", IN])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    return model


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).normal(size=(5, IN)).astype(np.float32)
    return session.run(None, {"x": x})


def fold(model):
    folded = run_passes(ir.from_proto(model), FoldWeightQuantization())
    return folded, ir.to_proto(folded)


@pytest.mark.parametrize("tail", ["transpose", "gemm", "shared"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_same_numbers_from_stored_int8(tail, per_channel):
    original = graph_of(sparse_weight(), tail=tail, per_channel=per_channel)
    folded, proto = fold(original)
    checker.check_model(proto, full_check=True)
    for found, expected in zip(run(proto), run(original), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    stored = folded.graph.initializers[f"{NAME}_quantized" if tail == "shared" else NAME]
    assert stored.dtype == ir.DataType.INT8
    operators = [node.op_type for node in folded.graph]
    assert "QuantizeLinear" not in operators
    assert "Clip" not in operators


def test_transpose_is_folded_into_the_weight():
    folded, _ = fold(graph_of(sparse_weight()))
    assert [node.op_type for node in folded.graph] == ["DequantizeLinear", "MatMul"]
    assert folded.graph.node(0).attributes.get_int("axis") == 1
    stored = folded.graph.initializers[NAME].const_value.numpy()
    assert stored.shape == (IN, OUT)
    assert np.array_equal(stored.T == 0, sparse_weight() == 0)


def test_gemm_keeps_the_orientation_of_linear():
    folded, _ = fold(graph_of(sparse_weight(), tail="gemm"))
    assert folded.graph.initializers[NAME].const_value.numpy().shape == (OUT, IN)
    assert folded.graph.node(0).attributes.get_int("axis") == 0


def test_only_what_is_used_is_left():
    folded, _ = fold(graph_of(sparse_weight()))
    assert set(folded.graph.initializers) == {NAME, "scale", "zero"}


def test_weight_that_is_read_elsewhere_keeps_its_fp32_copy():
    folded, _ = fold(graph_of(sparse_weight(), tail="shared"))
    assert folded.graph.initializers[NAME].dtype == ir.DataType.FLOAT


def test_narrow_range_of_the_clip_is_kept():
    folded, _ = fold(graph_of(sparse_weight(), clip=(-100, 90)))
    stored = folded.graph.initializers[NAME].const_value.numpy()
    assert (stored.min(), stored.max()) == (-100, 90)


def test_nonzero_zero_point_is_refused():
    with pytest.raises(QuantizationError, match=r"zero point 0, found int8 with zero point 3"):
        fold(graph_of(sparse_weight(), zero_point=3))


def test_unsigned_weight_is_refused():
    with pytest.raises(QuantizationError, match=r"expected int8 weights .* found uint8"):
        fold(graph_of(np.abs(sparse_weight()), dtype=np.uint8, clip=(0, 255)))


def test_lost_zeros_are_refused():
    with pytest.raises(SparsityLostError) as caught:
        fold(graph_of(sparse_weight(), clip=(1, 127)))
    assert caught.value.tensor == NAME
    assert caught.value.before == int((sparse_weight() == 0).sum())
    assert caught.value.after == 0


def test_two_scales_are_refused():
    with pytest.raises(QuantizationError, match="expected one scale"):
        fold(graph_of(sparse_weight(), other_scale=1.5))


def test_activations_are_not_touched():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    shape = ["n", 4]
    graph = helper.make_graph(
        nodes,
        "activation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(7), "z")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    assert not FoldWeightQuantization()(model).modified
    assert len(model.graph) == 2
