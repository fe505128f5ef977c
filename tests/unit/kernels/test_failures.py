# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out, at each allocation of the library in turn: an error in its place, and the next call answers."""

import ctypes

import failing_memory
import numpy as np
import pytest
from sparse_operators import layer_constants, linear_constants

from sparse_deploy.errors import ArtifactError
from sparse_deploy.kernels import abi
from sparse_deploy.kernels.native import LINEARS, Layer, Linear, RunError, ThreadPool, Weight

# By tokens, and by columns (fewer than 8 tokens for each of the threads); serial.
RUNS = [(1, 5), (2, 5), (2, 40)]


def fail_each(attempt, check, **options):
    return failing_memory.fail_each(abi.core(), attempt, check, (RunError, ArtifactError), **options)


def linears(constants):
    return {name: tuple(constants[3 * index : 3 * index + 3]) for index, name in enumerate(LINEARS)}


@pytest.fixture(scope="module")
def layer():
    constants = list(layer_constants(64, 96).values())
    return Layer(linears(constants), constants[18:22], heads=4, epsilon=1e-12)


def modern_layer():
    """Norms in front, a gate, rotary positions and a window."""
    constants = layer_constants(64, 96) | {
        f"output_{name}": value for name, value in linear_constants(64, 48).items()
    }  # fmt: skip
    values = list(constants.values())
    return Layer(
        linears(values), values[18:22], heads=4, epsilon=1e-5, norm_first=True, gated=True, rotary=True, window=3
    )  # fmt: skip


def turns(tokens):
    angles = np.arange(tokens * 16, dtype=np.float32).reshape(tokens, 16)
    return np.cos(angles), np.sin(angles)


@pytest.mark.parametrize(("threads", "tokens"), RUNS)
def test_a_linear(threads, tokens):
    constants = linear_constants(200, 64)
    linear, pool = Linear(*constants.values()), ThreadPool(threads)
    x = np.random.default_rng(0).standard_normal((tokens, 64)).astype(np.float32)
    expected = linear.run(x)
    assert fail_each(lambda: linear.run(x, pool), lambda y: np.testing.assert_array_equal(y, expected)) > 0


@pytest.mark.parametrize(("threads", "tokens"), RUNS)
def test_accumulators(threads, tokens):
    weight, pool = Weight(linear_constants(200, 64)["weight"]), ThreadPool(threads)
    x = np.random.default_rng(0).integers(0, 256, (tokens, 64), dtype=np.uint8)
    expected = weight.matmul_i32(x)
    assert fail_each(lambda: weight.matmul_i32(x, pool), lambda y: np.testing.assert_array_equal(y, expected)) > 0


@pytest.mark.parametrize(("threads", "tokens"), RUNS)
@pytest.mark.parametrize("modern", [False, True])
def test_a_layer(layer, threads, tokens, modern):
    x = np.random.default_rng(0).standard_normal((2, tokens, 64)).astype(np.float32)
    mask = np.ones((2, tokens), np.int64)
    mask[1, tokens - 2 :] = 0
    chosen, positions = (modern_layer(), turns(tokens)) if modern else (layer, None)
    pool, expected = ThreadPool(threads), chosen.run(x, mask, positions=positions)
    assert (
        fail_each(
            lambda: chosen.run(x, mask, pool, positions=positions),
            lambda y: np.testing.assert_array_equal(y, expected),
        )
        > 0
    )


@pytest.mark.parametrize("layout", [None, "dense", "unstructured", "block_4x1", "block_1x4"])
def test_packing(layout):
    blob = linear_constants(70, 45)["weight"]
    expected = Weight(blob).unpack()
    check = lambda weight: np.testing.assert_array_equal(weight.unpack(), expected)  # noqa: E731
    assert fail_each(lambda: Weight(blob, layout), check) > 0


def test_building_a_layer(layer):
    constants = list(layer_constants(64, 96).values())
    x, mask = np.ones((1, 3, 64), np.float32), np.ones((1, 3), np.int64)
    expected = layer.run(x, mask)
    build = lambda: Layer(linears(constants), constants[18:22], heads=4, epsilon=1e-12)  # noqa: E731
    assert fail_each(build, lambda made: np.testing.assert_array_equal(made.run(x, mask), expected), step=37) > 0
    assert fail_each(modern_layer, lambda made: made.run(x, mask, positions=turns(3)), step=37) > 0


def test_a_pool_that_does_not_run_its_tasks_is_an_error(layer):
    x, mask = np.ones((1, 40, 64), np.float32), np.ones((1, 40), np.int64)
    for code, runs in ((0, 0), (1, 0), (1, 2)):
        pool = ThreadPool(2)

        def run(_context, task, arg, _count, code=code, runs=runs):
            for index in range(runs):
                task(arg, index)
            return code

        pool._run = abi.Run(run)
        pool.handle = abi.Pool(None, pool._run, 2)
        with pytest.raises(RunError, match="the thread pool did not run its tasks"):
            layer.run(x, mask, pool)


def test_an_unknown_instruction_set_is_refused():
    blob = linear_constants(8, 40)["weight"]
    with pytest.raises(ArtifactError, match="instruction set mmx is unknown or not supported by this CPU; expected"):
        Weight(blob, isa="mmx")


def test_errors_may_be_ignored():
    """Every function takes a null error."""
    weight = ctypes.c_void_p(abi.core().sd_weight_create(None, 0, None, None, None))
    assert not weight
