# SPDX-License-Identifier: Apache-2.0
"""The operators in numpy: exact where integers are, and PyTorch's own encoder layer up to INT8 rounding."""

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from sparse_operators import layer_constants, layer_model, linear_constants, linear_model
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.kernels import reference
from sparse_deploy.kernels.reference import ReferenceSession, accumulate, attention, linear, quantize_rows
from sparse_deploy.sparsity.packing import encode

OPERATORS = [reference.SparseLinear, reference.SparseEncoderLayer]


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_rows_are_quantised_by_their_own_range_with_zero_in_it():
    x = np.array([[-1, 0, 4.1, 2], [1, 2, 3, 5.1], [-5.1, -4, -1, -2], [0, 0, 0, 0]], np.float32)
    u8, scale, zero_point = quantize_rows(x)
    np.testing.assert_allclose(scale.ravel(), [0.02, 0.02, 0.02, 1], rtol=1e-6)
    assert zero_point.ravel().tolist() == [50, 0, 255, 0]
    assert u8.tolist() == [[0, 50, 255, 150], [50, 100, 150, 255], [0, 55, 205, 155], [0, 0, 0, 0]]
    assert np.abs((u8 - zero_point) * scale - x).max() <= 0.0101


def test_accumulators_are_exact_at_the_ends_of_the_range():
    random = np.random.default_rng(0)
    x = random.choice([0, 255], (5, 4096)).astype(np.uint8)
    weight = random.choice([-127, 0, 127], (7, 4096)).astype(np.int8)
    zero_point = random.integers(0, 256, (5, 1)).astype(np.int32)
    expected = (x.astype(np.int64) - zero_point) @ weight.T.astype(np.int64)
    np.testing.assert_array_equal(accumulate(x, zero_point, weight), expected)


@pytest.mark.parametrize("static", [None, (0.03, 120), (0.0, 0)])
def test_linear_is_near_the_float_product(static):
    weight = np.random.default_rng(1).integers(-127, 128, (24, 40)).astype(np.int8)
    scale = np.full(24, 0.01, np.float32)
    x, bias = rows(2, 3, 40), rows(24)
    found = linear(x, encode(weight), scale, bias, static=static)
    expected = x @ (weight * scale[:, None]).T + bias
    assert found.shape == (2, 3, 24)
    np.testing.assert_allclose(found, expected, atol=0.15)
    assert np.abs(found - expected).mean() < 0.05


def test_padding_gets_no_attention_and_a_row_of_padding_counts_as_one_of_tokens():
    q, k, v = (rows(2, 5, 8, seed=seed) for seed in range(3))
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], np.int64)
    found = attention(q, k, v, mask, 2)
    changed = v.copy()
    changed[0, 3:] = 100
    np.testing.assert_array_equal(attention(q, k, changed, mask, 2)[0], found[0])
    np.testing.assert_array_equal(found[1], attention(q, k, v, np.ones_like(mask), 2)[1])


def test_padding_behind_a_sequence_comes_out_as_zero():
    model = layer_model([layer_constants(32, 64)], hidden=32, heads=4)
    x, mask = rows(3, 4, 32), np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.int64)
    evaluator = ReferenceEvaluator(model, new_ops=OPERATORS)
    found = evaluator.run(["Y"], {"X": x, "mask": mask})[0]
    assert found.any(axis=2).tolist() == [[True, True, True, False], [True] * 4, [True] * 4]
    np.testing.assert_array_equal(found[1], evaluator.run(["Y"], {"X": x, "mask": np.ones_like(mask)})[0][1])


@pytest.mark.parametrize(("hidden_act", "activation"), [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("relu", "relu")])
def test_encoder_layer_is_transformers_own_up_to_int8(hidden_act, activation):
    constants = layer_constants(32, 64, seed=3)
    model = layer_model([constants], hidden=32, heads=4, activation=activation)
    x, mask = rows(2, 7, 32), np.ones((2, 7), np.int64)
    mask[1, 4:] = 0
    found = ReferenceEvaluator(model, new_ops=OPERATORS).run(["Y"], {"X": x, "mask": mask})[0]
    expected = _torch_layer(constants, hidden_act)(
        torch.from_numpy(x), torch.from_numpy(np.where(mask[:, None, None, :], 0, -1e30).astype(np.float32))
    )
    expected = (expected[0] if isinstance(expected, tuple) else expected).detach().numpy()
    difference = np.abs(found - expected)[mask.astype(bool)]
    assert difference.max() < 0.1
    assert difference.mean() < 0.02


def _torch_layer(constants, hidden_act):
    config = BertConfig(
        hidden_size=32, num_attention_heads=4, intermediate_size=64, hidden_act=hidden_act, attn_implementation="eager"
    )
    layer = BertLayer(config).eval()
    modules = {
        "query": layer.attention.self.query, "key": layer.attention.self.key, "value": layer.attention.self.value,
        "attention_output": layer.attention.output.dense, "intermediate": layer.intermediate.dense,
        "output": layer.output.dense,
    }  # fmt: skip
    norms = {"attention": layer.attention.output.LayerNorm, "output": layer.output.LayerNorm}
    with torch.no_grad():
        for name, module in modules.items():
            matrix = reference.decode(constants[f"{name}_weight"]) * constants[f"{name}_scale"][:, None]
            module.weight.copy_(torch.from_numpy(matrix))
            module.bias.copy_(torch.from_numpy(constants[f"{name}_bias"]))
        for name, norm in norms.items():
            norm.weight.copy_(torch.from_numpy(constants[f"{name}_gamma"]))
            norm.bias.copy_(torch.from_numpy(constants[f"{name}_beta"]))
    return layer


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "tanh"])
def test_linear_operator_has_every_activation(activation):
    constants = linear_constants(6, 10)
    x = {"X": rows(2, 3, 10)}
    plain = ReferenceEvaluator(linear_model(constants), new_ops=OPERATORS).run(["Y"], x)[0]
    found = ReferenceEvaluator(linear_model(constants, activation=activation), new_ops=OPERATORS).run(["Y"], x)[0]
    tensor = torch.from_numpy(plain)
    expected = {
        "none": tensor,
        "gelu": torch.nn.functional.gelu(tensor),
        "gelu_tanh": torch.nn.functional.gelu(tensor, approximate="tanh"),
        "relu": tensor.relu(),
        "tanh": tensor.tanh(),
    }[activation]
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


def test_a_session_says_what_it_cannot_run(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(linear_model(linear_constants(6, 10)).SerializeToString())
    session = ReferenceSession(path)
    assert session.run({"X": rows(1, 2, 10)})[0].shape == (1, 2, 6)
    with pytest.raises(RuntimeUnavailableError, match="reference evaluator can't run this file"):
        session.run({"X": rows(1, 2, 11)})
