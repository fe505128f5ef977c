# SPDX-License-Identifier: Apache-2.0
"""The graph passes: names, layout, simplification, and the proof that none loses a zero."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparse_deploy.errors import ArtifactError, ConfigError, ExportError, QuantizationError, SparsityLostError
from sparse_deploy.graph.compress_weights import CompressWeights
from sparse_deploy.graph.model_file import load_onnx, save_onnx
from sparse_deploy.graph.name_weights import NameWeights
from sparse_deploy.graph.simplify import Simplify
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass, run_passes
from sparse_deploy.graph.transpose_weights import TransposeWeights
from sparse_deploy.graph.weights import read_weights, zero_masks


def two_linears(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> ir.Model:
    """``x @ first.T``, with a Transpose in the graph, then ``@ second.T`` with the weight stored turned."""
    nodes = [
        helper.make_node("Transpose", [names[0]], ["t"], perm=[1, 0], name="n0"),
        helper.make_node("MatMul", ["x", "t"], ["h"], name="n1"),
        helper.make_node("Identity", ["h"], ["i"], name="n2"),
        helper.make_node("MatMul", ["i", names[1]], ["y"], name="n3"),
    ]
    proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", first.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", second.shape[0]])],
        [numpy_helper.from_array(first, names[0]), numpy_helper.from_array(second.T.copy(), names[1])],
    )
    return ir.from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


@pytest.fixture
def parameters() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in (("a", (5, 4)), ("b", (4, 5)))}
    for weight in weights.values():
        weight[random.random(weight.shape) < 0.5] = 0
    return {f"{name}.weight": weight for name, weight in weights.items()}


def answer(model: ir.Model, x: np.ndarray, path: Path) -> np.ndarray:
    save_onnx(model, path)
    return onnxruntime.InferenceSession(path).run(None, {"x": x})[0]


def test_weights_get_their_names_by_prefix_and_by_content(parameters: dict[str, np.ndarray]) -> None:
    model = two_linears(parameters["a.weight"], parameters["b.weight"], ("model.inner.a.weight", "val_12"))
    run_passes(model, NameWeights(parameters))
    masks = zero_masks(model)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        name: (value == 0).tolist() for name, value in parameters.items()
    }


def test_two_equal_weights_keep_two_names(parameters: dict[str, np.ndarray]) -> None:
    square = np.zeros((4, 4), np.float32)
    model = two_linears(square, square, ("val_1", "val_2"))
    run_passes(model, NameWeights({"a.weight": square, "b.weight": square}))
    assert sorted(zero_masks(model)) == ["a.weight", "b.weight"]


def test_unknown_weights_keep_their_name(parameters: dict[str, np.ndarray]) -> None:
    model = two_linears(parameters["a.weight"] + 1, parameters["b.weight"], ("foreign", "b.weight"))
    run_passes(model, NameWeights(parameters))
    assert sorted(zero_masks(model)) == ["b.weight", "foreign"]


def test_transposes_are_folded_without_changing_name_zeros_or_answer(
    parameters: dict[str, np.ndarray], tmp_path: Path
) -> None:
    model = two_linears(parameters["a.weight"], parameters["b.weight"], ("a.weight", "b.weight"))
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    before, masks = answer(model, x, tmp_path / "before.onnx"), zero_masks(model)
    run_passes(model, TransposeWeights())
    assert "Transpose" not in [node.op_type for node in model.graph]
    assert {n: m.tolist() for n, m in zero_masks(model).items()} == {n: m.tolist() for n, m in masks.items()}
    np.testing.assert_allclose(answer(model, x, tmp_path / "after.onnx"), before, rtol=1e-6)


def test_simplify_drops_identity_and_never_folds_a_weight(parameters: dict[str, np.ndarray]) -> None:
    model = two_linears(parameters["a.weight"], parameters["b.weight"], ("a.weight", "b.weight"))
    run_passes(model, Simplify())
    assert [node.op_type for node in model.graph] == ["Transpose", "MatMul", "MatMul"]
    assert [weight.initializer for weight in read_weights(model)] == ["a.weight", "b.weight"]


def test_int8_weights_take_the_place_of_fp32_ones(parameters: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = two_linears(parameters["a.weight"], parameters["b.weight"], ("a.weight", "b.weight"))
    run_passes(model, TransposeWeights())
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    expected = answer(model, x, tmp_path / "fp32.onnx")
    quantized = []
    for weight in read_weights(model):
        scale = np.abs(weight.values).max(axis=0) / 127
        quantized.append(replace(weight, values=np.rint(weight.values / scale).astype(np.int8)))
    run_passes(model, CompressWeights(quantized))
    assert {weight.name: weight.values.dtype.name for weight in read_weights(model)} == {
        "a.weight": "int8",
        "b.weight": "int8",
    }
    np.testing.assert_allclose(answer(model, x, tmp_path / "int8.onnx"), expected, atol=0.1)
    with pytest.raises(QuantizationError, match="one layout"):
        run_passes(
            two_linears(parameters["a.weight"], parameters["b.weight"], ("a.weight", "b.weight")),
            CompressWeights([replace(weight, values=weight.values.T) for weight in quantized]),
        )


class _Reviver(SparsityKeepingPass):
    def __init__(self, name: str, zeros: int) -> None:
        super().__init__()
        self._name, self._zeros = name, zeros

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        value = model.graph.initializers[self._name]
        array = value.const_value.numpy().copy()
        array[tuple(axis[: self._zeros] for axis in np.nonzero(array == 0))] = 1e-30
        value.const_value = ir.tensor(array, name=self._name)
        return ir.passes.PassResult(model, modified=True)


def test_a_pass_that_revives_one_weight_is_caught(parameters: dict[str, np.ndarray]) -> None:
    model = two_linears(parameters["a.weight"], parameters["b.weight"], ("a.weight", "b.weight"))
    zeros = int((parameters["b.weight"] == 0).sum())
    with pytest.raises(SparsityLostError) as caught:
        run_passes(model, _Reviver("b.weight", 1))
    assert (caught.value.stage, caught.value.tensor) == ("_Reviver", "b.weight")
    assert (caught.value.before, caught.value.after) == (zeros, zeros - 1)
    run_passes(model, _Reviver("b.weight", 0))


def test_a_failing_pass_becomes_one_line() -> None:
    class Broken(ir.passes.InPlacePass):
        def requires(self, model: ir.Model) -> None:
            raise RuntimeError("two\nlines")

        def call(self, model: ir.Model) -> ir.passes.PassResult:
            raise AssertionError

    model = two_linears(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), ("a", "b"))
    with pytest.raises(ExportError, match=r"^graph pass Broken failed: two lines\."):
        run_passes(model, Broken())


def test_file_errors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ConfigError, match="no such file"):
        load_onnx(path)
    path.write_bytes(b"\x0a\xff\xff not a model")
    with pytest.raises(ArtifactError, match="wire type"):
        load_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="found 0"):
        load_onnx(path)


def test_truncated_file_and_external_data_are_refused(parameters: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_onnx(two_linears(parameters["a.weight"], parameters["b.weight"], ("a.weight", "b.weight")), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="are left"):
        load_onnx(path)
    proto = onnx.ModelProto.FromString(whole)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ArtifactError, match="external data"):
        load_onnx(path)
