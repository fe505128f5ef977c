# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile variants of model files and manifests, reproducible from a seed."""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

_NUMBERS = (
    b"0", b"1", b"-1", b"2147483648", b"4294967296", b"4294967297", b"18446744073709551615", b"18446744073709551616",
    b"1e999", b"NaN", b"0x10", b"9" * 400, b"",
)  # fmt: skip
_VARINTS = (b"\x00", b"\x7f", b"\xff\x01", b"\xff\xff\xff\xff\x07", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x80\x00")
_TEXT_NUMBER = re.compile(rb"(?<![\w.])-?\d+(?![\w.])")
_TEXT_STRING = re.compile(rb'"[^"\n]{1,200}"')
_HOSTILE_STRINGS = (
    b'""', b'"../../etc/passwd"', b'"/etc/passwd"', b'"opset99"', b'"extension"', b'"If"', b'"Const"', b'"\\u0000"',
    b'"-1"', b'"' + b"A" * 5000 + b'"', b'"..\\\\x"',
)  # fmt: skip

_LOCATIONS = ("../x", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "weights")
_WINDOW = 4096


@dataclass(frozen=True)
class Original:
    """A file to damage.

    Attributes:
        name: name of the file.
        data: bytes of the file.
        structure: positions outside the weights, which most changes use; empty: all positions.
    """

    name: str
    data: bytes
    structure: Sequence[int] = ()


def structure_of_onnx(data: bytes) -> list[int]:
    """The positions of an ONNX file outside the weights."""
    inside = bytearray(len(data))
    for tensor in onnx.ModelProto.FromString(data).graph.initializer:
        start = data.find(tensor.raw_data) if len(tensor.raw_data) >= 16 else -1
        if start >= 0:
            inside[start : start + len(tensor.raw_data)] = b"\1" * len(tensor.raw_data)
    return [position for position, within in enumerate(inside) if not within]


def mutate(original: Original, random: random.Random) -> bytes:
    """One variant: usually a few random changes, sometimes a targeted hostile change."""
    data = original.data
    if random.random() < 0.25:
        if original.name.endswith(".onnx"):
            return random.choice(_ONNX_CHANGES)(data, random)
        if original.name == "manifest.json":
            return random.choice(_MANIFEST_CHANGES)(data, random)
    text = original.name.endswith((".xml", ".json"))
    text |= original.name.endswith(".safetensors") and random.random() < 0.5
    changes = _TEXT_CHANGES if text and random.random() < 0.6 else _BLIND_CHANGES
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(changes)(data, random, original.structure)
    return data


def _position(data: bytes, random: random.Random, structure: Sequence[int]) -> int:
    if structure and random.random() < 0.9:
        return min(random.choice(structure), max(len(data) - 1, 0))
    return random.randrange(max(len(data), 1))


def _flip_bit(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    at = _position(data, random, structure)
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :] if data else data


def _set_byte(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    at = _position(data, random, structure)
    return data[:at] + bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))]) + data[at + 1 :]


