# SPDX-License-Identifier: Apache-2.0
"""Exported models with sparse operators in them: same names, same zeros, same answers, nothing dead left behind."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from tiny_graphs import ARCHITECTURES, exported, inputs, kept

from sparse_deploy.graph import operators
from sparse_deploy.graph.model_file import load_onnx, save_onnx
from sparse_deploy.graph.replace_linears import ReplaceLinears
from sparse_deploy.graph.sparse_model import to_sparse_model
from sparse_deploy.graph.weights import parameter_count, read_weights, read_zero_masks, zero_masks
from sparse_deploy.kernels.reference import ReferenceSession
from sparse_deploy.sparsity.packing import decode

BATCH = inputs(3, 9)


def sparse_file(folder: Path, model, **settings):
    found = to_sparse_model(model, **settings)
    save_onnx(found.model, folder / "model_sparse.onnx")
    return found, folder / "model_sparse.onnx"


def answer(path: Path):
    return kept(ReferenceSession(path).run(_read_by(path)), BATCH)


def plain_answer(model, folder: Path):
    save_onnx(model, folder / "plain.onnx")
    path = folder / "plain.onnx"
    return kept(onnxruntime.InferenceSession(path).run(None, _read_by(path)), BATCH)


def _read_by(path: Path) -> dict[str, np.ndarray]:
    """The inputs of the batch that the model has: RoBERTa and DistilBERT take no token types."""
    return {value.name: BATCH[value.name] for value in load_onnx(path).graph.inputs}


def constants(model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("name", [*ARCHITECTURES, "albert"])
def test_fp32_model(name, tmp_path):
    before = exported(name)
    found, path = sparse_file(tmp_path, exported(name))
    assert len(found.layers) == 2
    model = load_onnx(path)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("SparseEncoderLayer") == 2
    left = {"Softmax", "Transpose"} if name == "roberta" else {"Softmax", "Transpose", "Concat", "Unsqueeze"}
    assert not left & set(kinds), "layer or mask left behind"  # RoBERTa counts positions by Unsqueeze and Concat
    assert model.opset_imports[operators.DOMAIN] == 2  # rows pass between the layers without padding
    masks, required = zero_masks(model), zero_masks(before)
    assert masks.keys() == required.keys()
    for weight, zeros in required.items():
        assert (masks[weight] | ~zeros).all(), weight
    assert parameter_count(model) == parameter_count(before)
    if name == "roberta":  # onnx's evaluator can't run its embeddings; test_sparse_architectures compares its answers
        return
    # INT8 weights and activations; the models' logits are 0.5 to 2.4.
    np.testing.assert_allclose(answer(path), plain_answer(before, tmp_path), atol=0.03)


def test_qdq_model_keeps_its_int8_weights_and_scales(tmp_path):
    before = {weight.name: weight for weight in read_weights(exported("bert", int8=True))}
    found, path = sparse_file(tmp_path, exported("bert", int8=True))
    assert len(found.layers) == 2
    model = load_onnx(path)
    stored = constants(model)
    for name, weight in before.items():
        if "encoder" in name:
            np.testing.assert_array_equal(decode(stored[name]), np.maximum(weight.values.T, -127))
            np.testing.assert_array_equal(stored[f"{name}_scale"], weight.scale.ravel())
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph}
    for name, zeros in zero_masks(exported("bert", int8=True)).items():
        np.testing.assert_array_equal(read_zero_masks(path)[name], zeros)
    np.testing.assert_allclose(answer(path), plain_answer(exported("bert"), tmp_path), atol=0.03)


def test_static_activations_take_the_calibrated_scales(tmp_path):
    quantize = [node for node in exported("bert", int8=True).graph if node.op_type == "QuantizeLinear"]
    scales = [float(node.inputs[1].const_value.numpy()) for node in quantize]
    zero_points = [int(node.inputs[2].const_value.numpy()) for node in quantize]
    _, path = sparse_file(tmp_path, exported("bert", int8=True), static=True)
    layers = [node for node in load_onnx(path).graph if node.op_type == "SparseEncoderLayer"]
    found = [tuple(layer.inputs[index].const_value.numpy().tolist() for index in (24, 25)) for layer in layers]
    for place, (layer_scales, layer_points) in enumerate(found):
        assert layer_scales == scales[4 * place : 4 * place + 4]
        assert layer_points == zero_points[4 * place : 4 * place + 4]
    np.testing.assert_allclose(answer(path), plain_answer(exported("bert"), tmp_path), atol=0.05)


def test_a_smoothed_input_stays_dynamic_and_the_weight_gets_its_factors_back(tmp_path):
    from test_encoder_layers import insert_behind, put_constant

    model = exported("bert", int8=True)
    quantize = [node for node in model.graph if node.op_type == "QuantizeLinear"][3]
    factor = np.random.default_rng(0).uniform(0.3, 1, 64).astype(np.float32)
    gelu = quantize.inputs[0]
    multiply = insert_behind(model, gelu, "Mul", gelu)
    put_constant(model, multiply, 1, factor)
    _, path = sparse_file(tmp_path, model, static=True)
    layer = next(node for node in load_onnx(path).graph if node.op_type == "SparseEncoderLayer")
    scales = layer.inputs[24].const_value.numpy()
    assert scales[3] == 0
    assert (scales[:3] > 0).all()
    weight = read_weights(load_onnx(path))[5]
    plain = read_weights(exported("bert", int8=True))[5]
    assert weight.name == plain.name == "bert.encoder.layer.0.output.dense.weight"
    expected = plain.values.T * plain.scale.ravel()[:, None] * factor
    np.testing.assert_allclose(weight.values * weight.scale, expected, atol=0.6 * weight.scale.max())


def test_unknown_layers_keep_their_form_and_their_products_become_sparse(tmp_path):
    before = exported("bert-silu")
    found, path = sparse_file(tmp_path, exported("bert-silu"))
    assert found.layers == ()
    assert len(found.linears) == 12
    reasons = {refusal.name: refusal.reason for refusal in found.standard}
    assert "expected GELU or ReLU" in reasons["bert.encoder.layer.0.attention.self"]
    assert "0.0% zeros, a sparse product is faster from 40% on" in reasons["bert.pooler.dense.weight"]
    kinds = [node.op_type for node in load_onnx(path).graph]
    assert (kinds.count("SparseLinear"), kinds.count("Softmax"), kinds.count("Gemm")) == (12, 2, 2)
    np.testing.assert_allclose(answer(path), plain_answer(before, tmp_path), atol=0.03)


def test_an_activation_behind_a_single_product_is_folded(tmp_path):
    model = exported("bert")
    pooler = next(value for name, value in model.graph.initializers.items() if name == "bert.pooler.dense.weight")
    pooler.const_value = _with_zeros(pooler)
    before = plain_answer(model, tmp_path)
    found, path = sparse_file(tmp_path, model)
    assert found.linears == ("bert.pooler.dense.weight",)
    nodes = {node.op_type: node for node in load_onnx(path).graph}
    assert nodes["SparseLinear"].attributes["activation"].value == "tanh"
    assert nodes["SparseLinear"].name == "bert.pooler.dense"
    assert "Tanh" not in nodes
    np.testing.assert_allclose(answer(path), before, atol=0.03)


def _with_zeros(value):
    import onnx_ir as ir

    array = value.const_value.numpy().copy()
    array[np.random.default_rng(0).random(array.shape) < 0.6] = 0
    return ir.tensor(array, name=value.name)


@pytest.mark.parametrize("int8", [False, True])
def test_excluded_weights_stay(int8, tmp_path):
    found, path = sparse_file(tmp_path, exported("bert", int8=int8), exclude=("layer.1.output",))
    assert found.layers == ("bert.encoder.layer.0",)
    assert len(found.linears) == 5
    reasons = {refusal.name: refusal.reason for refusal in found.standard}
    assert reasons["bert.encoder.layer.1.attention.self"] == (
        "bert.encoder.layer.1.output.dense.weight is excluded from INT8"
    )
    kinds = [node.op_type for node in load_onnx(path).graph]
    assert kinds.count("SparseEncoderLayer") == 1
    assert kinds.count("SparseLinear") == 5
    assert "Unsqueeze" in kinds, "the other layer still needs its mask"
    np.testing.assert_allclose(answer(path), plain_answer(exported("bert"), tmp_path), atol=0.03)


def test_a_layer_that_is_partly_fp32_in_an_int8_file_stays(tmp_path):
    model = exported("bert", int8=True)
    weights = {weight.name: weight for weight in read_weights(exported("bert"))}
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    dequantize = next(node for node in model.graph if node.inputs[0] is not None and node.inputs[0].name == name)
    from test_encoder_layers import put_constant

    product = dequantize.outputs[0].uses()[0].node
    put_constant(model, product, 1, weights[name].values)
    found, _ = sparse_file(tmp_path, model)
    assert found.layers == ("bert.encoder.layer.1",)
    assert "is FP32 in an INT8 file" in found.standard[0].reason


def test_a_shared_weight_is_stored_once(tmp_path):
    found, path = sparse_file(tmp_path, exported("albert"))
    layers = [node for node in load_onnx(path).graph if node.op_type == "SparseEncoderLayer"]
    assert len(layers) == 2
    assert {layer.inputs[2].name for layer in layers} == {layers[0].inputs[2].name}
    packed = [name for name, array in constants(load_onnx(path)).items() if array.dtype == np.uint8]
    assert len(packed) == 6 + len(found.linears)


def test_a_damaged_weight_names_its_tensor(tmp_path):
    from sparse_deploy.errors import ArtifactError

    _, path = sparse_file(tmp_path, exported("bert"))
    proto = onnx.load(path)
    name = "bert.encoder.layer.1.output.dense.weight"
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[-1] ^= 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, path)
    with pytest.raises(ArtifactError, match=f"{name}: compact weight: expected checksum"):
        read_zero_masks(path)


@pytest.mark.parametrize("columns", [65_535, 65_536])
def test_a_weight_of_too_many_inputs_stays_standard(columns):
    weight = np.zeros((columns, 4), np.float32)
    weight[::4] = 0.5
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "wide.weight"], ["y"])],
        "wide",
        [value("x", onnx.TensorProto.FLOAT, ["batch", columns])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", 4])],
        [onnx.numpy_helper.from_array(weight, "wide.weight")],
    )
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]))
    replace = ReplaceLinears()
    replace(model)
    if columns == 65_535:
        assert replace.replaced == ["wide.weight"]
    else:
        assert replace.replaced == []
        (refusal,) = replace.refused
        assert "65536 input channels, the sparse operators support at most 65535" in refusal.reason
