# SPDX-License-Identifier: Apache-2.0
"""Passes that make a QDQ graph with FP32 weights and change it: precision given back, other scales, zeros kept."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from tiny_graphs import inputs, make_model

from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph.fold_weight_quantization import FoldWeightQuantization
from sparse_deploy.graph.name_weights import NameWeights
from sparse_deploy.graph.quantize_products import ProductQuantization, QuantizeProducts
from sparse_deploy.graph.quantized_products import quantized_products
from sparse_deploy.graph.restore_precision import RestorePrecision
from sparse_deploy.graph.set_activation_scales import SetActivationScales
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.transpose_weights import TransposeWeights
from sparse_deploy.graph.weights import read_weights, zero_masks

BATCH = inputs(3, 11)
CALIBRATION = [inputs(4, tokens, padded=False) for tokens in (5, 9, 12)]


def fp32_graph(model: torch.nn.Module, module: torch.nn.Module) -> ir.Model:
    """A module of the model as ONNX, its weights named."""
    from sparse_deploy.export.exporter import example_inputs, to_onnx

    graph = to_onnx(module, example_inputs(), ("logits",), 20)
    return run_passes(graph, NameWeights({name: value.numpy() for name, value in model.state_dict().items()}))


def quantized(model: torch.nn.Module, observers: tuple[str, ...]) -> tuple[ir.Model, dict]:
    """The FP32 graph with its products quantized, and the scales by observer."""
    from sparse_deploy.config.schema import QuantizationSection
    from sparse_deploy.export.exporter import ExportableModel, quiet

    with quiet():
        from sparse_deploy.quantization.neural_compressor import StaticQuantizer
    module = ExportableModel(model, ("logits",)).eval()
    static = StaticQuantizer(module, CALIBRATION, QuantizationSection()).quantize(0.8, observers)
    return run_passes(fp32_graph(model, module), QuantizeProducts(static.products)), static.scales


@pytest.fixture(scope="module")
def model():
    model = make_model("bert")
    with torch.no_grad():  # an outlier channel, so that smoothing has something to do
        model.bert.encoder.layer[0].attention.output.LayerNorm.weight[5] = 60.0
    return model


@pytest.fixture(scope="module")
def parameters(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def found(model):
    """The master graph, and the scales of three observers."""
    return quantized(model, ("minmax", "percentile", "kl"))


@pytest.fixture(scope="module")
def master(found):
    return found[0]


@pytest.fixture(scope="module")
def names(master):
    return [product.name for product in quantized_products(master)]


def finished(graph: ir.Model) -> ir.Model:
    return run_passes(graph, FoldWeightQuantization(), TransposeWeights())


def logits(graph: ir.Model) -> np.ndarray:
    return onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString()).run(None, BATCH)[0]


@pytest.fixture(scope="module")
def expected(model):
    with torch.no_grad():
        return model(**{name: torch.from_numpy(values) for name, values in BATCH.items()}).logits.numpy()


@pytest.mark.parametrize("name", ["bert", "albert"])  # ALBERT's layers share their weights, not the scales of inputs
def test_the_quantized_graph_is_what_the_exporter_makes_of_the_converted_one(name):
    from sparse_deploy.config.schema import QuantizationSection
    from sparse_deploy.export.exporter import ExportableModel
    from sparse_deploy.quantization.neural_compressor import quantize_static

    model = make_model(name)
    converted = quantize_static(ExportableModel(model, ("logits",)).eval(), CALIBRATION, QuantizationSection())
    expected = logits(finished(fp32_graph(model, converted)))
    master, scales = quantized(model, ("minmax",))
    np.testing.assert_array_equal(logits(finished(master.clone())), expected)
    again = run_passes(master, SetActivationScales(scales["minmax"]))
    np.testing.assert_array_equal(logits(finished(again)), expected)


def test_other_products_than_the_graph_has_are_refused(master):
    how = ProductQuantization(np.ones((2, 2), np.float32), np.ones(2, np.float32), (-127, 127), 1.0, 0)
    with pytest.raises(
        QuantizationError, match=r"no\.such\.weight: expected 1 matrix products of this weight, found 0"
    ):
        run_passes(master.clone(), QuantizeProducts({"no.such.weight": [how]}))


def test_every_linear_of_the_encoder_is_a_product(names):
    assert len(names) == 12
    assert all(name.startswith("bert.encoder.layer") for name in names)


def test_all_restored_is_the_fp32_model(master, names, parameters, expected):
    graph = run_passes(master.clone(), RestorePrecision(names), TransposeWeights())
    operators = Counter(node.op_type for node in graph.graph)
    assert not operators["QuantizeLinear"]
    assert not operators["DequantizeLinear"]
    assert not [value for value in graph.graph.initializers if value.endswith(".smoothing")]
    for weight in read_weights(graph):
        np.testing.assert_allclose(
            weight.values, parameters[weight.name].T, rtol=1e-6
        ) if "encoder" in weight.name else 0
    np.testing.assert_allclose(logits(graph), expected, atol=1e-5)


def test_one_restored_leaves_the_others_int8(master, names, expected):
    key = names[1]
    plain, restored = finished(master.clone()), finished(run_passes(master.clone(), RestorePrecision([key])))
    fp32 = [weight.name for weight in read_weights(restored) if not weight.quantized and "encoder" in weight.name]
    assert fp32 == [key]
    # Query and value still read the quantized input.
    count = Counter(node.op_type for node in restored.graph)
    before = Counter(node.op_type for node in plain.graph)
    assert before["QuantizeLinear"] == count["QuantizeLinear"]
    assert before["DequantizeLinear"] - count["DequantizeLinear"] == 2
    assert not np.array_equal(logits(restored), logits(plain))
    np.testing.assert_allclose(logits(restored), expected, atol=0.2)


def test_the_master_is_not_changed(master, names):
    before = ir.to_proto(master).SerializeToString()
    finished(run_passes(master.clone(), RestorePrecision(names[:5])))
    assert ir.to_proto(master).SerializeToString() == before


def test_zeros_are_kept(master, names, parameters):
    for kept in (names[:4], names):
        masks = zero_masks(finished(run_passes(master.clone(), RestorePrecision(kept))))
        for name in names:
            required = parameters[name] == 0
            assert required.any()
            assert (masks[name] | ~required).all(), name


def test_an_unknown_name_is_refused(master):
    with pytest.raises(QuantizationError, match=r"no\.such\.weight: expected a quantized matrix product"):
        run_passes(master.clone(), RestorePrecision(["no.such.weight"]))


def test_own_scales_change_nothing(found):
    master, scales = found
    same = run_passes(master.clone(), SetActivationScales(scales["minmax"]))
    np.testing.assert_array_equal(logits(finished(same)), logits(finished(master.clone())))


def test_scales_of_another_observer_change_the_answers_a_little(found, expected):
    master, scales = found
    for observer in ("percentile", "kl"):
        other = finished(run_passes(master.clone(), SetActivationScales(scales[observer])))
        assert not np.array_equal(logits(other), logits(finished(master.clone())))
        np.testing.assert_allclose(logits(other), expected, atol=0.3)


def test_a_missing_scale_is_refused(found):
    master, scales = found
    some = dict(list(scales["kl"].items())[1:])
    with pytest.raises(QuantizationError, match="expected a scale for its input"):
        run_passes(master.clone(), SetActivationScales(some))
