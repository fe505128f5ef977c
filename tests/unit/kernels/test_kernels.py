# SPDX-License-Identifier: Apache-2.0
"""The kernels against exact and float64 references, on every instruction set of this CPU."""

import ctypes
import math
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_deploy.errors import ArtifactError, QuantizationError
from sparse_deploy.kernels import abi
from sparse_deploy.kernels.loader import instruction_set, layouts
from sparse_deploy.kernels.native import Layer, Linear, RunError, ThreadPool, Weight
from sparse_deploy.sparsity.packing import decode, encode

# The pattern of each layout, and the layout of each instruction set for it.
PATTERNS = {
    "dense": ("dense", "dense_split"),
    "unstructured": ("unstructured", "unstructured_16x4", "unstructured_16x8", "unstructured_16x16"),
    "one_of_two": ("one_of_two", "unstructured_16x8"),
    "block_4x1": ("block_4x1", "block_4x1_16x4", "block_4x1_16x8", "block_4x1_16x16"),
    "block_1x4": ("block_1x4",),
}
LAYOUTS = {layout: pattern for pattern, layouts in reversed(PATTERNS.items()) for layout in layouts}
CHOSEN = {
    "avx512_bf16": ("dense", "unstructured", "one_of_two", "block_4x1", "block_1x4"),
    "avx512_vbmi": ("dense", "unstructured", "one_of_two", "block_4x1", "block_1x4"),
    "avx512_vnni": ("dense", "unstructured_16x16", "block_4x1_16x16", "block_1x4"),
    "avx2_vnni": ("dense", "unstructured_16x8", "block_4x1_16x8", "block_1x4"),
    "avx2": ("dense_split", "unstructured_16x8", "block_4x1_16x8", "block_1x4"),
}
SETS = instruction_set().supported
SET = instruction_set().name
TOKENS = (1, 2, 5, 6, 7, 12, 13, 16, 17, 48, 63, 64, 65, 80)


def test_no_layout_is_left_out():
    assert sorted(LAYOUTS) == sorted(layouts())


