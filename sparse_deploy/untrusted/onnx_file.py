# SPDX-License-Identifier: Apache-2.0
"""ONNX files: only the parts of an exported encoder are accepted.

Format: ``onnx.proto`` of https://github.com/onnx/onnx (IR version 14). The messages below do not include parts
that supported models never have: functions, training parts, sparse tensors, tensors in segments or other files,
subgraphs, and types other than tensors. The accepted messages are seven levels deep and not recursive, so no limit of
depth is needed. The size of weights is checked; their values are not read.
"""

import math
from pathlib import Path

import numpy as np

from sparse_deploy.untrusted.protobuf_wire import Field, Kind, Message, WireReader, packed_integers
from sparse_deploy.untrusted.refusal import Refusal, map_file, quoted, refusing

# A protobuf message can't be larger (32-bit signed length).
MAX_FILE_BYTES = 2**31 - 1
# The largest exported file, bert-large in dynamic INT8, has 1272 nodes, 688 initializers and 60 thousand fields.
MAX_NODES = 20_000
MAX_INITIALIZERS = 20_000
MAX_FIELDS = 2_000_000
MAX_ATTRIBUTES = 64
MAX_RANK = 8
MAX_NAME_BYTES = 1024
MAX_NUMBERS = 4096
MAX_OPERATOR_SETS = 64
# Newest operator set per domain; ONNX 1.23 has 28. "ai.onnx" is another name of "".
DOMAINS = {"": 28, "ai.onnx": 28, "com.microsoft": 1, "sparse_deploy": 2}
OLDEST_IR, NEWEST_IR = 3, 14
# Bytes per element by TensorProto.DataType, without strings, complex numbers and elements below one byte.
ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
# Allowed element types of each typed field; the field's bytes per number, None for variable-length numbers.
_TYPED_DATA: dict[str, tuple[frozenset[int], int | None]] = {
    "float_data": (frozenset({1}), 4),
    "int32_data": (frozenset({2, 3, 4, 5, 6, 9, 10, 16}), None),
    "int64_data": (frozenset({7}), None),
    "double_data": (frozenset({11}), 8),
    "uint64_data": (frozenset({12, 13}), None),
}
# Field of the value by AttributeProto.AttributeType.
_ATTRIBUTE_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}

