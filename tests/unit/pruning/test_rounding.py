# SPDX-License-Identifier: Apache-2.0
"""Rounding with compensation stays on the grid, keeps zeros, and changes the output less than rounding to nearest."""

import torch

from sparse_deploy.pruning.hessian import HessianSum
from sparse_deploy.pruning.rounding import round_compensated
from sparse_deploy.pruning.solver import output_error
from sparse_deploy.sparsity.weight_grid import GRIDS, LARGEST_NEIGHBOUR_SUM, WeightGrid, largest_neighbour_sum


def test_the_output_changes_less_than_by_nearest_and_zeros_stay():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3000, 24, generator=generator) @ torch.randn(24, 96, generator=generator)
    total = HessianSum(96)
    total.add(inputs + 0.3 * torch.randn(3000, 96, generator=generator))
    weight = torch.randn(32, 96, generator=generator)
    weight[torch.rand(32, 96, generator=generator) < 0.5] = 0.0
    grid = WeightGrid(-8, 7)
    scale = grid.scale(weight, torch)
    found = round_compensated(weight, total.mean(), scale, grid, "w")
    steps = found / scale[:, None]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert steps.min() >= -8.001
    assert steps.max() <= 7.001
    assert bool((found[weight == 0] == 0).all())
    nearest = (weight / scale[:, None]).round().clamp(-8, 7) * scale[:, None]
    assert output_error(weight, found, total.mean()) < 0.5 * output_error(weight, nearest, total.mean())


def test_neighbours_stay_within_16_bits():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 32, generator=generator) @ torch.randn(32, 32, generator=generator)
    total = HessianSum(32)
    total.add(inputs)
    weight = torch.rand(64, 32, generator=generator) + 0.5  # of one sign, so that all neighbours add up
    scale = GRIDS["any"].scale(weight, torch)
    found = round_compensated(weight, total.mean(), scale, GRIDS["any"], "w") / scale[:, None]
    assert largest_neighbour_sum(found.round().int().numpy()) <= LARGEST_NEIGHBOUR_SUM
