# SPDX-License-Identifier: Apache-2.0
"""Smoothing: the same function, the same zeros, only where there are outliers, and not in the caller's model."""

import copy

import pytest
import torch

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.quantization.calibration import calibration_batches
from sparse_deploy.quantization.smoothing import record_outliers, smooth_outliers

LAYER = "model.bert.encoder.layer.0.intermediate.dense"


@pytest.fixture(scope="module")
def model(model):
    """One outlier channel before layer 0's feed-forward block."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.model.bert.encoder.layer[0].attention.output.LayerNorm.weight[5] = 60.0
    return model


@pytest.fixture(scope="module")
def exported(model, features):
    ids = torch.zeros((2, 7), dtype=torch.int64)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    graph = torch.export.export(model, inputs, dynamic_shapes=(dynamic,) * 3).module()
    with torch.no_grad():
        ranges = record_outliers(graph, calibration_batches(features, QuantizationSection()))
        smooth_outliers(graph, ranges, 0.8)
    return graph


def test_same_result_in_another_shape(model, exported, padded_batch):
    inputs = [torch.from_numpy(padded_batch[name]) for name in MODEL_INPUTS]
    with torch.no_grad():
        torch.testing.assert_close(exported(*inputs)[0], model(*inputs)[0], atol=2e-5, rtol=1e-4)


def test_outlier_moves_from_input_to_weight(model, exported):
    factor = exported.get_buffer(f"{LAYER}.smoothing")
    assert factor.argmin() == 5
    smoothed, original = exported.get_parameter(f"{LAYER}.weight"), model.get_parameter(f"{LAYER}.weight")
    torch.testing.assert_close(smoothed * factor, original)
    assert not torch.equal(smoothed, original)


def test_zeros_stay_zeros(model, exported):
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter == 0, exported.get_parameter(name) == 0), name


def test_layers_with_a_shared_input_are_left_alone(exported):
    assert not [
        name for name, _ in exported.named_buffers() if name.endswith(".smoothing") and "attention.self" in name
    ]


def test_layers_without_outliers_are_left_alone(exported):
    smoothed = [name for name, _ in exported.named_buffers() if name.endswith(".smoothing")]
    assert f"{LAYER}.smoothing" in smoothed
    assert not [name for name in smoothed if "attention.output" in name]
