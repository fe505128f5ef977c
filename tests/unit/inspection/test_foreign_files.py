# SPDX-License-Identifier: Apache-2.0
"""Files of other tools: tensors are found by their products, and unreadable ones are listed."""

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from tiny_graphs import exported

from sparse_deploy.graph.model_file import load_onnx, save_onnx
from sparse_deploy.inspection.inspect import inspect_path


def encoder_shapes(path):
    """Zero shares by shape of the inspected file's tensors with zeros."""
    (file,) = inspect_path(str(path)).files
    return sorted((tensor.shape, tensor.zeros) for tensor in file.record.tensors if tensor.zeros > 100)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    save_onnx(exported("bert"), path)
    return path


@pytest.fixture(scope="module")
def nameless(plain):
    """As after a simplifier: the names of weights carry no information."""
    model = onnx.load(plain)
    renamed = {tensor.name: f"onnx::MatMul_{number}" for number, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = renamed[tensor.name]
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
        node.input[:] = [renamed.get(name, name) for name in node.input]
    path = plain.with_name("nameless.onnx")
    onnx.save(model, path)
    return path


def test_names_do_not_matter(plain, nameless):
    assert len(encoder_shapes(plain)) == 12
    assert encoder_shapes(nameless) == encoder_shapes(plain)


@pytest.mark.parametrize("fp16", [True, False])
def test_an_ir_of_openvinos_own_converter_shows_its_zeros(plain, nameless, tmp_path, fp16):
    for source in (plain, nameless):
        path = tmp_path / f"{source.stem}.xml"
        ov.save_model(ov.convert_model(source), path, compress_to_fp16=fp16)
        assert encoder_shapes(path) == encoder_shapes(plain)


def test_an_ir_whose_weights_nncf_compressed_shows_its_zeros(plain, tmp_path):
    import nncf

    compressed = nncf.compress_weights(ov.convert_model(plain), mode=nncf.CompressWeightsMode.INT8_SYM)
    ov.save_model(compressed, tmp_path / "nncf.xml")
    (file,) = inspect_path(str(tmp_path / "nncf.xml")).files
    assert "i8" in file.weight_types
    assert not file.not_understood
    for (shape, zeros), (expected, least) in zip(encoder_shapes(tmp_path / "nncf.xml"), encoder_shapes(plain),
                                                 strict=True):  # fmt: skip
        assert shape == expected
        assert least <= zeros <= least + 10, "INT8 rounds some weights to zero"


def test_what_onnxruntime_saved_is_read(plain, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
    domains = {one.domain for one in onnx.load(tmp_path / "saved.onnx").opset_import}
    assert "ai.onnx.ml" in domains, "declared, and used by no node"
    assert encoder_shapes(tmp_path / "saved.onnx") == encoder_shapes(plain)


def test_onnxruntimes_quantizer_takes_a_file_of_ours(plain, tmp_path):
    quantize_dynamic(plain, tmp_path / "int8.onnx")
    assert len(encoder_shapes(tmp_path / "int8.onnx")) == 12


def fused(nodes, weights, inputs=("x",)):
    graph = helper.make_graph(
        nodes,
        "fused",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8]) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_a_packed_attention_weight_is_three_tensors(tmp_path):
    random = np.random.default_rng(0)
    packed = random.normal(size=(8, 24)).astype(np.float32)
    packed[:, 8:16][random.random((8, 8)) < 0.5] = 0
    node = helper.make_node("Attention", ["x", "qkv", "b"], ["y"], domain="com.microsoft", num_heads=2)
    onnx.save(fused([node], {"qkv": packed, "b": np.zeros(24, np.float32)}), tmp_path / "m.onnx")
    (file,) = inspect_path(str(tmp_path / "m.onnx")).files
    found = {tensor.name: (tensor.shape, tensor.zeros) for tensor in file.record.tensors}
    assert found == {
        "qkv.query.weight": ((8, 8), 0),
        "qkv.key.weight": ((8, 8), int((packed[:, 8:16] == 0).sum())),
        "qkv.value.weight": ((8, 8), 0),
    }
    assert not file.not_understood


def test_a_product_whose_weight_is_not_understood_is_named(tmp_path):
    """A product in 4 bits beside a known one; two computed operands are no weight."""
    weights = {
        "w": np.ones((8, 8), np.float32),
        "q": np.zeros((8, 1, 16), np.uint8),
        "s": np.ones((8,), np.float32),
        "cube": np.ones((2, 8, 8), np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="known"),
        helper.make_node("MatMul", ["a", "z"], ["c"], name="attention"),
        helper.make_node("MatMulNBits", ["x", "q", "s"], ["d"], "packed", domain="com.microsoft", K=8, N=8, bits=4,
                         block_size=32),
        helper.make_node("MatMul", ["d", "cube"], ["y"], name="batched"),
    ]  # fmt: skip
    onnx.save(fused(nodes, weights, inputs=("x", "z")), tmp_path / "m.onnx")
    inspection = inspect_path(str(tmp_path / "m.onnx"))
    assert inspection.files[0].not_understood == ("MatMulNBits packed", "MatMul batched")
    assert "2 products could not be read" in inspection.warnings[0]
    assert "batched" in inspection.warnings[0]
    assert load_onnx(tmp_path / "m.onnx") is not None
