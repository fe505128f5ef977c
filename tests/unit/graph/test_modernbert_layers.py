# SPDX-License-Identifier: Apache-2.0
"""ModernBERT's layers are matched with their window, their positions and their gate; another formula is refused."""

import numpy as np
import onnx_ir as ir
import pytest
from tiny_architectures import tiny_model

from sparse_deploy.export.exporter import ExportableModel, example_inputs, to_onnx
from sparse_deploy.graph.encoder_layers import EncoderLayerMatcher
from sparse_deploy.graph.linears import find_linears
from sparse_deploy.graph.matching import NoMatchError


@pytest.fixture(scope="module")
def exported():
    module = ExportableModel(tiny_model("modernbert"), ("logits",)).eval()
    return ir.to_proto(to_onnx(module, example_inputs(module.input_names), ("logits",), 20))


@pytest.fixture
def model(exported):
    return ir.from_proto(exported)


def nodes(model, kind):
    return [node for node in model.graph if node.op_type == kind]


def match(model, layer):
    matcher = EncoderLayerMatcher(find_linears(model)[0], list(model.graph.inputs))
    return matcher.match(nodes(model, "Softmax")[layer])


def put_constant(model, node, index, array):
    value = ir.Value(name="changed", const_value=ir.tensor(np.asarray(array), name="changed"))
    model.graph.register_initializer(value)
    node.replace_input_with(index, value)


def test_a_global_layer_without_a_norm_and_local_ones(model):
    first, second, third = (match(model, layer) for layer in range(3))
    assert first.attention_norm is None
    assert [layer.attention.window for layer in (first, second, third)] == [0, 8, 8]
    assert all(layer.norm_first and layer.gated and layer.attention.packed for layer in (first, second, third))
    assert second.attention_norm.beta is None
    assert second.attention.positions == third.attention.positions
    assert first.attention.positions != second.attention.positions
    assert second.x is first.output
    assert [linear.name for linear in second.linears[3:]] == [
        f"model.model.layers.1.{name}.weight" for name in ("attn.Wo", "mlp.Wi", "mlp.Wo")
    ]


def test_a_wider_window_is_found_where_the_probes_are_shorter(model):
    (compare,) = nodes(model, "LessOrEqual")
    put_constant(model, compare, 1, np.int64(200))
    assert match(model, 1).attention.window == 200


def test_the_gate_may_have_another_activation(model):
    gelu = nodes(model, "Gelu")[1]
    relu = ir.node("Relu", [gelu.inputs[0]])
    relu.outputs[0].name = "relu"
    model.graph.insert_before(gelu, relu)
    gelu.outputs[0].replace_all_uses_with(relu.outputs[0])
    model.graph.remove(gelu, safe=True)
    assert match(model, 1).activation == "relu"


def _halves_change_places(model):
    split = nodes(model, "Split")[1]
    gelu, multiply = (value.uses()[0].node for value in split.outputs)
    gelu.replace_input_with(0, split.outputs[1])
    multiply.replace_input_with(1, split.outputs[0])


def _turned_the_other_way(model):
    negate = nodes(model, "Neg")[2]
    negate.outputs[0].replace_all_uses_with(negate.inputs[0])


def _one_sided_window(model):
    absolute = nodes(model, "Abs")[0]
    absolute.outputs[0].replace_all_uses_with(absolute.inputs[0])


def _rows_in_another_order(model):
    first, second = nodes(model, "Slice")[7:9]
    starts = [list(node.inputs[1:3]) for node in (first, second)]
    for node, bounds in zip((first, second), reversed(starts), strict=True):
        for index, value in enumerate(bounds, 1):
            node.replace_input_with(index, value)


def _residual_of_the_norm(model):
    norm = nodes(model, "LayerNormalization")[3]
    add = next(use.node for use in norm.inputs[0].uses() if use.node.op_type == "Add")
    add.replace_input_with(list(add.inputs).index(norm.inputs[0]), norm.outputs[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_halves_change_places, "the activation of the feed-forward block is none, expected GELU or ReLU"),
        (_turned_the_other_way, "it is not softmax"),
        (_one_sided_window, "it is not softmax"),
        (_rows_in_another_order, "rows of a layer of queries, keys and values are in another order"),
        (_residual_of_the_norm, "three linear layers of one input, found 0"),
    ],
)
def test_a_change_makes_it_a_refusal(model, change, reason):
    change(model)
    with pytest.raises(NoMatchError, match=reason):
        match(model, 1)
