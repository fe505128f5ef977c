# SPDX-License-Identifier: Apache-2.0
"""OpenVINO IR: the XML is parsed once, without a tree, and each constant must be inside the ``.bin`` file.

Format: https://docs.openvino.ai/2025/documentation/openvino-ir-format.html (version 11). Subgraphs (the bodies of If,
Loop and TensorIterator) and custom operators of other packages are not accepted: no encoder has them. The depth is then
that of a port's dimension, or of the converter's notes.
"""

import math
import re
from pathlib import Path
from xml.parsers import expat

from sparse_deploy.untrusted.refusal import Refusal, map_file, quoted, refusing, require_size

# The largest exported file, bert-large in INT8, has 1.2 MB, 31 thousand elements, and at most 5 attributes.
MAX_XML_BYTES = 16 * 2**20
MAX_BIN_BYTES = 2**33
MAX_ELEMENTS = 500_000
MAX_DEPTH = 12
MAX_ATTRIBUTES = 32
MAX_VALUE_CHARACTERS = 4096
MAX_RANK = 8
VERSIONS = ("10", "11")
OPERATOR_SETS = frozenset(f"opset{number}" for number in range(1, 17))
# Operators of the extension (``kernels/csrc/openvino``), which checks their constants itself.
SPARSE_DOMAIN = "sparse_deploy"
SPARSE_OPERATORS = ("SparseLinear", "SparseEncoderLayer")
ELEMENT_BITS = {
    "f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i64": 64, "i32": 32, "i16": 16, "i8": 8, "u64": 64, "u32": 32,
    "u16": 16, "u8": 8, "boolean": 8,
}  # fmt: skip
_CHUNK = 1 << 16
_NUMBER = re.compile(r"[0-9]{1,18}")
_DIMENSION = re.compile(r"-1|[0-9]{1,18}")
# The allowed children of each element; a model's rt_info may have any content of the converter.
_INSIDE = {
    "": {"net"},
    "net": {"layers", "edges", "rt_info"},
    "layers": {"layer"},
    "layer": {"data", "input", "output", "rt_info"},
    "input": {"port"},
    "output": {"port"},
    "port": {"dim", "rt_info"},
    "edges": {"edge"},
    "rt_info": {"attribute"},
}


def check_openvino_ir(xml_path: Path) -> None:
    """Refuse an IR that is damaged or has parts that no supported model needs.

    Args:
        xml_path: the ``.xml``; its ``.bin`` is in the same folder.

    Raises:
        ArtifactError: the file is refused.
    """
    with refusing(xml_path.with_suffix(".bin")):
        weights = require_size(xml_path.with_suffix(".bin"), MAX_BIN_BYTES)
    with refusing(xml_path):
        _Check(weights).walk(map_file(xml_path, MAX_XML_BYTES))


def holds_sparse_operators(xml_path: Path) -> bool:
    """Whether an IR needs the operators' extension.

    Raises:
        ArtifactError: the file can't be read.
    """
    with refusing(xml_path):
        return f' version="{SPARSE_DOMAIN}"'.encode() in bytes(map_file(xml_path, MAX_XML_BYTES))


