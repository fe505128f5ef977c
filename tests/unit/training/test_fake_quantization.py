# SPDX-License-Identifier: Apache-2.0
"""Fake INT8 computes the same as the export, passes gradients straight through, and does not change the model."""

import numpy as np
import pytest
import torch
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from sparse_deploy.activation_ranges import RANGES_FILE, read_ranges
from sparse_deploy.errors import CheckpointError, ConfigError
from sparse_deploy.quantization.observers import WeightObserver
from sparse_deploy.sparsity.weight_grid import GRIDS, largest_neighbour_sum
from sparse_deploy.training.fake_quantization import (
    FakeQuantization,
    fake_quantize_input,
    fake_quantize_weight,
    input_scale,
    token_linear_names,
    weight_scale,
)

INT8, SEVEN_BITS, NEIGHBOURS = GRIDS["vnni"], GRIDS["avx2"], GRIDS["any"]
QUERY = "bert.encoder.layer.0.attention.self.query"


def tiny_bert(kind=BertForSequenceClassification, layers: int = 2):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, initializer_range=0.3,
    )  # fmt: skip
    return kind(config).eval()


def attach(model, layers=None) -> FakeQuantization:
    return FakeQuantization(model, layers or token_linear_names(model), INT8)


def text(rows: int = 3, tokens: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 60, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("grid", [INT8, SEVEN_BITS, NEIGHBOURS])
def test_rounded_weights_are_those_of_the_exported_file(grid):
    torch.manual_seed(1)
    weight = torch.randn(64, 48)
    weight[weight.abs() < 0.6] = 0.0
    weight[5] = 0.0
    torchao = PerChannelMinMaxObserver(
        dtype=torch.int8, qscheme=torch.per_channel_symmetric, quant_min=grid.low, quant_max=grid.high
    )
    observer = WeightObserver(grid, torchao)
    for one in (torchao, observer):
        one(weight)
    scale = observer.calculate_qparams()[0].numpy()[:, None]
    if not grid.neighbours:
        assert np.array_equal(torchao.calculate_qparams()[0].numpy()[:, None], scale)
    stored = np.clip(np.rint(weight.numpy() / scale), grid.low, grid.high)  # graph.fold_weight_quantization
    assert np.array_equal(weight_scale(weight, grid).numpy(), scale)
    found = fake_quantize_weight(weight, grid)
    np.testing.assert_array_equal(found.numpy(), (stored * scale).astype(np.float32))
    assert not found[weight == 0].any()
    if grid.neighbours:
        assert 127 <= largest_neighbour_sum(stored.astype(np.int8)) <= 128
    else:
        assert np.abs(stored).max() in (grid.high, -grid.low)


@pytest.mark.parametrize("limits", [(-1.3, 2.9), (0.5, 3.0), (-4.0, -1.0), (0.0, 0.0), (-0.17, 11.0)])
def test_scales_of_inputs_are_those_of_the_exporter(limits):
    observer = MinMaxObserver(dtype=torch.uint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=255)
    observer(torch.tensor(limits))
    scale, zero_point = input_scale(torch.tensor(limits))
    assert (scale, zero_point) == observer.calculate_qparams()
    values = torch.linspace(-5, 12, 400)
    expected = (np.clip(np.rint(values / scale) + zero_point.numpy(), 0, 255) - zero_point.numpy()) * scale.numpy()
    np.testing.assert_allclose(fake_quantize_input(values, torch.tensor(limits)), expected, atol=1e-6)
    assert not fake_quantize_input(torch.zeros(1), torch.tensor(limits)).any()


def test_gradients_pass_straight_through_and_stop_where_inputs_are_clipped():
    weight = torch.tensor([[0.013, -0.5, 1.0], [0.0, 2.0, -3.0]], requires_grad=True)  # 1.0 and 2.0 are the largest
    upstream = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]])
    (fake_quantize_weight(weight, INT8) * upstream).sum().backward()
    assert torch.equal(weight.grad, upstream)
    values = torch.tensor([-2.0, -0.9, 0.0, 0.9, 2.0], requires_grad=True)
    fake_quantize_input(values, torch.tensor([-1.0, 1.0])).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


def test_layers_are_the_token_linears_of_the_encoder():
    names = token_linear_names(tiny_bert())
    assert len(names) == 12
    assert all("encoder.layer" in name for name in names)
    assert token_linear_names(tiny_bert(BertForQuestionAnswering)) == names
    left = token_linear_names(tiny_bert(), ("layer.1", "query"))
    assert len(left) == 5
    with pytest.raises(ConfigError, match=r"quantization\.exclude"):
        token_linear_names(tiny_bert(), ("encoder",))


def test_a_detached_model_is_the_model_of_before():
    model = tiny_bert()
    names, before = list(model.state_dict()), model(**text()).logits
    fake = attach(model)
    with fake.attached():
        model.train()
        model(**text())
        model.eval()
        quantized = model(**text()).logits
        assert list(model.state_dict()) == names
    assert torch.equal(model(**text()).logits, before)
    assert 0 < (quantized - before).abs().max() < 0.1


def test_ranges_leave_padding_out():
    model = tiny_bert()
    for module in model.modules():
        module.p = 0.0  # no dropout, so that both runs compute the same
    model.bert.embeddings.word_embeddings.weight.data[7] *= 50
    plain = text(2, 5)
    padded = {name: torch.nn.functional.pad(value, (0, 3)) for name, value in plain.items()}
    padded["input_ids"][:, 5:] = 7
    found = []
    for batch in (plain, padded):
        fake = attach(model.train())
        with fake.attached():
            model(**batch)
        found.append(fake.ranges.layers)
    for name, limits in found[0].items():
        assert found[1][name] == pytest.approx(limits, abs=1e-4)


def test_ranges_are_the_mean_of_the_batches_and_stay_once_frozen():
    model = tiny_bert()
    fake = attach(model, [QUERY])
    inputs = [torch.tensor([[[-1.0] * 16, [3.0] * 16]]), torch.tensor([[[-2.0] * 16, [1.0] * 16]])]
    query = model.get_submodule(QUERY).train()
    with fake.attached():
        for values in inputs:
            query(values)
        assert fake.ranges.layers == {QUERY: (-1.5, 2.0)}
        query.eval()(inputs[0])
        assert fake.ranges.batches == 2
        fake.freeze()
        query.train()(inputs[1])
    assert fake.ranges.layers == {QUERY: (-1.5, 2.0)}
    assert fake.ranges.batches == 2


def test_ranges_survive_their_file(tmp_path):
    model = tiny_bert()
    fake = attach(model)
    with fake.attached():
        model.train()(**text())
    fake.freeze()
    fake.ranges.write(tmp_path)
    again = attach(model)
    again.restore(read_ranges(tmp_path))
    assert again.ranges == fake.ranges
    assert again.frozen
    (tmp_path / RANGES_FILE).write_text('{"layers": 3}')
    with pytest.raises(CheckpointError, match="not readable as activation ranges"):
        read_ranges(tmp_path)
    (tmp_path / RANGES_FILE).unlink()
    assert read_ranges(tmp_path) is None


def test_inputs_that_are_no_numbers_are_refused():
    model = tiny_bert()
    fake = attach(model, [QUERY])
    with fake.attached():
        model.get_submodule(QUERY).train()(torch.full((1, 2, 16), float("nan")))
    with pytest.raises(ConfigError, match=f"{QUERY}.*lower the learning rate"):
        _ = fake.ranges
