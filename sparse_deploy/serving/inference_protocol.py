# SPDX-License-Identifier: Apache-2.0
"""Bodies of the Open Inference Protocol v2 (OIP): requests checked and typed, answers written.

Format: https://github.com/kserve/open-inference-protocol, and of tensors as bytes after the JSON,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import gc
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data",)
MAX_INPUTS = 16
MAX_DIMENSIONS = 2
MAX_NAME = 256
_INTEGERS: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "INT32": np.dtype("<i4")}
_DATATYPES = {"f": "FP32", "i": "INT64"}


class RequestError(Exception):
    """An error response to a request.

    Attributes:
        message: one line: the expected value and the value found.
        status: HTTP status.
        retry_after: seconds after which the client may retry.
    """

    def __init__(self, message: str, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request, checked before its data is processed.

    Attributes:
        rows: rows of each tensor; texts in a BYTES tensor.
        tokens: values in a row of integers.
        characters: total characters of all texts.
    """

    rows: int = 256
    tokens: int = 512
    characters: int = 500_000


DEFAULT_LIMITS = RequestLimits()


@dataclass(frozen=True)
class Tensor:
    """One tensor of a request or an answer.

    Attributes:
        name: name in the model's metadata.
        shape: dimensions.
        values: texts in row-major order, or an array of that shape.
    """

    name: str
    shape: tuple[int, ...]
    values: list[str] | NDArray[Any]


@dataclass(frozen=True)
class InferRequest:
    """A checked request.

    Attributes:
        id: the client's id, which is returned; None if there is none.
        inputs: inputs by name.
        outputs: names of the requested outputs, and whether each is returned as bytes; empty means all.
        binary: whether outputs without a parameter are returned as bytes.
        truncate: whether a text that is too long is truncated (parameter ``truncate``) instead of refused.
        timeout_ms: time limit of the client, from parameter ``timeout`` (microseconds, as in Triton).
    """

    id: str | None
    inputs: dict[str, Tensor]
    outputs: dict[str, bool] = field(default_factory=dict)
    binary: bool = False
    truncate: bool = True
    timeout_ms: float | None = None


def whole_number(text: str, largest: int) -> int | None:
    """The number in a header; None for other text, ``largest + 1`` if too large (Python refuses 4,300 digits)."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= len(str(largest)) else largest + 1


def parse_request(body: bytes, header_length: str | None, limits: RequestLimits = DEFAULT_LIMITS) -> InferRequest:
    """Read the body of an ``infer`` request.

    Args:
        body: the complete body.
        header_length: value of :data:`HEADER_LENGTH`, if tensors follow the JSON as bytes.
        limits: of the server.

    Raises:
        RequestError: 400 with the first error; 413, it exceeds a limit.
    """
    head, tail = body, memoryview(b"")
    if header_length is not None:
        length = whole_number(header_length, len(body))
        if length is None or length > len(body):
            raise RequestError(
                f"{HEADER_LENGTH}: expected 0 to {len(body)}, the body's bytes; got {header_length!r:.40}"
            )
        head, tail = body[:length], memoryview(body)[length:]
    content = read_object(head)
    wanted = _objects(content, "inputs", required=True)
    inputs, used = {}, 0
    for number, entry in enumerate(wanted):
        tensor, size = _input(entry, f"inputs[{number}]", tail[used:], limits)
        if tensor.name in inputs:
            raise RequestError(f"inputs[{number}]: {tensor.name!r} is given twice")
        inputs[tensor.name] = tensor
        used += size
    characters = sum(len(text) for one in inputs.values() if isinstance(one.values, list) for text in one.values)
    if characters > limits.characters:
        raise RequestError(f"the texts of one request may have {limits.characters} characters; got {characters}", 413)
    if used != len(tail):
        raise RequestError(f"{len(tail) - used} bytes follow the JSON and no input's binary_data_size claims them")
    parameters = _parameters(content, "request")
    binary = _flag(parameters, "binary_data_output", "request")
    outputs = {}
    for number, entry in enumerate(_objects(content, "outputs", required=False)):
        place = f"outputs[{number}]"
        name = _name(entry, place)
        if name in outputs:
            raise RequestError(f"{place}: {name!r} is given twice")
        own = _parameters(entry, place)
        outputs[name] = _flag(own, "binary_data", place) if "binary_data" in own else binary
    truncate = _flag(parameters, "truncate", "request", default=True)
    return InferRequest(_identifier(content), inputs, outputs, binary, truncate, _timeout(parameters))


def build_response(
    request: InferRequest, model: str, version: str, outputs: Sequence[Tensor]
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and the headers that it needs.

    Args:
        request: the request, with the selected outputs and their form.
        model: name of the model.
        version: version of the model.
        outputs: all outputs of the model.

    Raises:
        RequestError: 400, a requested output does not exist.
    """
    by_name = {tensor.name: tensor for tensor in outputs}
    for name in request.outputs:
        if name not in by_name:
            raise RequestError(f"outputs: expected names of {', '.join(by_name)}; got {name[:MAX_NAME]!r}")
    wanted = request.outputs or dict.fromkeys(by_name, request.binary)
    entries, tail = [], []
    for name, binary in wanted.items():
        tensor = by_name[name]
        entry: dict[str, Any] = {"name": name, "datatype": _datatype(tensor), "shape": list(tensor.shape)}
        if binary:
            data = _as_bytes(tensor)
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        elif isinstance(tensor.values, list):
            entry["data"] = tensor.values
        else:
            entry["data"] = np.ascontiguousarray(tensor.values).reshape(-1)
        entries.append(entry)
    content: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if request.id is not None:
        content["id"] = request.id
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return head, {"content-type": "application/json"}
    return b"".join([head, *tail]), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def load_json(head: bytes) -> Any:
    """JSON to objects.

    Raises:
        orjson.JSONDecodeError: the text is not JSON.

    Python's garbage collector is disabled meanwhile, because it would traverse all new lists several times, and none of
    them is garbage. The time of the largest body is in docs/reliability.md.
    """
    gc.disable()
    try:
        return orjson.loads(head)
    finally:
        gc.enable()


