# SPDX-License-Identifier: Apache-2.0
"""Encoder layers are matched by their results; a changed edge, number or node is refused with a reason."""

import numpy as np
import onnx_ir as ir
import pytest
from tiny_graphs import ARCHITECTURES, exported

from sparse_deploy.graph.encoder_layers import EncoderLayerMatcher
from sparse_deploy.graph.linears import find_linears
from sparse_deploy.graph.matching import NoMatchError


def match_first(model):
    anchor = next(node for node in model.graph if node.op_type in ("Softmax", "Attention"))
    return EncoderLayerMatcher(find_linears(model)[0], list(model.graph.inputs)).match(anchor)


def nodes(model, kind):
    return [node for node in model.graph if node.op_type == kind]


def layer_inputs(model):
    """Output of the embeddings' LayerNorm, of the first layer's two, and of the second layer's first."""
    return [node.outputs[0] for node in nodes(model, "LayerNormalization")[:4]]


def put_constant(model, node, index, array):
    value = ir.Value(name=f"changed_{index}", const_value=ir.tensor(np.asarray(array), name=f"changed_{index}"))
    model.graph.register_initializer(value)
    node.replace_input_with(index, value)


def insert_behind(model, value, kind, *others, attributes=None):
    """A node between a value and all of its users."""
    users = [(use.node, use.idx) for use in value.uses()]
    node = ir.node(kind, [value, *others], attributes or {})
    node.outputs[0].name = f"inserted_{kind}"
    for user, index in users:
        user.replace_input_with(index, node.outputs[0])
    model.graph.insert_after(value.producer(), node)
    return node


@pytest.mark.parametrize(
    ("name", "int8"),
    [*((name, False) for name in (*ARCHITECTURES, "albert")), ("bert", True), ("roberta", True), ("distilbert", True)],
)
def test_layers_of_every_architecture_are_matched(name, int8):
    model = exported(name, int8=int8)
    layer = match_first(model)
    names = [linear.name for linear in layer.linears]
    assert ["q" in n for n in names[:1]] + ["k" in n for n in names[1:2]] + ["v" in n for n in names[2:3]] == [True] * 3
    assert layer.attention.heads == (3 if name == "bert-three-heads" else 2)
    assert layer.activation == ("gelu_tanh" if name in ("bert-three-heads", "albert") else "gelu")
    assert layer.attention.mask.name == "attention_mask"
    assert all((linear.static is not None) == int8 for linear in layer.linears)


@pytest.mark.parametrize("opset", [17, 23], ids=["GELU of Erf", "one Attention node"])
def test_layers_of_other_operator_sets_are_matched(opset):
    model = exported("bert", opset=opset)
    assert bool(nodes(model, "Attention" if opset == 23 else "Erf"))
    assert match_first(model).activation == "gelu"


def _scores_scaled_twice(model):
    put_constant(model, nodes(model, "MatMul")[3].inputs[0].producer(), 1, np.float32(1.0))


def _softmax_over_queries(model):
    nodes(model, "Softmax")[0].attributes["axis"] = ir.AttrInt64("axis", 2)


def _mask_turned_around(model):
    put_constant(model, nodes(model, "Sub")[0], 0, np.float32(0.0))


def _mask_too_weak(model):
    put_constant(model, nodes(model, "Sub")[0].outputs[0].uses()[0].node, 1, np.float32(-1.0))


def _one_head_off(model):
    bias = ir.Value(name="bias", const_value=ir.tensor(np.float32([[[0.0]], [[1.0]]]), name="bias"))  # per head
    model.graph.register_initializer(bias)
    product = nodes(model, "Softmax")[0].outputs[0].uses()[0].node
    insert_behind(model, nodes(model, "Softmax")[0].outputs[0], "Mul", bias)
    assert product.inputs[0].name == "inserted_Mul"


def _heads_not_merged(model):
    context = nodes(model, "Softmax")[0].outputs[0].uses()[0].node
    transpose = context.outputs[0].uses()[0].node
    transpose.attributes["perm"] = ir.AttrInt64s("perm", [0, 1, 2, 3])


def _values_of_another_input(model):
    embeddings = nodes(model, "LayerNormalization")[0]
    value_product = nodes(model, "MatMul")[2]
    value_product.replace_input_with(0, embeddings.inputs[0])


