# SPDX-License-Identifier: Apache-2.0
"""Static INT8 from PyTorch to the fused integer kernels of ONNX Runtime and OpenVINO."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from tiny_architectures import tiny_model

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.errors import QuantizationError
from sparse_deploy.export.exporter import ExportableModel, to_onnx
from sparse_deploy.graph.fold_weight_quantization import FoldWeightQuantization
from sparse_deploy.graph.model_file import save_onnx
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.weights import read_weights, zero_masks
from sparse_deploy.quantization.calibration import calibration_batches
from sparse_deploy.quantization.neural_compressor import StaticQuantizer, quantize_static
from sparse_deploy.quantization.smoothing import linears, token_linears

pytestmark = pytest.mark.usefixtures("reused_traces")

ENCODER_LINEARS = 12  # query, key, value, attention output, intermediate, output: two layers


def quantized(model, features, progress=None, **settings):
    section = QuantizationSection(**settings)
    return quantize_static(model, calibration_batches(features, section), section, progress)


def folded(graph):
    ids = torch.zeros((2, 7), dtype=torch.int64)
    example = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    return run_passes(to_onnx(graph, example, ["logits"], 20), FoldWeightQuantization())


def run(model, batch):
    with torch.no_grad():
        return model(*(torch.from_numpy(batch[name]) for name in MODEL_INPUTS))[0].numpy()


@pytest.fixture(scope="module")
def minmax(model, features):
    """The default quantized graph, and the messages of ``progress``."""
    calls = []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = quantized(model, features, lambda done, total: calls.append((done, total)))
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    return graph, calls


@pytest.fixture(scope="module")
def int8_model(minmax):
    return folded(minmax[0])


@pytest.fixture(scope="module")
def int8_file(int8_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model_int8.onnx"
    save_onnx(int8_model, path)
    return path


def test_close_to_fp32_on_padded_batches_and_batch_one(model, minmax, features, padded_batch):
    single = {name: values[None] for name, values in features[-1].items()}
    for batch in (padded_batch, single):
        found, expected = run(minmax[0], batch), run(model, batch)
        assert not np.array_equal(found, expected)
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_histogram_observer_chooses_other_ranges_and_prints_nothing(model, minmax, features, padded_batch, capfd):
    found = run(quantized(model, features, observer="kl"), padded_batch)
    assert not np.array_equal(found, run(minmax[0], padded_batch))
    np.testing.assert_allclose(found, run(model, padded_batch), atol=0.1)
    captured = capfd.readouterr()
    assert "quant" not in (captured.out + captured.err).lower()


def test_percentile_and_smoothing_follow_the_settings(model, minmax, features, padded_batch):
    whole = run(quantized(model, features, observer="percentile", percentile=100.0, smoothing=0.0), padded_batch)
    cut = run(quantized(model, features, observer="percentile", percentile=90.0, smoothing=0.0), padded_batch)
    expected = run(model, padded_batch)
    assert np.abs(cut - expected).mean() > 2 * np.abs(whole - expected).mean()
    names = [name for name, _ in quantized(model, features, smoothing=0.0).named_buffers()]
    assert not [name for name in names if name.endswith("smoothing")]


def test_several_observers_share_one_calibration(model, features):
    settings = QuantizationSection()
    quantizer = StaticQuantizer(model, calibration_batches(features, settings), settings)
    found = quantizer.quantize(0.0, ("minmax", "percentile", "kl"))
    assert list(found.scales) == ["minmax", "percentile", "kl"]
    alone = quantizer.quantize(0.0, ("kl",))
    assert alone.scales["kl"] == found.scales["kl"]
    assert len(found.scales["kl"]) == ENCODER_LINEARS
    assert found.scales["kl"] != found.scales["minmax"]


def test_progress_counts_batches(minmax, features):
    batches = len(calibration_batches(features, QuantizationSection()))
    assert minmax[1] == [(done, batches) for done in range(1, batches + 1)]


def test_only_token_linears_are_quantized(int8_model):
    int8 = {weight.name for weight in read_weights(int8_model) if weight.quantized}
    fp32 = {weight.name for weight in read_weights(int8_model) if not weight.quantized}
    assert len(int8) == ENCODER_LINEARS
    assert all("encoder.layer" in name for name in int8)
    assert fp32 == {"model.bert.pooler.dense.weight", "model.classifier.weight"}


def test_excluded_layers_stay_fp32(model, features):
    weights = {
        w.name: w for w in read_weights(folded(quantized(model, features, exclude=("layer.0.output.dense", "query"))))
    }
    fp32 = {name.removeprefix("model.bert.") for name, weight in weights.items() if not weight.quantized}
    assert fp32 == {
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.1.attention.self.query.weight",
        "encoder.layer.0.output.dense.weight",
        "pooler.dense.weight",
        "model.classifier.weight",
    }


def test_products_inside_an_activation_stay_fp32_and_an_unused_pooler_is_left_out(features):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, hidden_act="gelu_new", attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    gelu_new = ExportableModel(BertModel(config).eval(), ["last_hidden_state"])
    graph = quantized(gelu_new, features)
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    # One per distinct input: query/key/value share one; attention output, intermediate, output have their own.
    assert sum(node.target is quantize for node in graph.graph.nodes) == 4


def test_products_of_constants_stay_fp32():
    deberta = ExportableModel(tiny_model("deberta-v2"), ["logits"]).eval()
    ids = torch.zeros((2, 7), dtype=torch.int64)
    graph = torch.export.export(deberta, (ids, torch.ones_like(ids))).module().graph
    # Each layer also multiplies the table of relative positions by the weights of query and key.
    assert (len(linears(graph)), len(token_linears(graph))) == (18, 12)


def test_zeros_of_the_checkpoint_are_zeros_of_the_file(model, int8_model):
    masks = zero_masks(int8_model)
    for name, parameter in model.named_parameters():
        if name in masks:
            required = (parameter == 0).numpy()
            assert masks[name].shape == required.shape
            assert not (required & ~masks[name]).any(), name
    assert masks["model.bert.encoder.layer.1.output.dense.weight"].mean() > 0.6


def test_compensated_rounding_keeps_zeros_and_scales_and_moves_other_weights(model, features, int8_model):
    compensated = folded(quantized(model, features, weight_rounding="compensated"))
    nearest, found = ({w.name: w for w in read_weights(graph) if w.quantized} for graph in (int8_model, compensated))
    assert nearest.keys() == found.keys()
    masks = zero_masks(compensated)
    for name, weight in nearest.items():
        np.testing.assert_array_equal(weight.scale, found[name].scale)
        required = (model.state_dict()[name] == 0).numpy()
        assert not (required & ~masks[name]).any(), name
    assert any(not np.array_equal(weight.values, found[name].values) for name, weight in nearest.items())


def test_onnxruntime_runs_every_encoder_linear_in_int8(int8_file, tmp_path, model, padded_batch):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(int8_file, options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["MatMulIntegerToFloat"] == ENCODER_LINEARS
    assert not operators["DequantizeLinear"]
    np.testing.assert_allclose(session.run(None, padded_batch)[0], run(model, padded_batch), atol=0.1)


def test_openvino_runs_every_encoder_linear_in_int8(int8_file, model, padded_batch):
    compiled = openvino.Core().compile_model(
        int8_file, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    integer = 0
    for operator in compiled.get_runtime_model().get_ops():
        types = [port.get_element_type().get_type_name() for port in operator.inputs()[:2]]
        integer += types == ["u8", "i8"]
    assert integer == ENCODER_LINEARS
    np.testing.assert_allclose(compiled(padded_batch)[0], run(model, padded_batch), atol=0.1)


def test_no_calibration_data(model):
    with pytest.raises(QuantizationError, match="expected calibration batches"):
        quantize_static(model, [], QuantizationSection())


def test_nothing_left_to_quantize(model, features):
    with pytest.raises(QuantizationError, match="no Linear layer is left"):
        quantized(model, features, exclude=("encoder",))


class _Untraceable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, input_ids, attention_mask, token_type_ids):
        return input_ids.numpy().tolist()[0][0]


def test_reason_of_a_failed_export_is_passed_on(features):
    with pytest.raises(QuantizationError, match=r"could not quantize _Untraceable: Failed to export the model: .+"):
        quantized(_Untraceable(), features)
