# SPDX-License-Identifier: Apache-2.0
"""Layers that compute only the first tokens of a sequence, or hand on rows without padding: the same numbers, bit by
bit, on every instruction set, with few and many tokens, threads and sequences."""

from functools import cache

import numpy as np
import pytest
from sparse_operators import layer_constants

from sparse_deploy.errors import ArtifactError
from sparse_deploy.kernels.abi import LINEARS
from sparse_deploy.kernels.loader import instruction_set
from sparse_deploy.kernels.native import Layer, ThreadPool

HIDDEN, INTERMEDIATE, HEADS = 64, 160, 4
# Lengths of the sequences: one token, few tokens (shared out by columns), many (by tokens), and both in one batch.
BATCHES = [(1,), (5,), (40,), (3, 1, 2), (33, 7, 50), (1, 128), (20, 20)]
SETS = instruction_set().supported


@cache
def make_layer(isa, seed=0, **rows):
    constants = layer_constants(HIDDEN, INTERMEDIATE, seed=seed)
    linears = {name: tuple(constants[f"{name}_{part}"] for part in ("weight", "scale", "bias")) for name in LINEARS}
    norms = [constants[f"{norm}_{part}"] for norm in ("attention", "output") for part in ("gamma", "beta")]
    return Layer(linears, norms, heads=HEADS, epsilon=1e-12, isa=isa, **rows)


def batch_of(lengths):
    sequence = max(lengths) + (len(lengths) == 1) * 3  # a single sequence has padding, too
    mask = (np.arange(sequence) < np.array(lengths)[:, None]).astype(np.int64)
    x = np.random.default_rng(sum(lengths)).standard_normal((len(lengths), sequence, HIDDEN)).astype(np.float32)
    return x, mask


def unpadded(x, mask):
    rows = np.full_like(x, np.nan)
    rows.reshape(-1, HIDDEN)[: mask.sum()] = x[mask.astype(bool)]
    return rows


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_tokens_alone_are_those_of_the_whole(isa, lengths, threads):
    x, mask = batch_of(lengths)
    whole = make_layer(isa).run(x, mask)
    pool = ThreadPool(threads)
    for tokens in (1, 2, 500):
        found = make_layer(isa, output_tokens=tokens).run(x, mask, pool)
        np.testing.assert_array_equal(found, whole[:, :tokens])
        unread = make_layer(isa, output_tokens=tokens, unpadded_input=True).run(unpadded(x, mask), mask, pool)
        np.testing.assert_array_equal(unread, whole[:, :tokens])


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_stack_without_padding_between_its_layers_computes_the_same(isa, lengths, threads):
    x, mask = batch_of(lengths)
    expected = x
    for seed in range(3):
        expected = make_layer(isa, seed).run(expected, mask)
    pool = ThreadPool(threads)
    found = make_layer(isa, 0, unpadded_output=True).run(x, mask, pool)
    np.testing.assert_array_equal(
        found.reshape(-1, HIDDEN)[: mask.sum()], make_layer(isa, 0).run(x, mask)[mask.astype(bool)]
    )
    found.reshape(-1, HIDDEN)[mask.sum() :] = np.nan  # no node may read the rows after the last token
    found = make_layer(isa, 1, unpadded_input=True, unpadded_output=True).run(found, mask, pool)
    np.testing.assert_array_equal(make_layer(isa, 2, unpadded_input=True).run(found, mask, pool), expected)


def test_padding_in_front_and_sequences_without_a_token_keep_their_rows():
    mask = np.array([[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], np.int64)
    x = np.random.default_rng(0).standard_normal((2, 5, HIDDEN)).astype(np.float32)
    whole = make_layer(None).run(x, mask)
    np.testing.assert_array_equal(make_layer(None, output_tokens=1).run(x, mask), whole[:, :1])
    handed_on = make_layer(None, unpadded_output=True).run(x, mask).reshape(-1, HIDDEN)
    np.testing.assert_array_equal(handed_on[:4], whole[0, :4])  # up to the last token
    np.testing.assert_array_equal(handed_on[4:9], whole[1])  # all, for there is none


@pytest.mark.parametrize(
    ("rows", "message"),
    [({"output_tokens": -1}, "output_tokens must be 0 or more; found -1"),
     ({"output_tokens": 1, "unpadded_output": True}, "an unpadded output has all tokens")],
)  # fmt: skip
def test_impossible_rows_are_refused(rows, message):
    with pytest.raises(ArtifactError, match=message):
        make_layer(None, **rows)