_INTEGER, _MANY = Kind.INTEGER, True
_PAIRS = Field("metadata_props", repeated=_MANY)
_NOTE = "doc_string"
_MODEL = Message(
    "ModelProto",
    {
        1: Field("ir_version", _INTEGER), 2: Field("producer_name"), 3: Field("producer_version"), 4: Field("domain"),
        5: Field("model_version", _INTEGER), 6: Field(_NOTE), 7: Field("graph"),
        8: Field("opset_import", repeated=_MANY), 14: _PAIRS,
    },
)  # fmt: skip
_OPERATOR_SET = Message("OperatorSetIdProto", {1: Field("domain"), 2: Field("version", _INTEGER)})
_GRAPH = Message(
    "GraphProto",
    {
        1: Field("node", repeated=_MANY), 2: Field("name"), 5: Field("initializer", repeated=_MANY), 10: Field(_NOTE),
        11: Field("input", repeated=_MANY), 12: Field("output", repeated=_MANY),
        13: Field("value_info", repeated=_MANY), 16: _PAIRS,
    },
)  # fmt: skip
_NODE = Message(
    "NodeProto",
    {
        1: Field("input", repeated=_MANY), 2: Field("output", repeated=_MANY), 3: Field("name"), 4: Field("op_type"),
        5: Field("attribute", repeated=_MANY), 6: Field(_NOTE), 7: Field("domain"), 9: _PAIRS,
    },
)  # fmt: skip
_ATTRIBUTE = Message(
    "AttributeProto",
    {
        1: Field("name"), 2: Field("f", Kind.FLOAT), 3: Field("i", _INTEGER), 4: Field("s"), 5: Field("t"),
        7: Field("floats", Kind.FLOAT, _MANY), 8: Field("ints", _INTEGER, _MANY), 9: Field("strings", repeated=_MANY),
        13: Field(_NOTE), 20: Field("type", _INTEGER),
    },
)  # fmt: skip
_TENSOR = Message(
    "TensorProto",
    {
        1: Field("dims", _INTEGER, _MANY), 2: Field("data_type", _INTEGER), 4: Field("float_data", Kind.FLOAT, _MANY),
        5: Field("int32_data", _INTEGER, _MANY), 7: Field("int64_data", _INTEGER, _MANY), 8: Field("name"),
        9: Field("raw_data"), 10: Field("double_data", Kind.DOUBLE, _MANY), 11: Field("uint64_data", _INTEGER, _MANY),
        12: Field(_NOTE), 13: Field("external_data", repeated=_MANY), 14: Field("data_location", _INTEGER), 16: _PAIRS,
    },
)  # fmt: skip
_VALUE = Message("ValueInfoProto", {1: Field("name"), 2: Field("type"), 3: Field(_NOTE), 4: _PAIRS})
_TYPE = Message("TypeProto", {1: Field("tensor_type"), 6: Field("denotation")})
_TENSOR_TYPE = Message("TypeProto.Tensor", {1: Field("elem_type", _INTEGER), 2: Field("shape")})
_SHAPE = Message("TensorShapeProto", {1: Field("dim", repeated=_MANY)})
_DIMENSION = Message(
    "TensorShapeProto.Dimension", {1: Field("dim_value", _INTEGER), 2: Field("dim_param"), 3: Field("denotation")}
)


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file that is damaged or has parts that no supported model needs.

    Raises:
        ArtifactError: the file is refused.
    """
    operators_of(path)


def operators_of(path: Path) -> frozenset[str]:
    """The names of the operators in a file that :func:`check_onnx` accepts.

    Raises:
        ArtifactError: as :func:`check_onnx`.
    """
    check = _Check()
    with refusing(path):
        check.model(map_file(path, MAX_FILE_BYTES))
    return frozenset(check.operators)


class _Check:
    """The check of one file: a method per message, and their common state."""

    def __init__(self) -> None:
        self._reader = WireReader(MAX_FIELDS)
        self.operators: set[str] = set()
        self._declared: dict[str, int] = {}
        self._used: set[str] = set()
        self._foreign = 0
        self._nodes = 0
        self._initializers: set[bytes] = set()

    def model(self, view: memoryview) -> None:
        graph = None
        ir_version = -1
        for name, value in self._reader.read(view, _MODEL):
            if name == "graph":
                graph = _bytes(value)
            elif name == "opset_import":
                self._operator_set(_bytes(value))
            elif name == "ir_version":
                ir_version = _integer(value)
        if not OLDEST_IR <= ir_version <= NEWEST_IR:
            raise Refusal(f"expected IR version {OLDEST_IR} to {NEWEST_IR}, found {ir_version}")
        if graph is None:
            raise Refusal("it has no graph")
        self._graph(graph)
        if missing := self._used - self._declared.keys():
            raise Refusal(f"it uses operators of {quoted(min(missing))} without importing them")
        for domain in sorted(self._used):  # ONNX Runtime declares all its domains; only those of nodes are checked
            version = self._declared[domain]
            if not 1 <= version <= DOMAINS[domain]:
                raise Refusal(
                    f"operator set {domain or 'ai.onnx'} has version {version}, allowed is 1 to {DOMAINS[domain]}"
                )

    def _operator_set(self, view: memoryview) -> None:
        found = dict(self._reader.read(view, _OPERATOR_SET))
        domain = _text(found.get("domain", b""), "an operator set's domain")
        version = _integer(found.get("version", 0))
        if domain not in DOMAINS:
            self._foreign += 1
            if self._foreign > MAX_OPERATOR_SETS:
                raise Refusal(f"it imports more than {MAX_OPERATOR_SETS} operator sets")
            return
        canonical = _canonical(domain)
        if canonical in self._declared:
            raise Refusal(f"it imports operator set {canonical or 'ai.onnx'} twice")
        self._declared[canonical] = version

    def _graph(self, view: memoryview) -> None:
        for name, value in self._reader.read(view, _GRAPH):
            if name == "node":
                self._node(_bytes(value))
            elif name == "initializer":
                self._initializer(_bytes(value))
            elif name in ("input", "output", "value_info"):
                self._value(_bytes(value))
        if not self._nodes:
            raise Refusal("its graph has no node")

    def _node(self, view: memoryview) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Refusal(f"it has more than {MAX_NODES} nodes")
        domain, operator, attributes = "", "", 0
        for name, value in self._reader.read(view, _NODE):
            if name == "attribute":
                attributes += 1
                self._attribute(_bytes(value))
            elif name == "domain":
                domain = _text(value, "a node's domain")
            elif name == "op_type":
                operator = _text(value, "an operator")
            elif name in ("input", "output", "name"):
                _require_name(value)
        if domain not in DOMAINS:
            raise Refusal(f"operator {quoted(operator)} is of domain {quoted(domain)}, which is not supported")
        if not operator.isidentifier():
            raise Refusal(f"expected the name of an operator, found {quoted(operator)}")
        if attributes > MAX_ATTRIBUTES:
            raise Refusal(f"operator {operator} has more than {MAX_ATTRIBUTES} attributes")
        self._used.add(_canonical(domain))
        self.operators.add(operator)

    def _attribute(self, view: memoryview) -> None:
        kind, held = 0, set()
        numbers = 0
        for name, value in self._reader.read(view, _ATTRIBUTE):
            if name == "type":
                kind = _integer(value)
            elif name == "name":
                _require_name(value)
            elif name != _NOTE:
                held.add(name)
            if name == "t":
                self._tensor(_bytes(value))
            elif name == "ints":
                numbers += 1 if isinstance(value, int) else len(packed_integers(value, MAX_NUMBERS))
            elif name in ("floats", "strings"):
                numbers += 1 if name == "strings" else len(_bytes(value)) // 4
        if kind not in _ATTRIBUTE_FIELDS:
            raise Refusal(f"an attribute is of type {kind}: no subgraph, sparse tensor or type is needed")
        if held - {_ATTRIBUTE_FIELDS[kind]}:
            raise Refusal(f"an attribute of type {kind} has {quoted(', '.join(sorted(held)))}")
        if numbers > MAX_NUMBERS:
            raise Refusal(f"an attribute has more than {MAX_NUMBERS} values")

    def _initializer(self, view: memoryview) -> None:
        name = self._tensor(view)
        if not name or name in self._initializers:
            raise Refusal(f"initializer {quoted(name.decode('utf-8', 'replace'))} has no name, or comes twice")
        self._initializers.add(name)
        if len(self._initializers) > MAX_INITIALIZERS:
            raise Refusal(f"it has more than {MAX_INITIALIZERS} initializers")

    def _tensor(self, view: memoryview) -> bytes:
        """Check a tensor's shape against its bytes; return its name."""
        dims: list[int] = []
        kind, name = 0, b""
        raw: int | None = None
        typed: dict[str, int] = {}
        for field, value in self._reader.read(view, _TENSOR):
            if field == "dims":
                dims += [value] if isinstance(value, int) else packed_integers(value, MAX_RANK)
            elif field == "data_type":
                kind = _integer(value)
            elif field == "raw_data":
                raw = len(_bytes(value))
            elif field in _TYPED_DATA:
                typed[field] = typed.get(field, 0) + _count(value, _TYPED_DATA[field][1])
            elif field == "name":
                name = _require_name(value)
            elif field == "external_data" or (field == "data_location" and value != 0):
                raise Refusal("weights are in another file (external data); save the model as one file")
        _check_tensor(dims, kind, raw, typed)
        return name

    def _value(self, view: memoryview) -> None:
        for name, value in self._reader.read(view, _VALUE):
            if name == "name":
                _require_name(value)
            elif name == "type":
                for part, inner in self._reader.read(_bytes(value), _TYPE):
                    if part == "tensor_type":
                        self._tensor_type(_bytes(inner))

    def _tensor_type(self, view: memoryview) -> None:
        rank = 0
        for name, value in self._reader.read(view, _TENSOR_TYPE):
            if name == "elem_type" and value not in (0, *ELEMENT_BYTES):
                raise Refusal(f"a value is of element type {value}, which is not a number")
            if name != "shape":
                continue
            for _, dimension in self._reader.read(_bytes(value), _SHAPE):
                rank += 1
                for part, size in self._reader.read(_bytes(dimension), _DIMENSION):
                    if part == "dim_value" and _integer(size) > MAX_FILE_BYTES:
                        raise Refusal(f"a value has a dimension of {size}")
        if rank > MAX_RANK:
            raise Refusal(f"a value has {rank} dimensions, expected at most {MAX_RANK}")


