# SPDX-License-Identifier: Apache-2.0
"""On a CPU with AVX2 alone, u8 x s8 products saturate with 8-bit weights and are exact with 7-bit ones.

ONNX Runtime can't be told to leave out instructions, so an emulated Haswell runs it; OpenVINO obeys a variable.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.export.exporter import ExportableModel, to_onnx
from sparse_deploy.graph.fold_weight_quantization import FoldWeightQuantization
from sparse_deploy.graph.model_file import save_onnx
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.weights import read_weights
from sparse_deploy.quantization.calibration import calibration_batches
from sparse_deploy.quantization.neural_compressor import quantize_static
from sparse_deploy.quantization.onnx_dynamic import quantize_dynamic

EMULATOR = shutil.which("qemu-x86_64")
CHANNELS, OUTPUTS = 64, 16
ONNX_RUNTIME = """
import json, sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
x = numpy.ones((1, 4, 64), numpy.float32)
print(json.dumps([
    float(onnxruntime.InferenceSession(path, options).run(None, {"x": x})[0].max()) for path in sys.argv[1:]
]))
"""
OPENVINO = """
import json, sys, numpy, openvino
x = numpy.ones((1, 4, 64), numpy.float32)
settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
print(json.dumps([
    float(openvino.Core().compile_model(path, "CPU", settings)({"x": x})[0].max()) for path in sys.argv[1:]
]))
"""


def write_static(path: Path, largest: int) -> Path:
    """All activations 255, all weights the largest: the sum of two neighbours is 2 * 255 * largest."""
    constants = {
        "x_scale": np.float32(1 / 255), "x_zero": np.uint8(0), "w": np.full((CHANNELS, OUTPUTS), largest, np.int8),
        "w_scale": np.full(OUTPUTS, 1 / largest, np.float32), "w_zero": np.zeros(OUTPUTS, np.int8),
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
    path = folder / f"{target_cpu}.onnx"
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "head"], ["y"])]
    constants = {"w": np.ones((CHANNELS, OUTPUTS), np.float32), "head": np.eye(OUTPUTS, dtype=np.float32)}
    save(folder / "fp32.onnx", nodes, constants)
    save_onnx(quantize_dynamic(folder / "fp32.onnx", QuantizationSection(target_cpu=target_cpu)), path)
    return path


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", width])
        for name, width in (("x", CHANNELS), ("y", OUTPUTS))
    )
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "saturation", [x], [y], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def answers(program: str, paths: list[Path], *, emulate: bool, **environment: str) -> list[float]:
    emulator = [str(EMULATOR), "-cpu", "Haswell"] if emulate else []
    command = [*emulator, sys.executable, "-c", program, *map(str, paths)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=os.environ | environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saturation")
    static = [write_static(folder / f"static-{largest}.onnx", largest) for largest in (127, 63)]
    return [*static, write_dynamic(folder, "vnni"), write_dynamic(folder, "avx2")]


def test_right_everywhere_with_wide_enough_sums(files):
    if "avx512_vnni" not in Path("/proc/cpuinfo").read_text() and "avx_vnni" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no VNNI: its own sums saturate")
    np.testing.assert_allclose(answers(ONNX_RUNTIME, files, emulate=False), CHANNELS, rtol=1e-3)


@pytest.mark.skipif(EMULATOR is None, reason="no qemu-x86_64 here (Debian: apt-get install qemu-user)")
def test_onnxruntime_saturates_with_8_bits_and_not_with_7(files):
    wide_static, narrow_static, wide_dynamic, narrow_dynamic = answers(ONNX_RUNTIME, files, emulate=True)
    # 2 * 255 * 127 = 64770 becomes 32767: about half of every sum is lost.
    assert wide_static < 0.6 * CHANNELS
    assert wide_dynamic < 0.6 * CHANNELS
    np.testing.assert_allclose([narrow_static, narrow_dynamic], CHANNELS, rtol=1e-3)


def test_openvino_saturates_with_8_bits_and_not_with_7(files):
    wide, narrow = answers(OPENVINO, files[:2], emulate=False, ONEDNN_MAX_CPU_ISA="AVX2")
    assert wide < 0.6 * CHANNELS
    np.testing.assert_allclose(narrow, CHANNELS, rtol=1e-3)


def test_static_quantization_for_avx2_stays_within_7_bits(model, features):
    largest = {}
    for target in ("vnni", "avx2"):
        settings = QuantizationSection(target_cpu=target)
        ids = torch.zeros((2, 7), dtype=torch.int64)
        batches = calibration_batches(features, settings)
        assert isinstance(model, ExportableModel)
        graph = quantize_static(model, batches, settings)
        onnx_graph = to_onnx(graph, (ids, torch.ones_like(ids), torch.zeros_like(ids)), ["logits"], 20)
        folded: ir.Model = run_passes(onnx_graph, FoldWeightQuantization())
        largest[target] = max(np.abs(w.values.astype(int)).max() for w in read_weights(folded) if w.quantized)
    assert 127 <= largest["vnni"] <= 128
    assert 63 <= largest["avx2"] <= 64
