# SPDX-License-Identifier: Apache-2.0
"""Ranges of activations: the values that each method cuts off, and several observers at once."""

import numpy as np
import pytest
import torch
from torchao.quantization.pt2e import MinMaxObserver

from sparse_deploy.quantization.observers import PercentileObserver, activation_observer

U8 = {"dtype": torch.uint8, "qscheme": torch.per_tensor_affine, "quant_min": 0, "quant_max": 255}


@pytest.fixture
def values():
    torch.manual_seed(0)
    return [torch.randn(200, 50) + 0.5 for _ in range(5)] + [torch.tensor([[40.0] * 50])]


def observed(observer, values):
    for batch in values:
        observer(batch)
    return observer


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_the_percentile_is_that_of_all_values(values, percentile):
    observer = observed(PercentileObserver(percentile, **U8), values)
    low, high = observer._non_linear_param_search()
    everything = torch.cat([batch.flatten() for batch in values]).numpy()
    tail = (100 - percentile) / 2
    expected = np.percentile(everything, [tail, 100 - tail])
    np.testing.assert_allclose([low, high], expected, atol=0.05)


def test_everything_is_the_whole_range(values):
    scale, zero_point = observed(PercentileObserver(100.0, **U8), values).calculate_qparams()
    expected, expected_zero = observed(MinMaxObserver(**U8), values).calculate_qparams()
    torch.testing.assert_close(scale, expected, rtol=2e-3, atol=0)
    assert zero_point == expected_zero


def test_a_constant_tensor_has_a_scale():
    scale, _ = observed(PercentileObserver(99.0, **U8), [torch.full((3, 4), 2.0)]).calculate_qparams()
    assert torch.isfinite(scale)
    assert scale > 0


def test_observers_watch_together_and_the_first_counts(values):
    like = MinMaxObserver(**U8)
    joint = observed(activation_observer(like, ("kl", "minmax", "percentile"), 99.0), values)
    scales = joint.scales()
    assert list(scales) == ["kl", "minmax", "percentile"]
    assert joint.calculate_qparams()[0].item() == pytest.approx(scales["kl"][0])
    # 40 is an outlier: minmax keeps it, percentile cuts it off, kl weighs what clipping it would cost.
    assert scales["minmax"][0] > 4 * scales["percentile"][0]
    assert scales["minmax"][0] > scales["kl"][0]
    assert joint.dtype == torch.uint8
