# SPDX-License-Identifier: Apache-2.0
"""IR conversion: names, zeros and types survive; other forms of IR are read as well."""

import os
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as ops
from openvino_telemetry.utils.sender import TelemetrySender

from sparse_deploy.errors import ArtifactError, ConfigError, ExportError
from sparse_deploy.export.openvino import convert_to_ir
from sparse_deploy.graph.openvino_ir import parameter_count, read_zero_masks

SIZE = 64


def sparse(seed: int, shape: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    random = np.random.default_rng(seed)
    weight = random.normal(size=shape).astype(np.float32)
    weight[random.random(shape) < 0.7] = 0
    return weight


def save_onnx_of(weights: dict[str, np.ndarray], path: Path, *, int8: bool = False) -> None:
    """A chain of Linears; INT8 as QDQ with one scale per output."""
    nodes, constants, value = [], {}, "x"
    for number, (name, weight) in enumerate(weights.items()):
        operand = name
        constants[name] = weight.T.copy()
        if int8:
            scale = np.maximum(np.abs(weight).max(axis=1), 1e-3) / 127
            constants[name] = np.rint(weight / scale[:, None]).astype(np.int8).T.copy()
            constants |= {f"s{number}": scale.astype(np.float32), f"z{number}": np.zeros(len(weight), np.int8)}
            operand = f"d{number}"
            inputs = [name, f"s{number}", f"z{number}"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [operand], axis=1))
        nodes.append(helper.make_node("MatMul", [value, operand], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [f"r{number}"]))
        value = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZE])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", SIZE])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def test_fp32_keeps_names_zeros_and_width(tmp_path: Path) -> None:
    weights = {f"layer.{number}.weight": sparse(number) for number in range(3)}
    save_onnx_of(weights, tmp_path / "m.onnx")
    convert_to_ir(tmp_path / "m.onnx", tmp_path / "m.xml")
    found = read_zero_masks(tmp_path / "m.xml")
    assert sorted(found) == sorted(weights)
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[name], weight == 0)
    assert parameter_count(tmp_path / "m.xml") == 3 * SIZE * SIZE
    assert (tmp_path / "m.bin").stat().st_size >= 3 * SIZE * SIZE * 4


def test_int8_stays_int8_with_its_zeros(tmp_path: Path) -> None:
    weights = {f"layer.{number}.weight": sparse(number) for number in range(3)}
    save_onnx_of(weights, tmp_path / "m.onnx", int8=True)
    convert_to_ir(tmp_path / "m.onnx", tmp_path / "m.xml")
    found = read_zero_masks(tmp_path / "m.xml")
    for name, weight in weights.items():
        assert (found[name] | (weight != 0)).all()
    assert parameter_count(tmp_path / "m.xml") == 3 * SIZE * SIZE
    assert (tmp_path / "m.bin").stat().st_size < 1.3 * 3 * SIZE * SIZE


def test_two_equal_weights_keep_two_names(tmp_path: Path) -> None:
    weights = {"a.weight": np.zeros((SIZE, SIZE), np.float32), "b.weight": np.zeros((SIZE, SIZE), np.float32)}
    save_onnx_of(weights, tmp_path / "m.onnx")
    convert_to_ir(tmp_path / "m.onnx", tmp_path / "m.xml")
    assert sorted(read_zero_masks(tmp_path / "m.xml")) == ["a.weight", "b.weight"]


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("zero_point", [0, 128])
def test_zero_points_and_orientation_of_a_foreign_ir(tmp_path: Path, zero_point: int, transpose_b: bool) -> None:
    random = np.random.default_rng(3)
    stored = random.integers(120, 137, size=(8, 6)).astype(np.uint8)
    stored[random.random(stored.shape) < 0.4] = zero_point
    constant = ops.constant(stored if transpose_b else stored.T.copy(), name="self.bert.query.weight")
    constant.set_friendly_name("self.bert.query.weight")
    shifted = ops.subtract(ops.convert(constant, "f32"), ops.constant(np.float32(zero_point)))
    scaled = ops.multiply(shifted, ops.constant(np.float32(0.1)))
    x = ops.parameter([-1, 6], np.float32, name="x")
    ov.save_model(ov.Model([ops.matmul(x, scaled, False, transpose_b)], [x]), tmp_path / "m.xml")
    masks = read_zero_masks(tmp_path / "m.xml")
    np.testing.assert_array_equal(masks["bert.query.weight"], stored == zero_point)


def test_errors_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_zero_masks(tmp_path / "m.xml")
    (tmp_path / "m.xml").write_text("<net")
    with pytest.raises(ArtifactError, match=r"m\.bin"):
        read_zero_masks(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"\0")
    with pytest.raises(ArtifactError, match="not well-formed XML"):
        read_zero_masks(tmp_path / "m.xml")
    (tmp_path / "broken.onnx").write_bytes(b"no")
    with pytest.raises(ExportError, match=r"broken\.onnx"):
        convert_to_ir(tmp_path / "broken.onnx", tmp_path / "n.xml")


def test_nothing_is_posted_to_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[object] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(TelemetrySender, "send", lambda self, backend, message: posted.append(message))
    save_onnx_of({"layer.0.weight": sparse(0)}, tmp_path / "m.onnx")
    convert_to_ir(tmp_path / "m.onnx", tmp_path / "m.xml")
    assert not posted
    assert "CI" not in os.environ
