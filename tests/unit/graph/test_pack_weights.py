# SPDX-License-Identifier: Apache-2.0
"""Weights on their way into sparse operators: quantized once, zeros kept, int8 taken over, names kept."""

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparse_deploy.graph.linears import Linear
from sparse_deploy.graph.pack_weights import Packer, int8_weight, quantize
from sparse_deploy.graph.weights import OnnxWeight, Orientation
from sparse_deploy.sparsity.packing import decode

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    # Below, max / 127 is no normal number any more, and half a step is no longer what rounding leaves.
    elements=st.one_of(st.just(0.0), st.floats(-8, 8, width=32).filter(lambda value: abs(value) > 1e-30)),
)


def linear(values, *, scale=None, orientation=Orientation.OUT_IN, smoothing=None, stored=None, bias=None):
    weight = OnnxWeight("dense.weight", "dense.weight", values, orientation, None if scale is None else 0, scale)
    stored = stored or ir.Value(name="dense.weight")
    return Linear(weight, stored, bias, ir.Value(name="x"), ir.Value(name="y"), None, smoothing)


@settings(max_examples=100, deadline=None)
@given(MATRICES)
def test_quantisation_keeps_zeros_and_errs_by_half_a_step(weight):
    stored, scale = quantize(weight)
    assert stored.dtype == np.int8
    assert stored.min() >= -127
    assert (stored[weight == 0] == 0).all()
    assert (np.abs(stored * scale[:, None] - weight) <= scale[:, None] * 0.501).all()
    used = np.abs(weight).max(axis=1) > 1e-30
    assert (np.abs(stored).max(axis=1)[used] == 127).all()


def test_halves_round_to_even_and_an_empty_channel_has_scale_one():
    weight = np.array([[127, 0.5, 1.5, -2.5], [0, 0, 0, 0]], np.float32)
    stored, scale = quantize(weight)
    assert stored.tolist() == [[127, 0, 2, -2], [0, 0, 0, 0]]
    assert scale.tolist() == [1, 1]


def test_stored_int8_is_taken_over_with_its_scale():
    values = np.array([[-128, 0, 127], [5, -6, 0]], np.int8)
    scale = np.array([[0.5], [0.25]], np.float32)
    for layer in (
        linear(values, scale=scale),
        linear(values.T.copy(), scale=scale.T.copy(), orientation=Orientation.IN_OUT),
    ):
        stored, found = int8_weight(layer)
        assert stored.tolist() == [[-127, 0, 127], [5, -6, 0]]
        assert found.tolist() == [0.5, 0.25]
    assert int8_weight(linear(values, scale=np.array([[0.5]], np.float32)))[1].tolist() == [0.5, 0.5]


def test_a_smoothed_weight_gets_its_factors_back():
    smoothed = np.array([[100, 0, 100]], np.int8)
    stored, scale = int8_weight(
        linear(smoothed, scale=np.array([[0.01]], np.float32), smoothing=np.array([0.5, 3, 1], np.float32))
    )
    np.testing.assert_allclose(stored * scale[:, None], [[0.5, 0, 1.0]], atol=0.004)
    assert stored[0, 1] == 0


def test_a_shared_weight_is_packed_once_and_takes_the_name_when_it_is_free():
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20})
    original = ir.Value(name="dense.weight", const_value=ir.tensor(np.eye(4, dtype=np.float32), name="dense.weight"))
    graph.register_initializer(original)
    packer = Packer(graph)
    layers = [linear(np.eye(4, dtype=np.float32), stored=original) for _ in range(2)]
    first, second = (packer.pack(layer) for layer in layers)
    assert first == second
    assert first.bias.const_value.numpy().tolist() == [0, 0, 0, 0]
    packer.take_names()
    assert first.weight.name == "dense.weight_quantized"  # the unpacked one is still there
    graph.initializers.pop("dense.weight")
    packer.take_names()
    assert first.weight.name == "dense.weight"
    assert first.scale.name == "dense.weight_scale"
    np.testing.assert_array_equal(decode(graph.initializers["dense.weight"].const_value.numpy()), np.eye(4) * 127)


def test_layers_that_share_a_weight_keep_their_own_bias():
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20})
    packer, stored = Packer(graph), ir.Value(name="dense.weight")
    biases = [ir.Value(name=name) for name in ("a", "b")]
    packed = [packer.pack(linear(np.eye(4, dtype=np.float32), stored=stored, bias=bias)) for bias in biases]
    assert packed[0].weight is packed[1].weight
    assert [one.bias for one in packed] == biases
