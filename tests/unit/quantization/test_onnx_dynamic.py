# SPDX-License-Identifier: Apache-2.0
"""Dynamic INT8 by ONNX Runtime's quantizer, run by ONNX Runtime and OpenVINO."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.errors import QuantizationError
from sparse_deploy.export.exporter import to_onnx
from sparse_deploy.graph.model_file import load_onnx, save_onnx
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.transpose_weights import TransposeWeights
from sparse_deploy.graph.weights import read_weights, zero_masks
from sparse_deploy.quantization.onnx_dynamic import quantizable_weights, quantize_dynamic


@pytest.fixture(scope="module")
def fp32_file(model, tmp_path_factory):
    ids = torch.zeros((2, 7), dtype=torch.int64)
    graph = to_onnx(model, (ids, torch.ones_like(ids), torch.zeros_like(ids)), ["logits"], 20)
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    save_onnx(run_passes(graph, TransposeWeights()), path)
    return path


@pytest.fixture
def int8_file(fp32_file, tmp_path):
    path = tmp_path / "model_int8.onnx"
    save_onnx(quantize_dynamic(fp32_file, QuantizationSection()), path)
    return path


def test_agrees_in_both_runtimes(model, int8_file, padded_batch, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(int8_file, options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(*(torch.from_numpy(padded_batch[name]) for name in MODEL_INPUTS))[0].numpy()
    found = session.run(None, padded_batch)[0]
    np.testing.assert_allclose(found, expected, atol=0.1)
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["DynamicQuantizeMatMul"] + operators["MatMulIntegerToFloat"] == 12
    compiled = openvino.Core().compile_model(
        int8_file, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    np.testing.assert_allclose(compiled(padded_batch)[0], found, atol=0.05)


def test_weights_are_symmetric_int8_under_their_own_names(fp32_file, int8_file):
    before, after = zero_masks(load_onnx(fp32_file)), zero_masks(load_onnx(int8_file))
    assert before.keys() == after.keys()
    assert not any((before[name] & ~after[name]).any() for name in before)
    weights = read_weights(load_onnx(int8_file))
    quantized = [weight for weight in weights if weight.quantized]
    assert len(quantized) == 12
    for weight in quantized:
        assert weight.initializer == f"{weight.name}_quantized"
        assert weight.values.dtype == np.int8
        assert not np.any(weight.zero_point)


def test_excluded_layers_stay_fp32(fp32_file):
    model = quantize_dynamic(fp32_file, QuantizationSection(exclude=("attention",)))
    quantized = [weight.name for weight in read_weights(model) if weight.quantized]
    assert len(quantized) == 4
    assert not any("attention" in name for name in quantized)


def test_nothing_to_quantize(fp32_file):
    with pytest.raises(QuantizationError, match="found none to quantize"):
        quantize_dynamic(fp32_file, QuantizationSection(exclude=("encoder",)))


def test_kept_weights_stay_fp32(fp32_file):
    names = quantizable_weights(load_onnx(fp32_file))
    assert len(names) == 12
    weights = read_weights(quantize_dynamic(fp32_file, QuantizationSection(), keep=names[2:4]))
    assert [weight.name for weight in weights if weight.quantized] == [*names[:2], *names[4:]]


@pytest.mark.parametrize(
    ("target_cpu", "largest", "neighbours"),
    [("any", (64, 127), 128), ("vnni", (127, 127), None), ("avx2", (64, 64), 128)],
)
def test_weights_are_on_the_grid_of_the_target_cpu(fp32_file, target_cpu, largest, neighbours):
    fp32 = {weight.name: weight.values for weight in read_weights(load_onnx(fp32_file))}
    model = quantize_dynamic(fp32_file, QuantizationSection(target_cpu=target_cpu))
    weights = [weight for weight in read_weights(model) if weight.quantized]
    assert largest[0] <= max(weight.largest() for weight in weights) <= largest[1]
    sums = max(weight.largest_neighbour_sum() for weight in weights)
    assert sums > 128 if neighbours is None else sums in (neighbours - 1, neighbours)
    for weight in weights:
        scale = model.graph.initializers[f"{weight.name}_scale"].const_value.numpy()
        assert (np.abs(weight.values * scale - fp32[weight.name]) <= 0.51 * scale).all()
