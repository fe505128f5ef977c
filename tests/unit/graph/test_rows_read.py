# SPDX-License-Identifier: Apache-2.0
"""The rows and the form of an encoder layer's output follow from its readers; the results are equal."""

import numpy as np
import onnx_ir as ir
import pytest
from sparse_operators import layer_constants, layer_model
from tiny_graphs import exported, inputs, kept

from sparse_deploy.graph import operators
from sparse_deploy.graph.model_file import load_onnx, save_onnx
from sparse_deploy.graph.sparse_model import to_sparse_model
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.trim_last_layer import TrimLastLayer
from sparse_deploy.graph.unpad_between_layers import UnpadBetweenLayers
from sparse_deploy.kernels.reference import ReferenceSession

HIDDEN = 32


def stack(layers=2):
    """X, mask → layers → Y, as a graph."""
    constants = [layer_constants(HIDDEN, 64, seed=10 * number) for number in range(layers)]
    return ir.from_proto(layer_model(constants, hidden=HIDDEN, heads=2))


def add_reader(model, op_type, *constants, value=None, **attributes):
    """A node that reads the model's output (or ``value``) and becomes its output."""
    read = value or model.graph.outputs[0]
    given = []
    for place, array in enumerate(constants):
        tensor = ir.tensor(np.asarray(array), name=f"{op_type}_{place}_{len(model.graph)}")
        given.append(
            ir.Value(name=tensor.name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        )
        model.graph.register_initializer(given[-1])
    node = ir.node(op_type, [read, *given], attributes, name=f"{op_type}_{len(model.graph)}")
    node.outputs[0].name = f"out_{len(model.graph)}"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(node)
    if value is None:
        model.graph.outputs[0] = node.outputs[0]
    else:
        model.graph.outputs.append(node.outputs[0])
    return node


def layers_of(model):
    return [node for node in model.graph if operators.is_encoder_layer(node)]


def attributes(node):
    names = ("operator_version", "output_tokens", "unpadded_input", "unpadded_output")
    return tuple(node.attributes.get_int(name, 0) for name in names)


def answers(model, folder, name):
    save_onnx(model, folder / name)
    random = np.random.default_rng(0)
    mask = (np.arange(7) < np.array([[7], [3], [1]])).astype(np.int64)
    batch = {"X": random.normal(size=(3, 7, HIDDEN)).astype(np.float32), "mask": mask}
    return ReferenceSession(folder / name).run(batch)


READERS = {
    "token 0": (("Gather", np.array(0)), {"axis": 1}, 1),
    "token 0, kept as an axis": (("Gather", np.array([0])), {"axis": -2}, 1),
    "tokens 0 and 3": (("Gather", np.array([0, 3])), {"axis": 1}, 4),
    "a slice": (("Slice", np.array([0]), np.array([2]), np.array([1])), {}, 2),
    "a slice, not from 0": (("Slice", np.array([1]), np.array([3]), np.array([1])), {}, 3),
    "a slice of two axes": (("Slice", np.array([0, 0]), np.array([9, 1]), np.array([2, 1]), np.array([1, 1])), {}, 1),
}
OTHERS = {
    "the last token": (("Gather", np.array(-1)), {"axis": 1}),
    "another axis": (("Gather", np.array(0)), {"axis": 0}),
    "a slice to the end": (("Slice", np.array([0]), np.array([2**63 - 1]), np.array([1])), {}),
    "a slice from behind": (("Slice", np.array([-2]), np.array([9]), np.array([1])), {}),
    "a mean": (("ReduceMean", np.array([1])), {}),
    "a LayerNorm over tokens": (("LayerNormalization", np.ones((7, HIDDEN), np.float32)), {"axis": 1}),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_layer_computes_the_tokens_that_its_reader_takes(reader, tmp_path):
    (op_type, *constants), settings, tokens = READERS[reader]
    model = stack()
    add_reader(model, op_type, *constants, **settings)
    before = answers(model, tmp_path, "before.onnx")
    trim = TrimLastLayer()
    after = answers(run_passes(model, trim), tmp_path, "after.onnx")
    assert trim.trimmed == {"layer_1": tokens}
    assert [attributes(node) for node in layers_of(model)] == [(0, 0, 0, 0), (2, tokens, 0, 0)]
    assert load_onnx(tmp_path / "after.onnx").opset_imports[operators.DOMAIN] == 2
    np.testing.assert_array_equal(before[0], after[0])


@pytest.mark.parametrize("reader", OTHERS)
def test_a_reader_of_other_tokens_leaves_the_layer_whole(reader):
    (op_type, *constants), settings = OTHERS[reader]
    model = stack()
    add_reader(model, op_type, *constants, **settings)
    run_passes(model, TrimLastLayer())
    assert attributes(layers_of(model)[1]) == (0, 0, 0, 0)
    assert model.opset_imports[operators.DOMAIN] == 1


def test_two_readers_get_what_both_need_and_a_model_output_everything(tmp_path):
    model = stack()
    result = model.graph.outputs[0]
    add_reader(model, "Gather", np.array(0), axis=1)
    add_reader(model, "Gather", np.array([1, 2]), value=result, axis=1)
    before = answers(model, tmp_path, "before.onnx")
    after = answers(run_passes(model, TrimLastLayer()), tmp_path, "after.onnx")
    assert attributes(layers_of(model)[1]) == (2, 3, 0, 0)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)

    model = stack()
    add_reader(model, "Gather", np.array(0), value=model.graph.outputs[0], axis=1)
    run_passes(model, TrimLastLayer())
    assert attributes(layers_of(model)[1]) == (0, 0, 0, 0)


def test_a_norm_between_layer_and_reader_is_no_obstacle(tmp_path):
    model = stack()
    add_reader(model, "LayerNormalization", np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32), axis=-1)
    add_reader(model, "Gather", np.array(0), axis=1)
    before = answers(model, tmp_path, "before.onnx")
    after = answers(run_passes(model, TrimLastLayer()), tmp_path, "after.onnx")
    assert attributes(layers_of(model)[1]) == (2, 1, 0, 0)
    np.testing.assert_array_equal(before[0], after[0])