def _check_tensor(dims: list[int], kind: int, raw: int | None, typed: dict[str, int]) -> None:
    if kind not in ELEMENT_BYTES:
        raise Refusal(f"a tensor is of element type {kind}, which is not a number")
    if len(dims) > MAX_RANK or any(size > MAX_FILE_BYTES for size in dims):
        raise Refusal(f"a tensor has shape {quoted(dims)}")
    if (raw is not None) + len(typed) > 1:
        raise Refusal("a tensor has its values twice")
    elements = math.prod(dims)
    if typed:
        ((field, found),) = typed.items()
        if kind not in _TYPED_DATA[field][0]:
            raise Refusal(f"a tensor of element type {kind} has {field}")
        if found != elements:
            raise Refusal(f"a tensor of shape {dims} has {found} values, expected {elements}")
    elif (raw or 0) != elements * ELEMENT_BYTES[kind]:
        raise Refusal(f"a tensor of shape {dims} has {raw or 0} bytes, expected {elements * ELEMENT_BYTES[kind]}")


def _count(value: int | memoryview, width: int | None) -> int:
    """Number of values in a typed field; in a packed field, the last bytes of numbers are counted."""
    if isinstance(value, int):
        return 1
    if width is not None:
        if len(value) % width:
            raise Refusal(f"expected numbers of {width} bytes, found {len(value)} bytes")
        return len(value) // width
    data = np.frombuffer(value, dtype=np.uint8)
    if data.size and data[-1] & 0x80:
        raise Refusal("a packed number is truncated")
    return int(np.count_nonzero(data < 0x80))


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise Refusal(f"expected bytes, found the number {value}")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise Refusal("expected a number, found bytes")
    return value


def _require_name(value: int | memoryview) -> bytes:
    name = bytes(_bytes(value)[: MAX_NAME_BYTES + 1])
    if len(name) > MAX_NAME_BYTES or b"\0" in name:
        raise Refusal(f"a name is longer than {MAX_NAME_BYTES} bytes or has a NUL")
    return name


def _text(value: int | memoryview | bytes, what: str) -> str:
    try:
        return (value if isinstance(value, bytes) else _require_name(value)).decode("ascii")
    except UnicodeDecodeError as error:
        raise Refusal(f"{what} is not plain text") from error


def _canonical(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
