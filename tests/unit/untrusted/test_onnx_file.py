# SPDX-License-Identifier: Apache-2.0
"""Exported files pass; each construct that they do not need is refused, by a reader independent of onnx."""

import contextlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from sparse_deploy.errors import ArtifactError, ExitCode
from sparse_deploy.untrusted import onnx_file
from sparse_deploy.untrusted.onnx_file import check_onnx


def small_model() -> ModelProto:
    """One product, with a weight, an attribute tensor, symbolic shapes, and every kind of list that an export has."""
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "weight")
    zero_point = helper.make_tensor("zero_point", TensorProto.INT8, [2], [0, -1])  # in int32_data
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["y"], name="product"),
        helper.make_node("Transpose", ["y"], ["t"], perm=[1, 0]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(1))),
        helper.make_node("FusedGelu", ["t"], ["logits"], domain="com.microsoft", approximate="none", alpha=1.0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4, "batch"])],
        [weight, zero_point],
        value_info=[helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def check(model: ModelProto | bytes, tmp_path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    check_onnx(path)


def test_the_small_model_passes(tmp_path):
    check(small_model(), tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx", "model_sparse.onnx"])
def test_exports_pass(tiny_deployment, name):
    check_onnx(tiny_deployment / name)


def first_weight(model: ModelProto) -> TensorProto:
    return model.graph.initializer[0]


def external(model: ModelProto) -> None:
    first_weight(model).ClearField("raw_data")
    first_weight(model).data_location = TensorProto.EXTERNAL
    first_weight(model).external_data.add(key="location", value="../../etc/passwd")


def external_marker_only(model: ModelProto) -> None:
    first_weight(model).data_location = TensorProto.EXTERNAL


def external_entry_only(model: ModelProto) -> None:
    first_weight(model).external_data.add(key="location", value="weights.bin")


def external_in_an_attribute(model: ModelProto) -> None:
    tensor = model.graph.node[2].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="/etc/passwd")


def subgraph(model: ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("then_branch", model.graph))


def sparse_attribute(model: ModelProto) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2**40])
    attribute = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(helper.make_sparse_tensor(values, indices, [4]))
    model.graph.node[2].attribute.append(attribute)


def sparse_initializer(model: ModelProto) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def function(model: ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("com.microsoft", "F", ["a"], ["b"], [node], []))


def sequence_type(model: ModelProto) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.value_info.append(helper.make_value_info("s", kind))


def set_field(get: Callable, **values: object) -> Callable:
    def change(model: ModelProto) -> None:
        for name, value in values.items():
            setattr(get(model), name, value)

    return change


def extend(get: Callable, name: str, values: list) -> Callable:
    return lambda model: getattr(get(model), name).extend(values)


def node(model: ModelProto) -> onnx.NodeProto:
    return model.graph.node[0]


def attribute(model: ModelProto) -> AttributeProto:
    return model.graph.node[1].attribute[0]


