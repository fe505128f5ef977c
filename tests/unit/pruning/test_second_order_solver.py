# SPDX-License-Identifier: Apache-2.0
"""A matrix pruned by second order holds its pattern and answers nearer to the dense one than magnitude does."""

import numpy as np
import pytest
import torch

from sparse_deploy.errors import DataError
from sparse_deploy.pruning.hessian import HessianSum, factorize
from sparse_deploy.pruning.magnitude import magnitude_masks
from sparse_deploy.pruning.solver import output_error, prune_matrix, refit
from sparse_deploy.sparsity.pattern import SparsityPattern, holds_pattern

PATTERNS = [("unstructured", 0.7), ("1:2", 0.5), ("2:4", 0.5), ("4x1", 0.8), ("1x4", 0.8)]
ROWS, COLUMNS = 32, 96


@pytest.fixture(scope="module")
def layer() -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and inputs whose features depend on each other."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(COLUMNS // 3, COLUMNS, generator=generator)
    inputs = torch.randn(2000, COLUMNS // 3, generator=generator) @ mixing
    inputs += 0.3 * torch.randn(2000, COLUMNS, generator=generator)
    return torch.randn(ROWS, COLUMNS, generator=generator), inputs


@pytest.fixture(scope="module")
def curvature(layer):
    total = HessianSum(COLUMNS)
    for part in layer[1].split(700):
        total.add(part)
    return factorize(total.mean(), "w")


def test_factor_is_that_of_the_damped_inverse(layer, curvature):
    inputs = layer[1].double()
    hessian = 2 / len(inputs) * inputs.T @ inputs
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(COLUMNS)
    torch.testing.assert_close(curvature.hessian.double(), damped, rtol=1e-4, atol=1e-4)
    product = (curvature.factor.T @ curvature.factor).double() @ damped
    torch.testing.assert_close(product, torch.eye(COLUMNS, dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("pattern", "share"), PATTERNS)
def test_zeros_hold_pattern_and_share_and_the_output_stays_nearer_than_by_magnitude(layer, curvature, pattern, share):
    weight, wanted = layer[0], SparsityPattern.parse(pattern)
    found = prune_matrix(weight, curvature, wanted, share)
    zeros = found.zeros.numpy()
    assert holds_pattern(zeros, wanted)
    assert zeros.mean() == pytest.approx(share, abs=0.002)
    assert np.array_equal(found.weight.numpy() == 0, zeros)
    by_magnitude = weight * torch.from_numpy(~magnitude_masks({"w": weight}, wanted, share, "layer")["w"])
    assert found.error < 0.5 * output_error(weight, by_magnitude, curvature.hessian)


def test_refit_is_the_least_squares_solution_of_each_row(layer, curvature):
    weight = layer[0]
    zeros = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1)) < 0.6
    found = refit(weight, weight.masked_fill(zeros, 0.0), zeros, curvature.hessian, steps=200)
    hessian = curvature.hessian.double()
    for row in range(0, ROWS, 8):
        keep = ~zeros[row]
        exact = torch.linalg.solve(hessian[keep][:, keep], hessian[keep] @ weight[row].double())
        torch.testing.assert_close(found[row, keep].double(), exact, rtol=2e-3, atol=2e-3)


def test_zeros_that_are_there_stay_and_count(layer, curvature):
    sparse = layer[0] * torch.from_numpy(
        ~magnitude_masks({"w": layer[0]}, SparsityPattern.parse("unstructured"), 0.4, "layer")["w"]
    )
    for pattern, share in PATTERNS[:2]:
        found = prune_matrix(sparse, curvature, SparsityPattern.parse(pattern), share)
        assert bool(found.zeros[sparse == 0].all())
    assert prune_matrix(sparse, curvature, SparsityPattern.parse("unstructured"), 0.7).zeros.float().mean() < 0.702
    sparser = prune_matrix(sparse, curvature, SparsityPattern.parse("unstructured"), 0.2)
    assert bool((sparser.zeros == (sparse == 0)).all())


def test_a_layer_that_saw_only_zeros_is_refused_by_name():
    with pytest.raises(DataError, match=r"encoder.3.weight: .*only zeros"):
        factorize(torch.zeros(8, 8), "encoder.3.weight")
    with pytest.raises(DataError, match="not finite"):
        factorize(torch.full((8, 8), float("nan")), "w")


def test_a_dead_input_and_repeated_inputs_are_no_obstacle():
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 3)
    inputs[:, 5] = 0.0
    total = HessianSum(12)
    total.add(inputs)
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    found = prune_matrix(weight, factorize(total.mean(), "w"), SparsityPattern.parse("unstructured"), 0.5)
    assert bool(torch.isfinite(found.weight).all())
    assert found.error < 0.02


def test_damping_is_raised_for_a_singular_hessian_up_to_a_limit():
    """Correlations above 1 can't come from inputs, but from their rounding: no Cholesky factor without more damping."""
    assert factorize(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), "w").damping == 0.01
    assert factorize(torch.tensor([[1.0, 1.05], [1.05, 1.0]]), "w").damping == 0.1
    with pytest.raises(DataError, match=r"encoder.3.weight: the Hessian .* singular, even with 100% .*--exclude"):
        factorize(torch.tensor([[1.0, 3.0], [3.0, 1.0]]), "encoder.3.weight")