def _input(entry: Mapping[str, Any], place: str, tail: memoryview, limits: RequestLimits) -> tuple[Tensor, int]:
    """One input, and the number of bytes of the tail that it used."""
    name = _name(entry, place)
    place = f"{place} {name!r}"
    datatype, shape = entry.get("datatype"), _shape(entry.get("shape"), place)
    count = math.prod(shape)
    most = limits.rows if datatype == "BYTES" else limits.rows * limits.tokens
    if shape[0] > limits.rows or count > most:
        raise RequestError(f"{place}: one request may have {limits.rows} rows; got shape {list(shape)}", 413)
    parameters = _parameters(entry, place)
    size: Any = parameters.get("binary_data_size")
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(tail):
            raise RequestError(f"{place}: binary_data_size {size!r}, and {len(tail)} bytes follow the JSON")
        if "data" in entry:
            raise RequestError(f"{place}: expected data or binary_data_size, got both")
        if datatype == "BYTES":
            return Tensor(name, shape, _texts_of_bytes(bytes(tail[:size]), count, place)), size
        kind = _integer_type(datatype, place)
        if size != count * kind.itemsize:
            raise RequestError(f"{place}: {count} values of {datatype} take {count * kind.itemsize} bytes, got {size}")
        return Tensor(name, shape, np.frombuffer(tail[:size], dtype=kind).astype(np.int64).reshape(shape)), size
    if not isinstance(entry.get("data"), list):
        raise RequestError(f"{place}: expected data as a list, got {_kind(entry.get('data'))}")
    data = _flat(entry["data"], shape, place)
    if len(data) != count:
        raise RequestError(f"{place}: shape {list(shape)} takes {count} values, got {len(data)}")
    if datatype == "BYTES":
        if any(type(value) is not str for value in data):
            raise RequestError(f"{place}: expected texts, got {_kind(_first(data, str))}")
        return Tensor(name, shape, data), 0
    _integer_type(datatype, place)
    if any(type(value) is not int for value in data):
        raise RequestError(f"{place}: expected integers, got {_kind(_first(data, int))}")
    try:
        return Tensor(name, shape, np.array(data, dtype=np.int64).reshape(shape)), 0
    except OverflowError as error:
        raise RequestError(f"{place}: a value is outside of {datatype}") from error


