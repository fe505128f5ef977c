# SPDX-License-Identifier: Apache-2.0
"""Ranges and weights of quantization-aware training reach the INT8 graph unchanged."""

import numpy as np
import onnxruntime
import pytest
import torch

from sparse_deploy.activation_ranges import ActivationRanges
from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.errors import QuantizationError
from sparse_deploy.export.exporter import example_inputs, to_onnx
from sparse_deploy.graph.fold_weight_quantization import FoldWeightQuantization
from sparse_deploy.graph.model_file import save_onnx
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.weights import Orientation, read_weights
from sparse_deploy.quantization.calibration import calibration_batches
from sparse_deploy.quantization.neural_compressor import quantize_static
from sparse_deploy.sparsity.weight_grid import GRIDS
from sparse_deploy.training.fake_quantization import (
    FakeQuantization,
    input_scale,
    token_linear_names,
    weight_scale,
)

pytestmark = pytest.mark.usefixtures("reused_traces")
INT8 = GRIDS["any"]


@pytest.fixture(scope="module")
def fake(model, features) -> FakeQuantization:
    """Ranges as one pass over some text in training would leave them, on the model that the others share."""
    inner = model.model
    found = FakeQuantization(inner, token_linear_names(inner), INT8)
    rates = [(module, module.p) for module in inner.modules() if isinstance(module, torch.nn.Dropout)]
    for module, _ in rates:
        module.p = 0.0
    with found.attached(), torch.no_grad():
        inner.train()
        for feature in features[:6]:
            inner(**{name: torch.from_numpy(values)[None] for name, values in feature.items()})
    inner.eval()
    for module, rate in rates:
        module.p = rate
    found.freeze()
    return found


def quantized(model, features, learned, **settings) -> torch.fx.GraphModule:
    section = QuantizationSection(**settings)
    return quantize_static(model, calibration_batches(features, section), section, learned=learned)


def onnx_of(graph):
    return run_passes(to_onnx(graph, example_inputs(), ["logits"], 20), FoldWeightQuantization())


def answers(graph, features, path) -> np.ndarray:
    save_onnx(onnx_of(graph), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = [{name: values[None] for name, values in feature.items()} for feature in features]
    return np.concatenate([session.run(None, batch)[0] for batch in batches])


def input_scales(model) -> list[float]:
    initializers = {value.name: value.const_value.numpy() for value in model.graph.initializers.values()}
    nodes = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    return [float(initializers[node.inputs[1].name]) for node in nodes]


@pytest.fixture(scope="module")
def learned_graph(model, features, fake):
    return quantized(model, features, fake.ranges)


def test_exported_scales_are_the_learnt_ranges_and_the_trained_grid(model, learned_graph, fake):
    exported = onnx_of(learned_graph)
    expected = {float(input_scale(torch.tensor(limits))[0]) for limits in fake.ranges.layers.values()}
    found = input_scales(exported)
    assert len(found) == 8  # query, key and value share one
    assert set(found) == expected
    parameters = dict(model.named_parameters())
    int8 = [weight for weight in read_weights(exported) if weight.quantized]
    assert len(int8) == 12
    for weight in int8:
        trained = parameters[weight.name].detach()
        scale = weight_scale(trained, INT8)
        np.testing.assert_array_equal(weight.scale.ravel(), scale.numpy().ravel(), err_msg=weight.name)
        rounded = torch.round(trained / scale).clamp(INT8.low, INT8.high).numpy()
        stored = weight.values if weight.orientation is Orientation.OUT_IN else weight.values.T
        np.testing.assert_array_equal(stored, rounded)


def test_int8_answers_as_the_fake_quantized_model_does(model, features, fake, learned_graph, tmp_path):
    with fake.attached(), torch.no_grad():
        trained = np.concatenate(
            [
                model(*(torch.from_numpy(feature[name])[None] for name in MODEL_INPUTS))[0].numpy()
                for feature in features
            ]
        )
    ours = np.abs(answers(learned_graph, features, tmp_path / "learned.onnx") - trained)
    calibrated = np.abs(answers(quantized(model, features, None), features, tmp_path / "calibrated.onnx") - trained)
    assert ours.max() < 0.01
    assert ours.mean() < calibrated.mean() / 5


def test_layers_without_a_range_are_calibrated(model, features, fake):
    some = {name: limits for name, limits in fake.ranges.layers.items() if "layer.0" in name}
    found = input_scales(onnx_of(quantized(model, features, fake.ranges.model_copy(update={"layers": some}))))
    learned = {float(input_scale(torch.tensor(limits))[0]) for limits in some.values()}
    assert len(found) == 8
    assert len(set(found) & learned) == 4


def test_a_changed_range_changes_the_scale(model, features, fake):
    name, (low, high) = next(iter(fake.ranges.layers.items()))
    wider = dict.fromkeys((name, name.replace("query", "key"), name.replace("query", "value")), (2 * low, 2 * high))
    ranges = fake.ranges.model_copy(update={"layers": {**fake.ranges.layers, **wider}})
    found = input_scales(onnx_of(quantized(model, features, ranges)))
    assert float(input_scale(torch.tensor((2 * low, 2 * high)))[0]) in found


def test_excluded_layers_stay_fp32(model, features, fake):
    exported = onnx_of(quantized(model, features, fake.ranges, exclude=("layer.1",)))
    assert len([weight for weight in read_weights(exported) if weight.quantized]) == 6


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"layers": {"other.dense": (0.0, 1.0)}}, {}, r"found only those of 'other\.dense'"),
        ({}, {"target_cpu": "avx2"}, r"-127 to 127, sums of neighbours up to 128; found -64 to 63; set"),
        ({"weight_limits": (-128, 127), "weight_neighbours": False}, {}, "weights of -128 to 127; found -127 to 127, "),
        ({"layers": {"layer.0.attention.self.query": (0.0, 1.0), "layer.0.attention.self.key": (0.0, 2.0)}}, {},
         "expected one range"),
    ],
)  # fmt: skip
def test_ranges_that_do_not_fit_are_refused(model, features, fake, change, settings, message):
    ranges = ActivationRanges(**(fake.ranges.model_dump() | change))
    with pytest.raises(QuantizationError, match=message):
        quantized(model, features, ranges, **settings)