CHANGES = {
    "external": (external, "external data"),
    "external, marked only": (external_marker_only, "external data"),
    "external, named only": (external_entry_only, "external data"),
    "external, in an attribute": (external_in_an_attribute, "external data"),
    "subgraph": (subgraph, "AttributeProto has field 6"),
    "sparse attribute": (sparse_attribute, "AttributeProto has field 22"),
    "sparse initializer": (sparse_initializer, "GraphProto has field 15"),
    "function": (function, "ModelProto has field 25"),
    "sequence": (sequence_type, "TypeProto has field 4"),
    "training": (lambda model: model.training_info.add(), "ModelProto has field 20"),
    "reference": (set_field(attribute, ref_attr_name="perm"), "field 21"),
    "overload": (set_field(node, overload="x"), "field 8"),
    "foreign domain": (set_field(node, domain="evil"), "'evil'"),
    "foreign domain that looks like ours": (set_field(node, domain="sparse_deploy\0"), "NUL"),
    "domain without import": (set_field(node, domain="sparse_deploy"), "without importing"),
    "many operator sets": (
        lambda m: m.opset_import.extend(helper.make_opsetid(f"o{number}", 1) for number in range(65)), "more than 64"
    ),
    "operator set of the future": (set_field(lambda m: m.opset_import[0], version=999), "version 999"),
    "operator set of no version": (set_field(lambda m: m.opset_import[0], version=-1), "version"),
    "operator set twice": (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 20)), "twice"),
    "operator without a name": (lambda m: node(m).ClearField("op_type"), "name of an operator"),
    "operator with a path": (set_field(node, op_type="../x"), "name of an operator"),
    "IR of the future": (set_field(lambda m: m, ir_version=99), "IR version"),
    "no graph": (lambda m: m.ClearField("graph"), "no graph"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "no node"),
    "same initializer twice": (lambda m: m.graph.initializer.append(first_weight(m)), "comes twice"),
    "initializer without a name": (lambda m: first_weight(m).ClearField("name"), "no name"),
    "long name": (set_field(node, name="x" * 2000), "longer than"),
    "more bytes than the shape": (set_field(first_weight, raw_data=bytes(49)), "expected 48"),
    "no bytes": (lambda m: first_weight(m).ClearField("raw_data"), "has 0 bytes"),
    "shape that overflows 64 bits": (extend(first_weight, "dims", [2**30, 2**30, 2**30]), "has 48 bytes"),
    "shape that wraps to the same product": (extend(first_weight, "dims", [2**32 + 1]), "has shape"),
    "negative dimension": (extend(first_weight, "dims", [-1, -1]), "has shape"),
    "many dimensions": (extend(first_weight, "dims", [1] * 9), "has shape"),
    "strings": (set_field(first_weight, data_type=TensorProto.STRING), "element type 8"),
    "unknown type": (set_field(first_weight, data_type=77), "element type 77"),
    "values twice": (extend(first_weight, "float_data", [0.0] * 12), "values twice"),
    "too few typed values": (lambda m: m.graph.initializer[1].int32_data.pop(), "has 1 values"),
    "typed values of another type": (set_field(lambda m: m.graph.initializer[1], data_type=7), "has int32_data"),
    "segment": (lambda m: first_weight(m).segment.SetInParent(), "TensorProto has field 3"),
    "attribute of two types": (set_field(attribute, f=1.0), "has 'f, ints'"),
    "attribute that says subgraph": (set_field(attribute, type=AttributeProto.GRAPH), "type 5"),
    "attribute without a type": (lambda m: attribute(m).ClearField("type"), "type 0"),
    "long attribute": (extend(attribute, "ints", [1] * 5000), "more than 4096"),
    "many attributes": (lambda m: node(m).attribute.extend([attribute(m)] * 65), "more than 64 attributes"),
    "huge dimension of a value": (
        set_field(lambda m: m.graph.input[0].type.tensor_type.shape.dim[1], dim_value=2**40), "dimension of",
    ),
    "value of strings": (set_field(lambda m: m.graph.input[0].type.tensor_type, elem_type=8), "element type 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_no_export_holds_is_refused(tmp_path, name):
    change, said = CHANGES[name]
    model = small_model()
    change(model)
    with pytest.raises(ArtifactError, match=said) as caught:
        check(model, tmp_path)
    assert caught.value.exit_code is ExitCode.BAD_ARTIFACT
    assert "\n" not in str(caught.value)
    assert "model.onnx: refused unopened: " in str(caught.value)


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


WHOLE = small_model().SerializeToString()
GRAPH = small_model().graph.SerializeToString()
TENSOR = numpy_helper.from_array(np.zeros(2, np.float32), "twin").SerializeToString()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "found 0"),
        (WHOLE + b"\x00", "has field 0"),
        (WHOLE + field(7, GRAPH), "graph comes twice"),  # native parsers would merge it into the first
        (WHOLE + b"\x08\x0a", "ir_version comes twice"),
        (WHOLE + b"\x3b\x3c", "wire type 3"),  # a group
        (WHOLE + field(20, b""), "has field 20"),
        (WHOLE + b"\xfa\x01", "has field 31"),
        (b"\x08\x0a" + field(7, GRAPH)[:-1], "claims"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x08\x80", "truncated"),
        (b"\x08", "truncated"),
        (b"\x3a" + varint(2**63) + b"abc", "claims"),
        (b"\x0d\x00\x00\x00\x00", "wire type 5"),
        (b"\x08\x0a" + field(7, GRAPH + field(5, TENSOR + field(9, bytes(8)))), "raw_data comes twice"),
        # 2^32 + 1 is cut to 1, external, by parsers that store the field in 32 bits.
        (b"\x08\x0a" + field(7, GRAPH + field(5, TENSOR + b"\x70" + varint(2**32 + 1))), "external data"),
        (b"\x08\x0a" + field(7, GRAPH + field(5, TENSOR[:-8] + b"\x10" + varint(2**32 + 1))), "comes twice|claims"),
    ],
)
def test_damaged_and_ambiguous_encodings(tmp_path, data, said):
    with pytest.raises(ArtifactError, match=said):
        check(data, tmp_path)


def test_time_is_bounded_by_the_number_of_fields(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 1000)
    empty_names = field(1, b"") * 2000
    with pytest.raises(ArtifactError, match="more fields"):
        check(b"\x08\x0a" + field(7, field(1, empty_names)), tmp_path)


@pytest.mark.parametrize(("limit", "said"), [("MAX_NODES", "3 nodes"), ("MAX_INITIALIZERS", "1 initializers")])
def test_counts(tmp_path, monkeypatch, limit, said):
    monkeypatch.setattr(onnx_file, limit, int(said[0]))
    with pytest.raises(ArtifactError, match=f"more than {said}"):
        check(small_model(), tmp_path)


def test_a_large_file_is_refused_unread(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31)  # sparse: takes no disk
    with pytest.raises(ArtifactError, match="expected 1 to 2147483647 bytes"):
        check_onnx(path)


def test_packed_and_unpacked_dimensions_are_the_same(tmp_path):
    tensor = b"\x10\x01" + field(8, b"n") + field(9, bytes(24))
    for dims in (b"\x08\x02\x08\x03", field(1, b"\x02\x03")):
        check(b"\x08\x0a" + field(8, b"\x10\x14") + field(7, GRAPH_OF_ONE + field(5, dims + tensor)), tmp_path)


GRAPH_OF_ONE = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Relu"))


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_passes_after_damage_is_harmless_to_an_independent_parser(tmp_path, data):
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArtifactError):
        check(bytes(damaged), tmp_path)
        model = ModelProto.FromString(bytes(damaged))
        assert {n.domain for n in model.graph.node} <= {"", "ai.onnx", "com.microsoft", "sparse_deploy"}
        assert not any(t.data_location or t.external_data for t in model.graph.initializer)
        assert not model.functions
        assert not model.graph.sparse_initializer