def _truncate(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    return data[: _position(data, random, structure)]


def _insert(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    at = _position(data, random, structure)
    return data[:at] + random.randbytes(random.choice((1, 2, 8, 100))) + data[at:]


def _delete(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    at = _position(data, random, structure)
    return data[:at] + data[at + random.choice((1, 2, 8, 100)) :]


def _splice(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    source, at = _position(data, random, structure), _position(data, random, structure)
    length = random.choice((1, 4, 16, 64, 512))
    keep = random.choice((0, length))
    return data[:at] + data[source : source + length] + data[at + keep :]


def _edit_length(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    at = _position(data, random, structure)
    return data[:at] + random.choice(_VARINTS) + data[at + 1 :]


def _edit_first_bytes(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    length = random.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(data), len(data) - 8, random.randrange(2**16)))
    return length.to_bytes(8, "little") + data[8:]


def _edit_number(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    return _replace_match(_TEXT_NUMBER, data, random, _NUMBERS)


def _edit_string(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    return _replace_match(_TEXT_STRING, data, random, _HOSTILE_STRINGS)


def _swap_strings(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    at = random.randrange(max(len(data) - _WINDOW, 1))
    found = _TEXT_STRING.findall(data[at : at + _WINDOW])
    return _replace_match(_TEXT_STRING, data, random, found) if found else data


def _nest(data: bytes, random: random.Random, structure: Sequence[int]) -> bytes:
    at = _position(data, random, structure)
    deep = random.choice((b"<a>", b"[", b'{"a":', b"<layer><data>", b"<!DOCTYPE a>", b"&a;"))
    return data[:at] + deep * random.choice((1, 10, 20_000)) + data[at:]


def _replace_match(pattern: re.Pattern[bytes], data: bytes, random: random.Random, by: Sequence[bytes]) -> bytes:
    at = random.randrange(max(len(data) - _WINDOW, 1))
    matches = [match.span() for match in pattern.finditer(data, at, at + _WINDOW)]
    if not matches:
        return data
    start, end = random.choice(matches)
    return data[:start] + random.choice(by) + data[end:]


_BLIND_CHANGES = (_flip_bit, _set_byte, _truncate, _insert, _delete, _splice, _edit_length, _edit_first_bytes)
_TEXT_CHANGES = (_edit_number, _edit_string, _swap_strings, _nest, _splice)


def _onnx(change: Callable[[onnx.ModelProto, random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def changed(data: bytes, random: random.Random) -> bytes:
        model = onnx.ModelProto.FromString(data)
        change(model, random)
        return bytes(model.SerializeToString())

    return changed


def _external(model: onnx.ModelProto, random: random.Random) -> None:
    tensor = random.choice(model.graph.initializer)
    if random.random() < 0.5:
        tensor.data_location = TensorProto.EXTERNAL
    if random.random() < 0.8:
        tensor.external_data.add(key="location", value=random.choice(_LOCATIONS))
    if random.random() < 0.5:
        tensor.ClearField("raw_data")


def _dims(model: onnx.ModelProto, random: random.Random) -> None:
    tensor = random.choice(model.graph.initializer)
    tensor.dims.append(random.choice((0, 2, -1, 2**31, 2**32, 2**62, -(2**63))))


def _domain(model: onnx.ModelProto, random: random.Random) -> None:
    domain = random.choice(("evil", "ai.onnx.ml", "com.microsoft.nchwc", "sparse_deploy ", "ai.onnx.preview.training"))
    if random.random() < 0.5:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    if random.random() < 0.7:
        random.choice(model.graph.node).domain = domain


def _attribute(model: onnx.ModelProto, random: random.Random) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2**40])
    attribute = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(helper.make_sparse_tensor(values, indices, [4]))
    graph = helper.make_attribute("then_branch", helper.make_graph([], "g", [], []))
    random.choice(model.graph.node).attribute.append(random.choice((attribute, graph)))


def _extras(model: onnx.ModelProto, random: random.Random) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [random.choice((-1, 5, 2**40))])
    what = random.randrange(3)
    if what == 0:
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    elif what == 1:
        node = helper.make_node("Relu", ["a"], ["b"])
        model.functions.append(helper.make_function("com.microsoft", "F", ["a"], ["b"], [node], []))
    else:
        model.training_info.add()


def _rewire(model: onnx.ModelProto, random: random.Random) -> None:
    one, other = random.choice(model.graph.node), random.choice(model.graph.node)
    if one.input and other.output:
        one.input[random.randrange(len(one.input))] = random.choice((other.output[0], "nothing", ""))
    if random.random() < 0.3:
        one.op_type = other.op_type


def _shuffle_weights(model: onnx.ModelProto, random: random.Random) -> None:
    one, other = random.choice(model.graph.initializer), random.choice(model.graph.initializer)
    one.name, other.name = other.name, one.name


def _huge_constant(model: onnx.ModelProto, random: random.Random) -> None:
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT64]
    tensor = random.choice(tensors)
    numbers = [random.choice((2**20, 2**40, -1, -(2**63))) for _ in range(len(tensor.raw_data) // 8)]
    tensor.raw_data = b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)


_ONNX_CHANGES = tuple(
    _onnx(change)
    for change in (_external, _dims, _domain, _attribute, _extras, _rewire, _shuffle_weights, _huge_constant)
)


def _json(change: Callable[[dict[str, Any], random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def changed(data: bytes, random: random.Random) -> bytes:
        content = json.loads(data)
        change(content, random)
        return json.dumps(content).encode()

    return changed


def _edit_path(content: dict[str, Any], random: random.Random) -> None:
    record = random.choice(content["files"])
    path = record["path"]
    paths = ("../x", "/etc/hostname", "./" + path, path + "\0", path.upper(), "a\\b", "manifest.json", "", ".")
    record["path"] = random.choice(paths)


def _edit_record(content: dict[str, Any], random: random.Random) -> None:
    record = random.choice(content["files"])
    record[random.choice(("bytes", "sha256"))] = random.choice((0, -1, 2**70, "0" * 64, "", None, random.random()))


def _drop_record(content: dict[str, Any], random: random.Random) -> None:
    content["files"].pop(random.randrange(len(content["files"])))


def _double_record(content: dict[str, Any], random: random.Random) -> None:
    content["files"] += random.choice((content["files"], [random.choice(content["files"])])) * random.choice((1, 200))


def _edit_text(content: dict[str, Any], random: random.Random) -> None:
    content[random.choice(list(content))] = random.choice(("x", 1, None, [], {}, "checkpoint", {"a": [[[[]]]]}))


_MANIFEST_CHANGES = tuple(_json(c) for c in (_edit_path, _edit_record, _drop_record, _double_record, _edit_text))
