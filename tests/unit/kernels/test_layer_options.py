# SPDX-License-Identifier: Apache-2.0
"""What newer encoders have: norms in front, gates, packed queries, keys and values, rotary positions,
and windows of local attention; each alone and all at once, against the formula in float64."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.special import erf

from sparse_deploy.errors import ArtifactError
from sparse_deploy.kernels.abi import LINEARS
from sparse_deploy.kernels.loader import instruction_set
from sparse_deploy.kernels.native import Layer, ThreadPool
from sparse_deploy.sparsity.packing import encode

SETS = instruction_set().supported


@dataclass(frozen=True)
class Options:
    norm_first: bool = False
    attention_norm: bool = True
    gated: bool = False
    packed_qkv: bool = False
    rotary: bool = False
    window: int = 0


MODERN = Options(norm_first=True, gated=True, packed_qkv=True, rotary=True, window=16)


def positions(sequence, head, theta=100.0):
    angles = np.arange(sequence)[:, None] * theta ** -(np.arange(0, head, 2) / head)
    angles = np.concatenate([angles, angles], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def layer_norm(x, gamma, beta, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * gamma + beta


class Formula:
    """A layer in float64."""

    def __init__(self, options, hidden=64, intermediate=136, heads=4, uneven=False, seed=0):
        rng = np.random.default_rng(seed)
        self.options, self.hidden, self.heads = options, hidden, heads
        wide = intermediate * (2 if options.gated else 1)
        shapes = [(hidden, hidden)] * 4 + [(wide, hidden), (hidden, intermediate)]
        self.weights = [rng.integers(-127, 128, shape).astype(np.int8) for shape in shapes]
        for weight in self.weights:  # rows of very different length are sorted
            kept = rng.choice((0.1, 0.9), (len(weight), 1)) if uneven else 0.3
            weight[rng.random(weight.shape) > kept] = 0
        self.scales = [
            (rng.uniform(0.8, 1.2, n) * 2.5 / 127 / math.sqrt(0.3 * k)).astype(np.float32) for n, k in shapes
        ]
        self.biases = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n, _ in shapes]
        self.norms = [(rng.standard_normal(hidden) * 0.1 + (1 - i % 2)).astype(np.float32) for i in range(4)]
        self.positions = positions(512, hidden // heads)

    def layer(self, **more):
        parts = list(zip(self.weights, self.scales, self.biases, strict=True))
        if self.options.packed_qkv:
            parts[:3] = [tuple(np.concatenate(arrays) for arrays in zip(*parts[:3], strict=True))] * 3
        linears = {name: (encode(part[0]), *part[1:]) for name, part in zip(LINEARS, parts, strict=True)}
        norms = self.norms if self.options.attention_norm else [None, None, *self.norms[2:]]
        options = {name: value for name, value in vars(self.options).items() if name != "attention_norm"}
        return Layer(linears, norms, heads=self.heads, epsilon=1e-5, output_epsilon=1e-6, **options, **more)

    def run(self, layer, x, mask, pool=None):
        tables = tuple(table[: x.shape[1]] for table in self.positions) if self.options.rotary else None
        return layer.run(x, mask, pool, positions=tables)

    def linear(self, x, i):
        return x @ (self.weights[i] * self.scales[i][:, None].astype(np.float64)).T + self.biases[i]

    def norm(self, x, first):
        if first and not self.options.attention_norm:
            return x
        return layer_norm(x, *(self.norms[:2] if first else self.norms[2:]), 1e-5 if first else 1e-6)

    def attention(self, x, mask):
        batch, sequence, hidden = x.shape
        head = hidden // self.heads
        q, k, v = (
            self.linear(x, i).reshape(batch, sequence, self.heads, head).swapaxes(1, 2) for i in range(3)
        )  # fmt: skip
        if self.options.rotary:
            cos, sin = (table[:sequence].astype(np.float64) for table in self.positions)
            pairs = [(t[..., : head // 2], t[..., head // 2 :]) for t in (q, k)]
            q, k = (np.concatenate([a, b], -1) * cos + np.concatenate([-b, a], -1) * sin for a, b in pairs)
        scores = q @ k.swapaxes(2, 3) / math.sqrt(head)
        near = np.ones((sequence, sequence), bool)
        if self.options.window:
            near = np.abs(np.subtract.outer(np.arange(sequence), np.arange(sequence))) <= self.options.window
        scores = np.where(mask.astype(bool)[:, None, None] & near, scores, -1e30)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear((weights @ v).swapaxes(1, 2).reshape(x.shape), 3)

    def feed_forward(self, x):
        gelu = lambda v: v * 0.5 * (1 + erf(v / math.sqrt(2)))  # noqa: E731
        inner = self.linear(x, 4)
        if self.options.gated:
            activated, factor = np.split(inner, 2, axis=-1)
            return self.linear(gelu(activated) * factor, 5)
        return self.linear(gelu(inner), 5)

    def __call__(self, x, mask):
        x = x.astype(np.float64)
        if self.options.norm_first:
            hidden = x + self.attention(self.norm(x, True), mask)
            return hidden + self.feed_forward(self.norm(hidden, False))
        hidden = self.norm(x + self.attention(x, mask), True)
        return self.norm(hidden + self.feed_forward(hidden), False)


def batch_of(lengths, hidden=64, seed=0):
    sequence = max(lengths)
    mask = (np.arange(sequence) < np.array(lengths)[:, None]).astype(np.int64)
    return np.random.default_rng(seed).standard_normal((len(lengths), sequence, hidden)).astype(np.float32), mask


def relative_error(found, expected):
    return np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())


EACH = [
    Options(norm_first=True),
    Options(norm_first=True, attention_norm=False),
    Options(gated=True),
    Options(packed_qkv=True),
    Options(rotary=True),
    Options(window=5),
    MODERN,
    replace(MODERN, attention_norm=False, window=0),
]


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("options", EACH, ids=lambda o: "+".join(n for n, v in vars(o).items() if v))
@pytest.mark.parametrize("lengths", [(3,), (70, 9, 33)], ids=str)
@pytest.mark.parametrize("uneven", [False, True])
def test_a_layer_computes_its_formula(options, lengths, uneven, isa):
    formula = Formula(options, uneven=uneven)
    x, mask = batch_of(lengths)
    mask[0, 1] = 0  # a hole
    found, expected = formula.run(formula.layer(isa=isa), x, mask, ThreadPool(2)), formula(x, mask)
    tokens = np.arange(x.shape[1]) < np.array(lengths)[:, None]
    assert relative_error(found[tokens], expected[tokens]) < 0.04
    assert not found[~tokens].any()


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize(("hidden", "heads", "window"), [(64, 4, 1), (64, 4, 16), (64, 1, 40), (52, 2, 7), (96, 3, 64)])
def test_windows_of_any_width_in_long_texts(hidden, heads, window, isa):
    """Heads of 16, 64, 32 in INT8, and of 26 in floating point; windows that end inside blocks of keys and outside."""
    options = replace(MODERN, window=window)
    formula = Formula(options, hidden=hidden, heads=heads)
    x, mask = batch_of((333, 150), hidden)
    found, expected = formula.run(formula.layer(isa=isa), x, mask), formula(x, mask)
    kept = mask.astype(bool)
    right = relative_error(found[kept], expected[kept])
    assert right < 0.04
    other = Formula(replace(options, window=window + max(1, window // 8)), hidden=hidden, heads=heads)(x, mask)
    assert relative_error(found[kept], other[kept]) > 1.1 * right


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("lengths", [(4,), (200,), (130, 7, 65)], ids=str)
def test_threads_padding_and_unpadded_rows_change_nothing(lengths, isa):
    formula = Formula(MODERN, uneven=True)
    layer = formula.layer(isa=isa)
    x, mask = batch_of(lengths)
    kept = mask.astype(bool)
    whole = formula.run(layer, x, mask)
    for threads in (2, 3):
        np.testing.assert_array_equal(formula.run(layer, x, mask, ThreadPool(threads)), whole)
    for row, length in enumerate(lengths):
        alone = formula.run(layer, x[row : row + 1, :length], mask[row : row + 1, :length])
        np.testing.assert_array_equal(alone[0], whole[row, :length])
    rows = np.full_like(x, np.nan)
    rows.reshape(-1, 64)[: kept.sum()] = x[kept]
    unpadded = formula.layer(isa=isa, unpadded_input=True, unpadded_output=True)
    np.testing.assert_array_equal(
        formula.run(unpadded, rows, mask, ThreadPool(2)).reshape(-1, 64)[: kept.sum()], whole[kept]
    )
    for tokens in (1, 40):
        first = formula.layer(isa=isa, output_tokens=tokens)
        np.testing.assert_array_equal(formula.run(first, x, mask, ThreadPool(2)), whole[:, :tokens])


@pytest.mark.parametrize(
    ("options", "message"),
    [(Options(window=-1), "window must be 0 or more; found -1")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ArtifactError, match=message):
        Formula(options).layer()
