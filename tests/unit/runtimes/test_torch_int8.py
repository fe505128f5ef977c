# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own dynamic INT8."""

import warnings

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.runtimes.torch_int8 import quantize_linears


@pytest.fixture
def model():
    torch.set_num_threads(1)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=32, initializer_range=0.1,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            if parameter.dim() == 2:
                parameter[torch.rand_like(parameter) < 0.6] = 0.0
    return model


def test_answers_like_fp32_and_leaves_the_model_alone(model):
    ids = torch.randint(0, 100, (3, 12))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        expected, found = model(ids).logits, quantize_linears(model)(ids).logits
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_zeros_stay_zeros_and_the_head_stays_fp32(model):
    quantized = dict(quantize_linears(model).named_modules())
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert type(quantized["classifier"]) is torch.nn.Linear
    for name, linear in linears.items():
        if name == "classifier":
            continue
        weight = quantized[name].weight()
        assert not weight.q_per_channel_zero_points().any()
        assert not ((linear.weight == 0) & (weight.int_repr() != 0)).any()


def test_no_warning_reaches_the_user(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize_linears(model)


def test_the_slow_engine_is_never_taken(model, monkeypatch):
    """qnnpack answers the same and is slower than FP32; a process may have chosen it before."""
    engines = torch.backends.quantized.supported_engines
    if "qnnpack" not in engines:
        pytest.skip("this build of PyTorch has no qnnpack")
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    quantize_linears(model)
    assert torch.backends.quantized.engine in set(engines) - {"qnnpack", "none"}


def test_missing_engine_is_said_plainly(model, monkeypatch):
    monkeypatch.setattr("sparse_deploy.runtimes.torch_int8._ENGINES", ("none-of-these",))
    with pytest.raises(RuntimeUnavailableError, match="expected one of the engines none-of-these"):
        quantize_linears(model)