def _flat(data: list[Any], shape: tuple[int, ...], place: str) -> list[Any]:
    """Data as a flat list or as one list per row; OIP allows both."""
    if len(shape) < 2 or not data or not isinstance(data[0], list):
        return data
    if len(data) != shape[0] or any(not isinstance(row, list) or len(row) != shape[1] for row in data):
        raise RequestError(f"{place}: expected {shape[0]} rows of {shape[1]} values, as shape says")
    return [value for row in data for value in row]


def _texts_of_bytes(data: bytes, count: int, place: str) -> list[str]:
    """Elements of a BYTES tensor: each a little-endian uint32 length and that many bytes of UTF-8."""
    texts: list[str] = []
    at = 0
    while at < len(data) and len(texts) < count:
        length = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data)
        if at + 4 + length > len(data):
            raise RequestError(f"{place}: element {len(texts)} reaches beyond its {len(data)} bytes")
        try:
            texts.append(data[at + 4 : at + 4 + length].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(f"{place}: element {len(texts)} is not UTF-8") from error
        at += 4 + length
    if len(texts) != count or at != len(data):
        raise RequestError(f"{place}: expected {count} elements in {len(data)} bytes, got {len(texts)} in {at}")
    return texts


def _objects(content: Mapping[str, Any], key: str, *, required: bool) -> list[dict[str, Any]]:
    entries = content.get(key)
    if entries is None and not required:
        return []
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_INPUTS:
        found = f"{len(entries)} of them" if isinstance(entries, list) else _kind(entries)
        raise RequestError(f"{key}: expected a list of 1 to {MAX_INPUTS} tensors, got {found}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise RequestError(f"{key}[{number}]: expected an object, got {_kind(entry)}")
    return entries


def _name(entry: Mapping[str, Any], place: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise RequestError(f"{place}: expected a name of 1 to {MAX_NAME} characters, got {_kind(name)}")
    return name


def _shape(shape: Any, place: str) -> tuple[int, ...]:
    if not isinstance(shape, list) or not 0 < len(shape) <= MAX_DIMENSIONS:
        found = f"{len(shape)} dimensions" if isinstance(shape, list) else _kind(shape)
        raise RequestError(f"{place}: expected a shape of 1 or {MAX_DIMENSIONS} dimensions, got {found}")
    if any(type(size) is not int or not 0 < size < 2**31 for size in shape):
        raise RequestError(f"{place}: expected positive dimensions, got {shape!r:.100}")
    return tuple(shape)


def _parameters(entry: Mapping[str, Any], place: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"{place}: expected parameters as an object, got {_kind(parameters)}")
    return parameters


def _flag(parameters: Mapping[str, Any], key: str, place: str, *, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise RequestError(f"{place}: expected {key} true or false, got {_kind(value)}")
    return value


def _identifier(content: Mapping[str, Any]) -> str | None:
    identifier = content.get("id")
    if identifier is not None and (not isinstance(identifier, str) or len(identifier) > MAX_NAME):
        raise RequestError(f"id: expected a text of at most {MAX_NAME} characters, got {_kind(identifier)}")
    return identifier


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 < timeout < 2**53:
        raise RequestError(f"timeout: expected a positive number of microseconds, got {_kind(timeout)}")
    return timeout / 1000


def _integer_type(datatype: Any, place: str) -> np.dtype[Any]:
    kind = _INTEGERS.get(datatype) if isinstance(datatype, str) else None
    if kind is None:
        raise RequestError(f"{place}: expected datatype INT64 or BYTES, got {datatype!r:.40}")
    return kind


def _datatype(tensor: Tensor) -> str:
    return "BYTES" if isinstance(tensor.values, list) else _DATATYPES[tensor.values.dtype.kind]


def _as_bytes(tensor: Tensor) -> bytes:
    if isinstance(tensor.values, list):
        encoded = [value.encode() for value in tensor.values]
        return b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))
    return np.ascontiguousarray(tensor.values).tobytes()


def _first(values: list[Any], wanted: type) -> Any:
    return next(value for value in values if type(value) is not wanted)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        RequestError: 400, it is not a JSON object.
    """
    try:
        content = load_json(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(f"expected a JSON object, got {_kind(content)}")
    return content


def _kind(value: Any) -> str:
    """A JSON value for a message, shortened."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value)) or f"{value!r:.40}"