def _residual_of_another_input(model):
    add = nodes(model, "LayerNormalization")[1].inputs[0].producer()
    index = [value is layer_inputs(model)[0] for value in add.inputs].index(True)
    add.replace_input_with(index, nodes(model, "LayerNormalization")[0].inputs[0])


def _residual_around_the_layer(model):
    add = nodes(model, "LayerNormalization")[2].inputs[0].producer()
    index = [value is layer_inputs(model)[1] for value in add.inputs].index(True)
    add.replace_input_with(index, layer_inputs(model)[0])


def _no_residual(model):
    norm = nodes(model, "LayerNormalization")[1]
    add = norm.inputs[0].producer()
    residual = next(value for value in add.inputs if value is layer_inputs(model)[0])
    norm.replace_input_with(0, next(value for value in add.inputs if value is not residual))
    model.graph.remove(add, safe=True)


def _norm_in_front(model):
    norm = nodes(model, "LayerNormalization")[1]
    insert_behind(model, norm.inputs[0], "Relu")


def _norm_over_two_axes(model):
    nodes(model, "LayerNormalization")[1].attributes["axis"] = ir.AttrInt64("axis", 1)


def _silu(model):
    gelu = nodes(model, "Gelu")[0]
    sigmoid = ir.node("Sigmoid", [gelu.inputs[0]])
    multiply = ir.node("Mul", [gelu.inputs[0], sigmoid.outputs[0]])
    sigmoid.outputs[0].name, multiply.outputs[0].name = "sigmoid", "silu"
    model.graph.insert_before(gelu, [sigmoid, multiply])
    gelu.outputs[0].replace_all_uses_with(multiply.outputs[0])
    model.graph.remove(gelu, safe=True)


def _activation_read_elsewhere(model):
    model.graph.outputs.append(nodes(model, "Gelu")[0].outputs[0])


def _weights_read_elsewhere(model):
    extra = ir.node("Identity", [nodes(model, "Softmax")[0].outputs[0]])
    extra.outputs[0].name = "attention_weights"
    model.graph.insert_after(nodes(model, "Softmax")[0], extra)
    model.graph.outputs.append(extra.outputs[0])


def _hidden_state_as_output(model):
    model.graph.outputs.append(layer_inputs(model)[1])


def _no_mask(model):
    add = nodes(model, "Softmax")[0].inputs[0].producer()
    scores = next(value for value in add.inputs if value.producer().op_type == "MatMul")
    nodes(model, "Softmax")[0].replace_input_with(0, scores)


def _two_masks(model):
    cast = nodes(model, "Cast")[0]
    other = ir.node("Mul", [cast.inputs[0], next(v for v in model.graph.inputs if v.name == "token_type_ids")])
    other.outputs[0].name = "both"
    model.graph.insert_before(cast, other)
    cast.replace_input_with(0, other.outputs[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_scores_scaled_twice, r"scores are scaled by 0\.5, expected 1/sqrt\(16\) = 0\.25"),
        (_softmax_over_queries, r"it is not softmax\(q · kᵀ / sqrt\(16\) \+ mask\) · v"),
        (_mask_turned_around, "it is not softmax"),
        (_mask_too_weak, "it is not softmax"),
        (_one_head_off, "it is not softmax"),
        (_heads_not_merged, "it is not softmax"),
        (_values_of_another_input, "three linear layers of one input, found 2"),
        (_residual_of_another_input, "three linear layers of one input, found 0"),
        (_residual_around_the_layer, "residual is not the attention's LayerNorm"),
        (_no_residual, "expected a residual Add after the attention's output layer, found LayerNormalization"),
        (_norm_in_front, "expected LayerNormalization after the residual Add, found Relu"),
        (_norm_over_two_axes, "over the last axis"),
        (_silu, "feed-forward block is Sigmoid, Mul, expected GELU or ReLU"),
        (_activation_read_elsewhere, "the graph output gelu reads a value from inside it"),
        (_weights_read_elsewhere, "Identity .* reads a value from inside it"),
        (_hidden_state_as_output, "the graph output layer_norm_1 reads a value from inside it"),
        (_no_mask, "expected one attention mask among the model's inputs, found none"),
        (_two_masks, "found attention_mask, token_type_ids"),
    ],
)
def test_a_change_makes_it_a_refusal(change, reason):
    model = exported("bert")
    change(model)
    with pytest.raises(NoMatchError, match=reason):
        match_first(model)
