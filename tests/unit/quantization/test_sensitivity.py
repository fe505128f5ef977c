# SPDX-License-Identifier: Apache-2.0
"""The error of one product by itself: small where INT8 fits, large where an outlier eats the grid."""

import numpy as np
import onnx_ir as ir
import pytest
from tiny_graphs import exported, inputs

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.graph.model_file import save_onnx
from sparse_deploy.graph.weights import constant
from sparse_deploy.quantization.onnx_dynamic import quantize_dynamic
from sparse_deploy.quantization.sensitivity import layer_errors

BATCHES = [inputs(2, tokens, padded=False) for tokens in (5, 9)]


def test_every_quantized_product_has_a_small_error():
    errors = layer_errors(exported("bert"), exported("bert", int8=True), BATCHES)
    assert len(errors) == 12
    assert all(0 < error < 0.1 for error in errors.values())


def test_dynamic_int8_is_understood_as_well(tmp_path):
    fp32 = exported("bert")
    save_onnx(fp32, tmp_path / "model.onnx")
    errors = layer_errors(fp32, quantize_dynamic(tmp_path / "model.onnx", QuantizationSection()), BATCHES)
    assert len(errors) == 12
    assert all(0 < error < 0.1 for error in errors.values())


def test_a_bad_scale_shows_in_its_own_layer_only():
    int8 = exported("bert", int8=True)
    before = layer_errors(exported("bert"), int8, BATCHES)
    quantize = next(node for node in int8.graph if node.op_type == "QuantizeLinear")
    scale = quantize.inputs[1]
    scale.const_value = ir.tensor(constant(scale).numpy() * np.float32(40), name=scale.name)
    after = layer_errors(exported("bert"), int8, BATCHES)
    changed = {name for name in after if after[name] != pytest.approx(before[name])}
    assert changed == {f"bert.encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key", "value")}
    assert min(after[name] for name in changed) > 0.1


def test_a_constant_output_does_not_hide_the_error(tmp_path):
    fp32 = exported("bert")
    bias = fp32.graph.initializers["bert.encoder.layer.0.output.LayerNorm.bias"]
    shifted = constant(bias).numpy().copy()
    shifted[7] += 1000
    bias.const_value = ir.tensor(shifted, name=bias.name)
    save_onnx(fp32, tmp_path / "model.onnx")
    errors = layer_errors(fp32, quantize_dynamic(tmp_path / "model.onnx", QuantizationSection()), BATCHES)
    # The step of the input is 4, nothing of its other channels is left; |y_int8 - y| / |y| would be 1 %.
    for part in ("query", "key", "value"):
        assert errors[f"bert.encoder.layer.1.attention.self.{part}.weight"] > 0.5
        assert errors[f"bert.encoder.layer.0.attention.self.{part}.weight"] < 0.1
