# SPDX-License-Identifier: Apache-2.0
"""INT8 on a CPU without VNNI: which files saturate, and the messages of serve, bench and inspect.

The smaller CPU is this one with its instructions hidden (``tests/hidden_instructions.py``), or as it is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import hidden_instructions
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.graph.model_file import save_onnx
from sparse_deploy.machine import describe_machine
from sparse_deploy.quantization.onnx_dynamic import quantize_dynamic
from sparse_deploy.sparsity.weight_grid import LARGEST_NEIGHBOUR_SUM, largest_neighbour_sum

INPUTS, OUTPUTS = 64, 16
needs_vnni = pytest.mark.skipif(describe_machine().saturates, reason="needs a CPU with VNNI")
hides = pytest.mark.skipif(not hidden_instructions.available(), reason="needs gcc and objdump (Debian: binutils)")
ANSWER = """
import json, sys, numpy, onnxruntime, openvino
x = numpy.ones((1, 4, 64), numpy.float32)

def with_onnxruntime(path, **entries):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in entries.items():
        options.add_session_config_entry("session." + key, value)
    return float(onnxruntime.InferenceSession(path, options).run(None, {"x": x})[0].max())

def with_openvino(path):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return float(openvino.Core().compile_model(path, "CPU", settings)({"x": x})[0].max())

print(json.dumps([
    [with_onnxruntime(path), with_onnxruntime(path, x64quantprecision="1"), with_openvino(path)]
    for path in sys.argv[1:]
]))
"""
# Weights by the place of the input in a group of four.
ROWS = {
    "eight bits": (127, 127, 127, 127),
    "above": (127, 8, 127, 8),
    "any": (127, 1, 1, 127),
    "across the border of two pairs": (1, 127, 127, 1),
    "both signs": (-127, 127, 127, -127),
    "seven bits": (64, 64, 64, 64),
}
ROUNDING = 0.01  # of a weight of one by 127 steps for two
SATURATING = ("eight bits", "above", "dynamic vnni")


def write_static(path: Path, row: tuple[int, ...]) -> Path:
    """All activations are 255, so that a group of four adds up to 255 times its weights."""
    integers = np.tile(np.array(row, np.int8), INPUTS // len(row))[:, None].repeat(OUTPUTS, axis=1)
    constants = {
        "x_scale": np.float32(1 / 255), "x_zero": np.uint8(0), "w": integers,
        "w_scale": np.full(OUTPUTS, 1 / 127, np.float32), "w_zero": np.zeros(OUTPUTS, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_u8"]),
        helper.make_node("DequantizeLinear", ["x_u8", "x_scale", "x_zero"], ["x_back"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_back"], axis=1),
        helper.make_node("MatMul", ["x_back", "w_back"], ["y"]),
    ]
    save(path, nodes, constants)
    return path


def write_dynamic(folder: Path, target_cpu: str) -> Path:
    """A MatMul of ones, quantized by the real quantizer; a second one is there to be the head."""
    path = folder / f"dynamic {target_cpu}.onnx"
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "head"], ["y"])]
    constants = {"w": np.ones((INPUTS, OUTPUTS), np.float32), "head": np.eye(OUTPUTS, dtype=np.float32)}
    save(folder / "fp32.onnx", nodes, constants)
    save_onnx(quantize_dynamic(folder / "fp32.onnx", QuantizationSection(target_cpu=target_cpu)), path)
    return path


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", width])
        for name, width in (("x", INPUTS), ("y", OUTPUTS))
    )
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "saturation", [x], [y], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def answers(files: dict[str, Path], environment: dict[str, str]) -> dict[str, list[float]]:
    """By file, of ONNX Runtime, ONNX Runtime's exact mode, and OpenVINO."""
    command = [sys.executable, "-c", ANSWER, *map(str, files.values())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return dict(zip(files, json.loads(result.stdout.splitlines()[-1]), strict=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saturation")
    dynamic = {f"dynamic {target}": write_dynamic(folder, target) for target in ("any", "vnni", "avx2")}
    return {name: write_static(folder / f"{name}.onnx", row) for name, row in ROWS.items()} | dynamic


@pytest.fixture(scope="module")
def expected(files) -> dict[str, float]:
    return {name: INPUTS / 4 * sum(ROWS[name]) / 127 if name in ROWS else INPUTS for name in files}


@needs_vnni
def test_every_file_is_right_with_vnni(files, expected):
    for name, found in answers(files, dict(os.environ)).items():
        np.testing.assert_allclose(found, expected[name], rtol=ROUNDING, atol=1e-4, err_msg=name)


@hides
def test_without_vnni_neighbours_above_128_saturate_and_nothing_else(files, expected):
    for name, (onnxruntime, exact, openvino) in answers(files, hidden_instructions.environment()).items():
        np.testing.assert_allclose(exact, expected[name], rtol=ROUNDING, atol=1e-4, err_msg=name)
        right = expected[name]
        for found in (onnxruntime, openvino if name in ROWS else onnxruntime):  # OpenVINO's dynamic products are FP32
            wrong = abs(found - right) > ROUNDING * right + 1e-4
            assert wrong == (name in SATURATING), name


@pytest.mark.parametrize("row", ROWS)
def test_the_rule_tells_which_rows_saturate(row):
    integers = np.tile(np.array(ROWS[row], np.int8), (2, 3))
    assert (largest_neighbour_sum(integers) > LARGEST_NEIGHBOUR_SUM) == (row in SATURATING)
