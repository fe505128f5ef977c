# SPDX-License-Identifier: Apache-2.0
"""The protobuf wire format, read strictly and lazily.

Format: https://protobuf.dev/programming-guides/encoding. Native parsers are lenient: they keep unknown
fields, merge a message that occurs twice, use the last of two values, and cut numbers to 32 bits. Their result can then
differ from that of a check, so all of this is refused here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from sparse_deploy.untrusted.refusal import Refusal

_WIRE_VARINT, _WIRE_64, _WIRE_BYTES, _WIRE_32 = 0, 1, 2, 5
_MAX_VARINT = 2**64
_HIGH_BIT = 0x80


class Kind(Enum):
    """The kind of a field; the value is its wire type."""

    INTEGER = _WIRE_VARINT
    BYTES = _WIRE_BYTES
    FLOAT = _WIRE_32
    DOUBLE = _WIRE_64


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        name: name in the ``.proto`` file.
        kind: kind of its value.
        repeated: whether it may occur more than once; numbers may then be packed into bytes.
    """

    name: str
    kind: Kind = Kind.BYTES
    repeated: bool = False


@dataclass(frozen=True)
class Message:
    """The allowed fields of a message by number; all others are refused."""

    name: str
    fields: Mapping[int, Field]


@dataclass
class WireReader:
    """Reads messages within a budget of fields, which limits the time for any file.

    Attributes:
        budget: number of fields that may still be read.
    """

    budget: int

    def read(self, view: memoryview, message: Message) -> Iterator[tuple[str, int | memoryview]]:
        """The fields of a message in file order: names with an unsigned integer, or the bytes, uncopied.

        A packed field and floating-point numbers come as bytes.

        Raises:
            Refusal: damaged, an unknown field, a duplicate single field, or the budget is used up.
        """
        known = message.fields
        position, end = 0, len(view)
        seen: set[int] = set()
        while position < end:
            self.budget -= 1
            if self.budget < 0:
                raise Refusal("it has more fields than any supported model")
            key = view[position]
            position += 1
            if key & _HIGH_BIT:
                key, position = _varint(view, position - 1)
            found = known.get(key >> 3)
            if found is None:
                raise Refusal(f"{message.name} has field {key >> 3}, which no supported model needs")
            if not found.repeated:
                if key in seen:
                    raise Refusal(f"{message.name}.{found.name} comes twice")
                seen.add(key)
            wire = key & 7
            if wire != found.kind.value and not (wire == _WIRE_BYTES and found.repeated):
                raise Refusal(f"{message.name}.{found.name} has wire type {wire}, expected {found.kind.value}")
            if wire in (_WIRE_32, _WIRE_64):
                size = 4 if wire == _WIRE_32 else 8
            else:
                if position >= end:
                    raise Refusal(f"{message.name}.{found.name} is truncated")
                size = view[position]
                position += 1
                if size & _HIGH_BIT:
                    size, position = _varint(view, position - 1)
                if wire == _WIRE_VARINT:
                    yield found.name, size
                    continue
            if size > end - position:
                raise Refusal(f"{message.name}.{found.name} claims {size} bytes, {end - position} are left")
            yield found.name, view[position : position + size]
            position += size


def packed_integers(view: memoryview, most: int) -> list[int]:
    """The numbers of a packed field.

    Raises:
        Refusal: damaged, or more than ``most``.
    """
    numbers = []
    position = 0
    while position < len(view):
        number, position = _varint(view, position)
        numbers.append(number)
        if len(numbers) > most:
            raise Refusal(f"expected at most {most} numbers in a field")
    return numbers


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    number = shift = 0
    for offset in range(position, min(position + 10, len(view))):
        byte = view[offset]
        number |= (byte & 0x7F) << shift
        if byte < _HIGH_BIT:
            if number >= _MAX_VARINT:
                break
            return number, offset + 1
        shift += 7
    raise Refusal("a number is truncated or has more than 64 bits")