class _Check:
    """One pass over a file; the parser calls the underscored methods.

    Args:
        weights: size of the ``.bin`` in bytes.
    """

    def __init__(self, weights: int) -> None:
        self._weights = weights
        self._open: list[str] = []
        self._elements = 0
        self._layers: dict[str, str] = {}  # type by id
        self._edges: list[tuple[str, str]] = []
        self._constant = ""  # id of the constant that still needs its data
        self._text: list[str] = []

    def walk(self, view: memoryview) -> None:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.EntityDeclHandler = self._refuse_doctype
        parser.ProcessingInstructionHandler = self._refuse_instruction
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        try:
            for start in range(0, len(view), _CHUNK):
                parser.Parse(bytes(view[start : start + _CHUNK]), False)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise Refusal(f"not well-formed XML: {error}") from error
        except UnicodeDecodeError as error:
            raise Refusal("its text is not UTF-8") from error
        if "Parameter" not in self._layers.values() or "Result" not in self._layers.values():
            raise Refusal("expected a model with inputs and outputs, found none")
        unknown = next((end for edge in self._edges for end in edge if end not in self._layers), None)
        if unknown is not None:
            raise Refusal(f"an edge names layer {quoted(unknown)}, which does not exist")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise Refusal(f"it has more than {MAX_ELEMENTS} elements")
        if len(self._open) >= MAX_DEPTH:
            raise Refusal(f"its elements nest deeper than {MAX_DEPTH}")
        if len(attributes) > MAX_ATTRIBUTES or any(len(value) > MAX_VALUE_CHARACTERS for value in attributes.values()):
            raise Refusal(f"element {quoted(name)} has too many attributes, or one that is too long")
        if self._open[:2] != ["net", "rt_info"]:
            self._place(name, attributes)
        self._open.append(name)
        self._text.clear()

    def _place(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else ""
        if name not in _INSIDE.get(parent, ()):
            raise Refusal(f"element {quoted(name)} inside {quoted(parent)} is in no supported model")
        if name == "net" and attributes.get("version") not in VERSIONS:
            raise Refusal(f"expected IR version {' or '.join(VERSIONS)}, found {quoted(attributes.get('version'))}")
        if name == "layer":
            self._layer(attributes)
        elif name == "data":
            self._data(attributes)
        elif name == "edge":
            for end in ("from-layer", "from-port", "to-layer", "to-port"):
                _number(attributes, end)
            self._edges.append((attributes["from-layer"], attributes["to-layer"]))
        elif name == "port":
            _number(attributes, "id")

    def _layer(self, attributes: dict[str, str]) -> None:
        _number(attributes, "id")
        identity, kind, version = (attributes.get(key, "") for key in ("id", "type", "version"))
        if identity in self._layers:
            raise Refusal(f"two layers have the id {identity}")
        if version not in OPERATOR_SETS and not (version == SPARSE_DOMAIN and kind in SPARSE_OPERATORS):
            raise Refusal(
                f"layer {identity} of type {quoted(kind)} is of {quoted(version)}; allowed is opset1 to opset16, and "
                f"{', '.join(SPARSE_OPERATORS)} of {SPARSE_DOMAIN}"
            )
        if not kind.isidentifier() or not kind.isascii():
            raise Refusal(f"layer {identity} has no type: {quoted(kind)}")
        self._layers[identity] = kind
        self._constant = identity if kind in ("Const", "Constant") else ""

    def _data(self, attributes: dict[str, str]) -> None:
        if not self._constant and not {"offset", "size"} & attributes.keys():
            return
        self._constant = ""
        offset, size = _number(attributes, "offset"), _number(attributes, "size")
        kind = attributes.get("element_type", "")
        dims = [part.strip() for part in attributes.get("shape", "").split(",")] if attributes.get("shape") else []
        if kind not in ELEMENT_BITS:
            raise Refusal(f"a constant is of element type {quoted(kind)}, which is not a number")
        if len(dims) > MAX_RANK or not all(_NUMBER.fullmatch(dim) for dim in dims):
            raise Refusal(f"a constant has shape {quoted(attributes.get('shape'))}")
        wanted = math.prod(map(int, dims)) * ELEMENT_BITS[kind] // 8
        if size != wanted:
            raise Refusal(f"a constant of {kind} {quoted(', '.join(dims))} has {size} bytes, expected {wanted}")
        if offset + size > self._weights:
            raise Refusal(f"a constant ends at byte {offset + size} of the .bin, which has {self._weights}")

    def _end(self, name: str) -> None:
        if name == "dim" and not _DIMENSION.fullmatch("".join(self._text).strip()):
            raise Refusal(f"a dimension is {quoted(''.join(self._text))}")
        if name == "layer" and self._constant:
            raise Refusal(f"constant {self._constant} has no data")
        self._open.pop()
        self._text.clear()

    def _characters(self, text: str) -> None:
        if text.isspace():
            return
        if self._open[-1] != "dim" or len(text) > MAX_VALUE_CHARACTERS:
            raise Refusal(f"element {quoted(self._open[-1])} has text")
        self._text.append(text)

    def _refuse_doctype(self, *_: object) -> None:
        raise Refusal("it declares a document type or entities")

    def _refuse_instruction(self, *_: object) -> None:
        raise Refusal("it has a processing instruction")


def _number(attributes: dict[str, str], name: str) -> int:
    value = attributes.get(name, "")
    if not _NUMBER.fullmatch(value):
        raise Refusal(f"expected a whole number as {name}, found {quoted(value)}")
    return int(value)