def random_matrix(rng, layout, rows, columns, kept=0.3):
    """An int8 matrix that the layout can represent, without accidental zeros; or one of the pattern ``two_of_four``."""
    pattern = LAYOUTS.get(layout, layout)
    weight = rng.integers(1, 128, (rows, columns)) * rng.choice((-1, 1), (rows, columns))
    if pattern == "dense":
        mask = np.ones((rows, columns), bool)
    elif pattern == "unstructured":
        mask = rng.random((rows, columns)) < kept
    elif pattern == "one_of_two":
        mask = np.zeros((rows, (columns + 1) // 2, 2), bool)
        np.put_along_axis(mask, rng.integers(0, 2, (rows, (columns + 1) // 2, 1)), True, 2)
        mask = mask.reshape(rows, -1)[:, :columns]
    elif pattern == "two_of_four":
        order = rng.random((rows, (columns + 3) // 4, 4)).argsort(axis=2)
        mask = (order < 2).reshape(rows, -1)[:, :columns]
    elif pattern == "block_4x1":
        mask = np.repeat(rng.random(((rows + 3) // 4, columns)) < kept, 4, 0)[:rows]
    else:
        mask = np.repeat(rng.random((rows, (columns + 3) // 4)) < kept, 4, 1)[:, :columns]
    return np.where(mask, weight, 0).astype(np.int8)


def exact(weight, x):
    return x.astype(np.int32) @ weight.astype(np.int32).T


@pytest.fixture(params=SETS)
def isa(request):
    return request.param


def test_wish_for_an_instruction_set_is_granted_or_explained():
    wish = os.environ.get("SPARSE_DEPLOY_ISA", SETS[0])
    assert wish == SET
    code = "from sparse_deploy.kernels.loader import instruction_set as i; print(i().name, i().note)"
    out = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "SPARSE_DEPLOY_ISA": "sse9"}, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    assert out.startswith(f"{SETS[0]} SPARSE_DEPLOY_ISA=sse9 is unknown; expected one of {','.join(SETS)}")


@pytest.mark.parametrize(("wish", "expected"), [("dense", "True"), ("cubic", "unknown layout cubic")])
def test_wish_for_a_layout_holds_where_none_is_named(wish, expected):
    code = """
import numpy as np
from sparse_deploy.errors import ArtifactError
from sparse_deploy.kernels.native import Weight
from sparse_deploy.sparsity.packing import encode
matrix = encode(np.eye(64, dtype=np.int8))
try:
    print(Weight(matrix).describe().fill == 1)
except ArtifactError as error:
    print(error)
"""
    environment = {**os.environ, "SPARSE_DEPLOY_LAYOUT": wish}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 64), (70, 100), (64, 385), (130, 257), (17, 1031), (65, 768)])
def test_accumulators_are_exact(layout, shape, isa):
    rng = np.random.default_rng(sum(shape))
    weight = random_matrix(rng, layout, *shape)
    packed = Weight(encode(weight), layout, isa)
    assert packed.describe().layout == (CHOSEN.get(isa, ("dense",))[0] if layout == "dense" else layout)
    np.testing.assert_array_equal(packed.unpack(), weight)
    for tokens in TOKENS:
        x = rng.integers(0, 256, (tokens, shape[1]), dtype=np.uint8)
        if tokens == 7:  # sums of large weights that do not fit a 16-bit lane
            x[:] = 255
        np.testing.assert_array_equal(packed.matmul_i32(x), exact(weight, x), err_msg=f"{tokens} tokens")


@pytest.mark.parametrize("shape", [(3, 5), (70, 100), (17, 1031), (64, 768)])
def test_two_of_four_is_exact_and_wastes_no_slot(shape, isa):
    """2:4 has no layout of its own: the windows of unstructured zeros are full, as each 4 k hold two weights."""
    rng = np.random.default_rng(sum(shape))
    weight = random_matrix(rng, "two_of_four", *shape)
    x = rng.integers(0, 256, (13, shape[1]), dtype=np.uint8)
    offers = [layout for layout in CHOSEN.get(isa, ()) if layout in PATTERNS["unstructured"]]
    for layout in [None, *offers]:
        packed = Weight(encode(weight), layout, isa)
        np.testing.assert_array_equal(packed.unpack(), weight)
        np.testing.assert_array_equal(packed.matmul_i32(x), exact(weight, x))
        if layout and shape == (64, 768):
            assert Weight(encode(np.sign(weight)), layout, isa).describe().fill == 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fill", ["zeros", "lowest", "highest", "one row", "one column", "last value"])
def test_adversarial_matrices(layout, fill, isa):
    rows, columns = 67, 203
    weight = np.zeros((rows, columns), np.int8)
    if fill in ("lowest", "highest"):
        weight[:] = -127 if fill == "lowest" else 127
        if layout == "one_of_two":
            weight[:, 1::2] = 0
    elif fill == "one row":
        weight[41, :: 2 if layout == "one_of_two" else 1] = 99
    elif fill == "one column":
        weight[:, 150] = -5
    elif fill == "last value":
        weight[-1, -1] = 7
    packed = Weight(encode(weight), layout, isa)
    np.testing.assert_array_equal(packed.unpack(), weight)
    for value in (0, 255):
        x = np.full((9, columns), value, np.uint8)
        np.testing.assert_array_equal(packed.matmul_i32(x), exact(weight, x))


@settings(max_examples=80, deadline=None)
@given(
    isa=st.sampled_from(SETS), layout=st.sampled_from(tuple(LAYOUTS)), rows=st.integers(1, 150),
    columns=st.integers(1, 420), tokens=st.integers(1, 80),
    kept=st.sampled_from((0.02, 0.1, 0.5, 0.9)), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_accumulators_are_exact_for_any_shape(isa, layout, rows, columns, tokens, kept, seed):
    rng = np.random.default_rng(seed)
    weight = random_matrix(rng, layout, rows, columns, kept)
    x = rng.integers(0, 256, (tokens, columns), dtype=np.uint8)
    np.testing.assert_array_equal(Weight(encode(weight), layout, isa).matmul_i32(x), exact(weight, x))


def test_uneven_rows_keep_every_weight(isa):
    """Rows of a group with all their weights at opposite ends: the worst case of a sliding window."""
    weight = np.zeros((80, 1024), np.int8)
    weight[::2, :100] = 3
    weight[1::2, -100:] = -4
    x = np.random.default_rng(0).integers(0, 256, (13, 1024), dtype=np.uint8)
    for layout in LAYOUTS:
        if layout != "one_of_two":
            np.testing.assert_array_equal(Weight(encode(weight), layout, isa).matmul_i32(x), exact(weight, x))


def quantized(x, static):
    """u8 values of float rows, and their float values, by docs/sparse_operators.md."""
    if static:
        scale, zero = np.full((len(x), 1), static[0], np.float32), np.full((len(x), 1), static[1])
    else:
        low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
        scale = ((high - low) / np.float32(255)).astype(np.float32)
        zero = np.floor(-low / scale + np.float32(0.5))
    values = np.clip(np.rint(x * (1 / scale)) + zero, 0, 255)
    return (values - zero) * scale.astype(np.float64)


def activated(y, activation):
    if activation == "gelu":
        return y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    if activation == "gelu_tanh":
        return 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    return {"none": y, "relu": np.maximum(y, 0), "tanh": np.tanh(y)}[activation]


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "tanh"])
@pytest.mark.parametrize("static", [None, (0.03, 131)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear(layout, static, activation, isa):
    rng = np.random.default_rng(7)
    weight = random_matrix(rng, layout, 83, 210)
    scale, bias = rng.uniform(5e-4, 2e-3, 83).astype(np.float32), rng.standard_normal(83).astype(np.float32)
    linear = Linear(encode(weight), scale, bias, activation=activation, static=static, layout=layout, isa=isa)
    for tokens in (1, 20, 67):
        x = (2 * rng.standard_normal((tokens, 210))).astype(np.float32)
        expected = activated(quantized(x, static) @ (weight * scale[:, None].astype(np.float64)).T + bias, activation)
        np.testing.assert_allclose(linear.run(x), expected, atol=4e-4, rtol=2e-5)


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "tanh"])
@pytest.mark.parametrize("static", [None, (0.03, 131)])
def test_what_is_not_a_number_stays_so(static, activation, isa):
    weight = random_matrix(np.random.default_rng(1), "unstructured", 40, 75)
    linear = Linear(encode(weight), np.full(40, 1e-3, np.float32), activation=activation, static=static, isa=isa)
    x = np.random.default_rng(2).standard_normal((9, 75)).astype(np.float32)
    expected = linear.run(x)
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for column in (0, 33, 74):
            spoilt = x.copy()
            spoilt[4, column] = value
            found = linear.run(spoilt)
            assert np.isnan(found[4]).all()
            np.testing.assert_array_equal(np.delete(found, 4, 0), np.delete(expected, 4, 0))


def test_the_ends_of_the_range_of_floats_are_finite(isa):
    weight = random_matrix(np.random.default_rng(1), "unstructured", 16, 64)
    linear = Linear(encode(weight), np.full(16, 1e-4, np.float32), isa=isa)
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).tiny
    for x in (np.array([largest, -largest]), np.array([smallest, 0]), np.array([1e-42, -1e-42])):
        assert not np.isnan(linear.run(np.resize(x, (1, 64)).astype(np.float32))).any()


def test_linear_without_bias_and_of_zero_rows():
    weight = random_matrix(np.random.default_rng(1), "unstructured", 20, 30)
    linear = Linear(encode(weight), np.ones(20, np.float32))
    np.testing.assert_array_equal(linear.run(np.zeros((3, 30), np.float32)), 0)
    assert linear.run(np.empty((0, 30), np.float32)).shape == (0, 20)


@pytest.mark.parametrize("tokens", [1, 4, 15, 16, 40, 200])
def test_threads_change_nothing(tokens, isa):
    rng = np.random.default_rng(tokens)
    weight = random_matrix(rng, "unstructured", 300, 256)
    x = rng.standard_normal((tokens, 256)).astype(np.float32)
    linear = Linear(encode(weight), np.full(300, 1e-3, np.float32), np.ones(300, np.float32), isa=isa)
    alone = linear.run(x)
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(linear.run(x, ThreadPool(threads)), alone)


# ---- choice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "kept", "chosen", "pattern"),
    [
        ("unstructured", 0.3, "unstructured", "unstructured"),
        ("unstructured", 0.1, "unstructured", "unstructured"),
        ("one_of_two", None, "one_of_two", "1:2"),
        ("two_of_four", None, "unstructured", "unstructured"),
        ("block_4x1", 0.2, "block_4x1", "block_4x1"),
        ("block_1x4", 0.2, "block_1x4", "block_1x4"),
        ("unstructured", 0.8, "dense", "unstructured"),
        ("dense", None, "dense", "dense"),
    ],
)
def test_choice_follows_the_pattern(made, kept, chosen, pattern, isa):
    rng = np.random.default_rng(3)
    # Where the zeros lie decides; large weights cost AVX2 some slots more.
    weight = np.sign(random_matrix(rng, made, 256, 768, kept or 1))
    info = Weight(encode(weight), isa=isa).describe()
    assert info.pattern == pattern
    offers = CHOSEN.get(isa, ("dense",))
    wanted = [layout for layout in offers if layout in PATTERNS[chosen]] or [offers[0]]
    if kept == 0.1:  # so few weights fit blocks, too
        wanted.append("block_1x4")
    if made in ("one_of_two", "two_of_four") and isa == "avx512_vnni":  # half the zeros gain nothing there
        wanted = ["dense"]
    assert info.layout in wanted
    assert info.cost <= 1
    assert info.packed_bytes <= 1.05 * 256 * 768


@pytest.mark.parametrize(
    ("layout", "kept", "most"), [("unstructured", 0.3, 0.9), ("block_4x1", 0.2, 0.35), ("block_1x4", 0.2, 0.35)]
)
def test_packed_size(layout, kept, most):
    weight = random_matrix(np.random.default_rng(5), layout, 768, 768, kept)
    assert Weight(encode(weight), layout).describe().packed_bytes < most * weight.size


def test_layout_that_can_not_hold_the_matrix_is_refused():
    with pytest.raises(ArtifactError, match="a pair of neighbours along k keeps two"):
        Weight(encode(np.ones((8, 8), np.int8)), "one_of_two")
    with pytest.raises(ArtifactError, match="unknown layout magic; known: dense"):
        Weight(encode(np.ones((8, 8), np.int8)), "magic")


# ---- damage --------------------------------------------------------------------------------------------------


def blob(encoding_of="unstructured"):
    return encode(random_matrix(np.random.default_rng(2), encoding_of, 24, 40))


@pytest.mark.parametrize("made", ["dense", "unstructured", "block_4x1", "block_1x4"])
def test_every_single_byte_is_guarded(made):
    whole = blob(made)
    for at in [*range(28), *range(32, len(whole), 37)]:
        damaged = whole.copy()
        damaged[at] ^= 0x41
        with pytest.raises(ArtifactError):
            Weight(damaged)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 100, -1])
def test_truncated_blob_is_refused(size):
    with pytest.raises(ArtifactError, match="damaged weight"):
        Weight(blob()[:size].copy())


def with_checksum(damaged):
    damaged[24:28] = np.frombuffer(zlib.crc32(damaged[32:].tobytes()).to_bytes(4, "little"), np.uint8)
    return damaged


def test_lies_under_a_valid_checksum_are_refused():
    bits = blob()
    bits[32] ^= 1  # one unit more or less than there are values
    with pytest.raises(ArtifactError, match="bits set in the bitmap"):
        Weight(with_checksum(bits))
    value = blob()
    value[-1] = 0x80
    with pytest.raises(ArtifactError, match="-128"):
        Weight(with_checksum(value))
    for field, number in ((8, 2**31), (12, 0), (16, 2**63)):
        shape = blob()
        shape[field : field + 8 if field == 16 else field + 4] = np.frombuffer(
            number.to_bytes(8 if field == 16 else 4, "little"), np.uint8
        )
        with pytest.raises(ArtifactError):
            Weight(with_checksum(shape))


def zeros_in_a_unit(made):
    damaged = blob(made)
    damaged[-4 if made.startswith("block") else -1 :] = 0
    return with_checksum(damaged)


def field(at, number, size=4):
    damaged = blob()
    damaged[at : at + size] = np.frombuffer(number.to_bytes(size, "little"), np.uint8)
    return damaged


DAMAGED = {
    "a unit of zeros": zeros_in_a_unit("unstructured"),
    "a 4x1 unit of zeros": zeros_in_a_unit("block_4x1"),
    "a 1x4 unit of zeros": zeros_in_a_unit("block_1x4"),
    "reserved field": field(28, 1),
    "version": field(4, 2, 2),
    "encoding": field(6, 4, 2),
    "no rows": field(8, 0),
    "rows past the limit": field(8, 2**20 + 1),
    "columns past 16 bits": field(12, 2**16),
    "checksum": field(24, 7),
    "one byte more": np.append(blob(), np.uint8(0)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_both_readers_refuse_the_same(name):
    for read in (Weight, decode):
        with pytest.raises(ArtifactError):
            read(DAMAGED[name])


def test_more_inputs_than_16_bits_hold_are_refused_with_the_reason():
    """65,535 * 127 * 255 is the largest sum that stays inside int32."""
    widest = np.full((1, 65535), 127, np.int8)
    x = np.full((1, 65535), 255, np.uint8)
    for layout in ("dense", "unstructured", "block_4x1", "block_1x4"):
        assert Weight(encode(widest), layout).matmul_i32(x) == 65535 * 127 * 255
    with pytest.raises(
        QuantizationError, match="it has 65536 input channels, the sparse operators support at most 65535"
    ):
        encode(np.ones((1, 65536), np.int8))
    for read in (Weight, decode):
        with pytest.raises(ArtifactError, match=r"65536 input channels.* at most 65535"):
            read(DAMAGED["columns past 16 bits"])


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=0, max_size=200), keep=st.integers(0, 64))
def test_rubbish_never_crashes(data, keep):
    rubbish = np.concatenate([blob()[:keep], np.frombuffer(data, np.uint8)])
    if len(rubbish) >= 32:
        rubbish = with_checksum(rubbish)
    with pytest.raises(ArtifactError):
        Weight(rubbish)


# ---- the encoder layer ---------------------------------------------------------------------------------------


class FloatLayer:
    """The layer's formula in float64, on the same weights."""

    def __init__(self, hidden, intermediate, heads, rng, uneven=False):
        self.hidden, self.heads = hidden, heads
        shapes = [(hidden, hidden)] * 4 + [(intermediate, hidden), (hidden, intermediate)]
        self.weights = [random_matrix(rng, "unstructured", *shape) for shape in shapes]
        if uneven:  # rows of very different length, as magnitude pruning leaves them: the layer sorts those
            for weight in self.weights:
                rows, columns = weight.shape
                weight[rng.random((rows, columns)) > rng.choice((0.1, 0.9), (rows, 1))] = 0
        self.scales = [
            (rng.uniform(0.8, 1.2, n) * 2.5 / 127 / math.sqrt(0.3 * k)).astype(np.float32) for n, k in shapes
        ]
        self.biases = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n, _ in shapes]
        self.norms = [
            (rng.standard_normal(hidden) * 0.1 + (1 - i % 2)).astype(np.float32) for i in range(4)
        ]  # gamma, beta, gamma, beta

    def layer(self, **options):
        parts = zip((encode(w) for w in self.weights), self.scales, self.biases, strict=True)
        linears = dict(zip(abi.LINEARS, parts, strict=True))
        return Layer(linears, self.norms, heads=self.heads, epsilon=1e-12, **options)

    def linear(self, x, i):
        return x @ (self.weights[i] * self.scales[i][:, None].astype(np.float64)).T + self.biases[i]

    def norm(self, x, i):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * self.norms[i] + self.norms[i + 1]

    def __call__(self, x, mask, scale=None, bias=0.0):
        batch, sequence, hidden = x.shape
        x = x.astype(np.float64)
        heads = lambda v: v.reshape(batch, sequence, self.heads, -1).swapaxes(1, 2)  # noqa: E731
        q, k, v = (heads(self.linear(x, i)) for i in range(3))
        scores = q @ k.swapaxes(2, 3) * (scale or 1 / math.sqrt(hidden / self.heads)) + bias
        scores = scores + np.where(mask, 0, -1e30)[:, None, None]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        h = self.norm(x + self.linear((weights @ v).swapaxes(1, 2).reshape(x.shape), 3), 0)
        return self.norm(h + self.linear(activated(self.linear(h, 4), "gelu"), 5), 2)


def relative_error(found, expected):
    return np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())


@pytest.mark.parametrize(
    ("hidden", "intermediate", "heads", "batch", "sequence"),
    [(64, 128, 4, 1, 5), (96, 200, 3, 2, 17), (40, 60, 4, 2, 9), (128, 512, 2, 3, 70), (144, 300, 1, 1, 33)],
)
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_layer_computes_its_formula(hidden, intermediate, heads, batch, sequence, uneven, threads, isa):
    rng = np.random.default_rng(hidden)
    formula = FloatLayer(hidden, intermediate, heads, rng, uneven)
    x = rng.standard_normal((batch, sequence, hidden)).astype(np.float32)
    mask = np.ones((batch, sequence), np.int64)
    mask[0, 2] = 0  # a hole: not a key, but still a query
    for row in range(1, batch):
        mask[row, sequence // (row + 1) :] = 0
    found, expected = formula.layer(isa=isa).run(x, mask, ThreadPool(threads)), formula(x, mask)
    tokens = mask.astype(bool)
    tokens[0, 2] = True
    # Four 8-bit quantisations in a row, and 8-bit attention: 1.5 to 2.3 % on random weights.
    assert relative_error(found[tokens], expected[tokens]) < 0.035
    assert not found[~tokens].any()  # padding behind a sequence comes out as 0


@pytest.mark.parametrize(("heads", "sequence"), [(4, 9), (2, 70), (3, 33)])
@pytest.mark.parametrize("shared", [True, False])
def test_a_position_bias_and_a_scale_of_its_own(heads, sequence, shared, isa):
    rng = np.random.default_rng(sequence)
    hidden = 26 * heads if heads == 3 else 64  # heads of 26 as in TinyBERT: attention in floating point
    formula = FloatLayer(hidden, 128, heads, rng)
    layer = formula.layer(isa=isa, position_bias=True, attention_scale=0.1)
    x = rng.standard_normal((2, sequence, hidden)).astype(np.float32)
    mask = np.ones((2, sequence), np.int64)
    mask[1, sequence // 2 :] = 0
    bias = (2 * rng.standard_normal((1 if shared else 2, heads, sequence, sequence))).astype(np.float32)
    found, expected = layer.run(x, mask, bias=bias), formula(x, mask, 0.1, bias)
    tokens = mask.astype(bool)
    assert relative_error(found[tokens], expected[tokens]) < 0.035
    without = layer.run(x, mask, bias=np.zeros_like(bias))
    assert relative_error(without[tokens], expected[tokens]) > 0.05, "the bias is seen"
    assert relative_error(without[tokens], formula(x, mask, 0.1)[tokens]) < 0.035


def test_a_second_epsilon():
    rng = np.random.default_rng(0)
    formula = FloatLayer(64, 128, 4, rng)
    x = rng.standard_normal((1, 5, 64)).astype(np.float32)
    mask = np.ones((1, 5), np.int64)
    one, other = formula.layer(), formula.layer(output_epsilon=3.0)
    assert relative_error(other.run(x, mask), one.run(x, mask)) > 0.1


def test_layer_error_is_that_of_8_bits():
    """Small errors everywhere, unlike a wrong bias, a lost head or a shifted mask."""
    rng = np.random.default_rng(11)
    formula = FloatLayer(64, 128, 4, rng)
    x = rng.standard_normal((1, 24, 64)).astype(np.float32)
    mask = np.ones((1, 24), np.int64)
    found = formula.layer().run(x, mask)
    right = relative_error(found, formula(x, mask))
    formula.biases[4] = formula.biases[4] + 0.1
    assert relative_error(found, formula(x, mask)) > 2 * right
    formula.biases[4] = formula.biases[4] - 0.1
    mask[0, 20:] = 0
    assert relative_error(found[:, :20], formula(x, mask)[:, :20]) > 2 * right


@pytest.mark.parametrize(("batch", "sequence"), [(1, 3), (1, 40), (3, 21), (2, 110)])
@pytest.mark.parametrize("uneven", [False, True])
def test_layer_threads_and_padding_change_nothing(batch, sequence, uneven, isa):
    rng = np.random.default_rng(sequence)
    layer = FloatLayer(64, 192, 4, rng, uneven).layer(isa=isa)
    x = rng.standard_normal((batch, sequence, 64)).astype(np.float32)
    mask = np.ones((batch, sequence), np.int64)
    lengths = [sequence - row * sequence // 3 for row in range(batch)]
    for row, length in enumerate(lengths):
        mask[row, length:] = 0
    together = layer.run(x, mask)
    for threads in (2, 3, 4):
        np.testing.assert_array_equal(layer.run(x, mask, ThreadPool(threads)), together)
    for row, length in enumerate(lengths):
        alone = layer.run(x[row : row + 1, :length], mask[row : row + 1, :length])
        np.testing.assert_array_equal(together[row, :length], alone[0])


def test_sequence_without_any_token_attends_to_all():
    rng = np.random.default_rng(0)
    layer = FloatLayer(64, 128, 4, rng).layer()
    x = rng.standard_normal((2, 12, 64)).astype(np.float32)
    mask = np.ones((2, 12), np.int64)
    whole = layer.run(x, mask)
    mask[1] = 0
    np.testing.assert_array_equal(layer.run(x, mask), whole)


@pytest.mark.parametrize("threads", [1, 4])
def test_what_is_not_a_number_spoils_its_sequence(threads, isa):
    rng = np.random.default_rng(0)
    layer = FloatLayer(64, 128, 4, rng).layer(isa=isa)
    x = rng.standard_normal((2, 9, 64)).astype(np.float32)
    mask = np.ones((2, 9), np.int64)
    expected = layer.run(x, mask)
    for value in (np.nan, np.inf):
        spoilt = x.copy()
        spoilt[1, 4, 3] = value
        found = layer.run(spoilt, mask, ThreadPool(threads))
        assert np.isnan(found[1]).all()
        np.testing.assert_array_equal(found[0], expected[0])


def test_a_sequence_whose_sums_could_pass_int32_is_refused():
    layer = FloatLayer(4, 4, 1, np.random.default_rng(0)).layer()
    with pytest.raises(RunError, match="a sequence of 65536 tokens: at most 65535 are supported"):
        layer.run(np.zeros((1, 65536, 4), np.float32), np.ones((1, 65536), np.int64))


def test_uneven_rows_are_sorted():
    formula = FloatLayer(64, 128, 4, np.random.default_rng(0), uneven=True)
    layer = formula.layer()
    for index, name in ((3, "attention_output"), (4, "intermediate"), (5, "output")):
        before = (formula.weights[index] != 0).sum(axis=1)
        after = (layer.weight(name).unpack() != 0).sum(axis=1)
        assert (np.diff(before) > 0).any()
        assert (np.diff(after) <= 0).all()
        np.testing.assert_array_equal(np.sort(before), np.sort(after))


@pytest.mark.parametrize(
    ("threads", "sequence", "uneven"), [(1, 50, False), (2, 50, True), (4, 6, False), (4, 6, True)]
)
def test_layer_in_place(threads, sequence, uneven, isa):
    rng = np.random.default_rng(0)
    layer = FloatLayer(64, 128, 4, rng, uneven).layer(isa=isa)
    x = rng.standard_normal((2, sequence, 64)).astype(np.float32)
    mask = np.ones((2, sequence), np.int64)
    if sequence == 50:
        mask[1, 30:] = 0
    apart = layer.run(x, mask)
    pool, error = ThreadPool(threads), abi.Error()
    inputs = abi.LayerInputs(x.ctypes.data, mask.ctypes.data, 2, sequence)
    code = abi.core().sd_layer_run(
        layer._handle, ctypes.byref(inputs), x.ctypes.data, ctypes.byref(pool.handle), error
    )  # fmt: skip
    assert code == 0
    np.testing.assert_array_equal(x, apart)


def test_static_quantisation_of_a_layer(isa):
    rng = np.random.default_rng(4)
    formula = FloatLayer(64, 128, 4, rng)
    x = rng.standard_normal((1, 30, 64)).astype(np.float32)
    mask = np.ones((1, 30), np.int64)
    layer = formula.layer(static=[(8 / 255, 128), (8 / 255, 128), (8 / 255, 128), (8 / 255, 10)], isa=isa)
    assert relative_error(layer.run(x, mask), formula(x, mask)) < 0.04


@pytest.mark.parametrize(
    ("change", "message"),
    [({"heads": 3}, "num_heads must divide"), ({"heads": 64}, "head size must be even"),
     ({"activation": "tanh"}, "activation must be")],
)  # fmt: skip
def test_impossible_layers_are_refused(change, message):
    formula = FloatLayer(64, 128, 4, np.random.default_rng(0))
    formula.heads = change.pop("heads", 4)
    with pytest.raises(ArtifactError, match=message):
        formula.layer(**change)


def test_weight_of_the_wrong_shape_is_refused():
    formula = FloatLayer(64, 128, 4, np.random.default_rng(0))
    formula.weights[2] = formula.weights[2][:, :32]
    with pytest.raises(ArtifactError, match="value: expected a weight of 64 x 64, found 64 x 32"):
        formula.layer()
