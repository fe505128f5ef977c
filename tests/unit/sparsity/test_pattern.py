# SPDX-License-Identifier: Apache-2.0
"""Patterns are distinguished on random masks, at every published zero share, before and after INT8 rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_deploy.errors import ConfigError
from sparse_deploy.sparsity.pattern import (
    DENSE,
    UNSTRUCTURED,
    PatternKind,
    SparsityPattern,
    chance_violations,
    detect_pattern,
    holds_pattern,
    is_block_sparse,
    keeps_n_of_m,
    whole_block_share,
)

SHAPES = st.sampled_from([(64, 64), (64, 128), (192, 64), (128, 312)])
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=40, deadline=None)


def random_mask(shape, share, seed):
    """Exactly ``share`` of the weights are zero, anywhere."""
    count = round(shape[0] * shape[1] * share)
    flat = np.zeros(shape[0] * shape[1], dtype=bool)
    flat[np.random.default_rng(seed).permutation(flat.size)[:count]] = True
    return flat.reshape(shape)


def block_mask(shape, block, share, seed):
    grid = random_mask((shape[0] // block[0], shape[1] // block[1]), share, seed)
    return np.kron(grid, np.ones(block, dtype=bool)).astype(bool)


def n_m_mask(shape, n, m, seed):
    order = np.random.default_rng(seed).random((shape[0], shape[1] // m, m)).argsort(axis=2)
    return (order >= n).reshape(shape)


def int8_zeros(zeros, seed):
    """The zeros of the file after symmetric per-channel INT8 rounding of random kept weights."""
    weights = np.random.default_rng(seed).standard_normal(zeros.shape) + 1e-3
    weights[zeros] = 0.0
    scale = np.abs(weights).max(axis=1, keepdims=True) / 127
    return np.rint(weights / np.where(scale == 0, 1, scale)) == 0


@given(shape=SHAPES, share=st.floats(0.1, 0.95), seed=SEEDS)
@FEW
def test_random_mask_is_unstructured_at_any_share(shape, share, seed):
    assert detect_pattern(random_mask(shape, share, seed)) == UNSTRUCTURED


@pytest.mark.parametrize("block", [(4, 1), (1, 4), (16, 1), (1, 8), (2, 2), (4, 4)])
@given(shape=st.sampled_from([(64, 128), (192, 64), (128, 384)]), share=st.floats(0.3, 0.85), seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_block_mask_keeps_its_shape_and_direction(block, shape, share, seed):
    assert str(detect_pattern(block_mask(shape, block, share, seed))) == f"block {block[0]}x{block[1]}"


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (4, 8)])
@given(shape=SHAPES, seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_n_m_mask_is_named_with_the_kept_count(n, m, shape, seed):
    found = detect_pattern(n_m_mask(shape, n, m, seed))
    assert (found.kind, found.n, found.m) == (PatternKind.N_M, n, m)


@pytest.mark.parametrize(
    "make",
    [
        lambda shape, seed: random_mask(shape, 0.7, seed),
        lambda shape, seed: random_mask(shape, 0.9, seed),
        lambda shape, seed: n_m_mask(shape, 1, 2, seed),
        lambda shape, seed: n_m_mask(shape, 2, 4, seed),
        lambda shape, seed: block_mask(shape, (4, 1), 0.8, seed),
        lambda shape, seed: block_mask(shape, (1, 4), 0.8, seed),
    ],
    ids=["70 %", "90 %", "1:2", "2:4", "4x1", "1x4"],
)
@given(shape=SHAPES, seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_int8_rounding_leaves_the_detected_pattern(make, shape, seed):
    zeros = make(shape, seed)
    rounded = int8_zeros(zeros, seed)
    assert rounded[zeros].all()
    assert detect_pattern(rounded) == detect_pattern(zeros)


def test_ninety_percent_unstructured_is_not_taken_for_a_block():
    # Chance puts 90 % of these zeros in whole 2x1 blocks: a fixed bound of 0.9 named every such checkpoint a block.
    zeros = random_mask((768, 768), 0.9, 0)
    assert whole_block_share(zeros, (2, 1)) == pytest.approx(0.9, abs=0.005)
    assert not is_block_sparse(zeros, (2, 1))
    assert not holds_pattern(zeros, SparsityPattern.parse("2x1"))


def test_small_sparse_tensor_is_not_named_n_m_by_luck():
    zeros = np.zeros((8, 8), dtype=bool)
    zeros[:, 1:] = random_mask((8, 7), 0.9, 3)
    assert keeps_n_of_m(zeros, 4, 8)
    assert chance_violations(zeros, 4, 8) < 1
    assert detect_pattern(zeros).kind is PatternKind.UNSTRUCTURED


def test_chance_violations_matches_a_random_mask():
    zeros = random_mask((512, 512), 0.5, 7)
    kept = 4 - zeros.reshape(512, 128, 4).sum(axis=2)
    assert chance_violations(zeros, 2, 4) == pytest.approx((kept > 2).sum(), rel=0.03)


@pytest.mark.parametrize(
    "zeros",
    [np.zeros((16, 16), bool), np.zeros((0, 4), bool), np.ones(16, bool), random_mask((64, 64), 0.04, 1)],
    ids=["no zeros", "empty", "vector", "4 %"],
)
def test_accidental_zeros_are_dense(zeros):
    assert detect_pattern(zeros) == DENSE


def test_whole_block_share_counts_zeros_in_whole_blocks():
    zeros = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], dtype=bool)
    assert whole_block_share(zeros, (2, 1)) == 0.5
    assert whole_block_share(zeros, (1, 2)) == 0.5
    assert whole_block_share(zeros, (4, 1)) == 0.0  # two rows can't be tiled
    assert whole_block_share(np.zeros((4, 4), bool), (4, 1)) == 0.0


def test_one_group_too_full_breaks_n_m():
    zeros = n_m_mask((8, 16), 1, 2, 5)
    assert keeps_n_of_m(zeros, 1, 2)
    zeros[3, 4:6] = False
    assert not keeps_n_of_m(zeros, 1, 2)
    assert not keeps_n_of_m(np.ones((2, 3), bool), 1, 2)


@pytest.mark.parametrize(
    ("promise", "make", "holds"),
    [
        ("dense", lambda: np.zeros((64, 64), bool), True),
        ("unstructured", lambda: random_mask((64, 64), 0.7, 0), True),
        ("unstructured", lambda: np.zeros((64, 64), bool), False),
        ("unstructured", lambda: n_m_mask((64, 64), 1, 2, 0), True),
        ("1:2", lambda: n_m_mask((64, 64), 1, 2, 0), True),
        ("2:4", lambda: n_m_mask((64, 64), 1, 2, 0), True),
        ("1:2", lambda: n_m_mask((64, 64), 2, 4, 0), False),
        ("4x1", lambda: block_mask((64, 64), (4, 1), 0.8, 0), True),
        ("4x1", lambda: block_mask((64, 64), (8, 1), 0.8, 0), True),
        ("4x1", lambda: block_mask((64, 64), (1, 4), 0.8, 0), False),
        ("4x1", lambda: random_mask((64, 64), 0.9, 0), False),
    ],
)
def test_promise_is_checked(promise, make, holds):
    assert holds_pattern(make(), SparsityPattern.parse(promise)) is holds


@pytest.mark.parametrize(
    ("text", "printed"),
    [("dense", "dense"), (" Unstructured ", "unstructured"), ("1:2", "1:2"), ("4x1", "block 4x1"),
     ("block 1X4", "block 1x4")],
)  # fmt: skip
def test_parse_reads_what_str_writes(text, printed):
    pattern = SparsityPattern.parse(text)
    assert str(pattern) == printed
    assert SparsityPattern.parse(printed) == pattern


@pytest.mark.parametrize("text", ["", "2:1", "2:2", "0:4", "1x1", "0x4", "4x", "nm", "1:2:4", "-4x1"])
def test_parse_refuses(text):
    with pytest.raises(ConfigError, match=f"found {text!r}"):
        SparsityPattern.parse(text)