def test_layers_hand_each_other_rows_without_padding(tmp_path):
    model = stack(3)
    before = answers(model, tmp_path, "before.onnx")
    after = answers(run_passes(model, UnpadBetweenLayers()), tmp_path, "after.onnx")
    assert [attributes(node) for node in layers_of(model)] == [(2, 0, 0, 1), (2, 0, 1, 1), (2, 0, 1, 0)]
    np.testing.assert_array_equal(before[0], after[0])


@pytest.mark.parametrize("also", ["a model output", "another node", "another mask"])
def test_a_value_that_something_else_reads_stays_padded(also):
    model = stack()
    first, second = layers_of(model)
    between = first.outputs[0]
    if also == "a model output":
        model.graph.outputs.append(between)
    elif also == "another node":
        add_reader(model, "Identity", value=between)
    else:
        mask = ir.Value(name="mask_2", shape=first.inputs[1].shape, type=first.inputs[1].type)
        model.graph.inputs.append(mask)
        second.replace_input_with(1, mask)
    run_passes(model, UnpadBetweenLayers())
    assert [attributes(node) for node in layers_of(model)] == [(0, 0, 0, 0)] * 2


@pytest.mark.parametrize(("name", "expected"), [
    ("bert", [(2, 0, 0, 1), (2, 1, 1, 0)]), ("bert-qa", [(2, 0, 0, 1), (2, 0, 1, 0)]),
])  # fmt: skip
def test_an_exported_classifier_is_trimmed_and_one_that_answers_per_token_is_not(name, expected, tmp_path):
    model = to_sparse_model(exported(name)).model
    save_onnx(model, tmp_path / "model.onnx")
    assert [attributes(node) for node in layers_of(model)] == expected
    batch = inputs(3, 9)
    for node in layers_of(model):
        for attribute in ("operator_version", "output_tokens", "unpadded_input", "unpadded_output"):
            node.attributes.pop(attribute, None)
    save_onnx(model, tmp_path / "version_1.onnx")
    found, plain = (
        kept(ReferenceSession(tmp_path / file).run(batch), batch) for file in ("model.onnx", "version_1.onnx")
    )
    np.testing.assert_array_equal(found, plain)
