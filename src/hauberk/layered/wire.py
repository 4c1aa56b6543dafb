"""The protobuf wire format, as far as ONNX files need it: bytes to plain records and back, without the protobuf package.

A message is described by a `Schema`: for each field number its name and kind. A record is a dictionary: every field by its name, a
list for the repeated ones; what the schema does not name is skipped. Groups do not occur in ONNX. Source: Protocol Buffers
documentation, "Encoding".
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hauberk.errors import ModelError

__all__ = ["Field", "Record", "Schema", "decode", "encode"]

Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        name: its key in a record.
        kind: "int" (signed 64 bits), "float", "double", "bytes", "text", or the schema of a message.
        many: it may come any number of times.
    """

    name: str
    kind: "str | Schema"
    many: bool = False


Schema: TypeAlias = Mapping[int, Field]

_VARINT, _EIGHT, _SIZED, _FOUR = 0, 1, 2, 5
_NUMBERS = {"float": (_FOUR, "<f", "<f4"), "double": (_EIGHT, "<d", "<f8")}


def decode(data: bytes | memoryview, schema: Schema) -> Record:
    """The record that these bytes hold. Bytes are given as views, not copied; time and memory are linear in the bytes.

    Raises:
        ModelError: these are not the bytes of such a message.
    """
    record: Record = {field.name: [] if field.many else None for field in schema.values()}
    for number, wire, value in _fields(memoryview(data)):
        field = schema.get(number)
        if field is None:
            continue
        found = _value(field, wire, value)
        if field.many:
            record[field.name].extend(found)
        elif found:
            record[field.name] = found[-1]
    return record


def encode(record: Record, schema: Schema) -> bytes:
    """The bytes of a record: the inverse of `decode` for records without None in their lists."""
    parts: list[bytes] = []
    for number, field in schema.items():
        held = record.get(field.name)
        values = (held or []) if field.many else [] if held is None else [held]
        if not len(values):
            continue
        if field.kind == "int" and field.many:
            packed = b"".join(_varint(int(value)) for value in values)
            parts += [_varint(number << 3 | _SIZED), _varint(len(packed)), packed]
        elif isinstance(field.kind, str) and field.kind in _NUMBERS and field.many:
            packed = np.asarray(values, dtype=_NUMBERS[field.kind][2]).tobytes()
            parts += [_varint(number << 3 | _SIZED), _varint(len(packed)), packed]
        else:
            for value in values:
                parts += _single(number, field.kind, value)
    return b"".join(parts)


def _single(number: int, kind: str | Schema, value: Any) -> list[bytes]:
    if kind == "int":
        return [_varint(number << 3 | _VARINT), _varint(int(value))]
    if isinstance(kind, str) and kind in _NUMBERS:
        wire, form, _ = _NUMBERS[kind]
        return [_varint(number << 3 | wire), struct.pack(form, value)]
    if isinstance(kind, str):
        body = value.encode() if kind == "text" else bytes(value)
    else:
        body = encode(value, kind)
    return [_varint(number << 3 | _SIZED), _varint(len(body)), body]


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _corrupt(what: str) -> ModelError:
    return ModelError(f"the file is not ONNX or is damaged: {what}; get it again or export it anew")


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data):
            raise _corrupt("it ends in the middle of a number")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, place
        shift += 7
        if shift > 63:
            raise _corrupt("a number has more than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value, in the order of the bytes."""
    place, end = 0, len(data)
    while place < end:
        key, place = _read_varint(data, place)
        number, wire = key >> 3, key & 7
        if not number:
            raise _corrupt("a field has the number 0")
        if wire == _VARINT:
            value, place = _read_varint(data, place)
            yield number, wire, value
            continue
        if wire == _SIZED:
            size, place = _read_varint(data, place)
        elif wire in (_EIGHT, _FOUR):
            size = 8 if wire == _EIGHT else 4
        else:
            raise _corrupt(f"a field has the wire type {wire}, which ONNX does not use")
        if size > end - place:
            raise _corrupt(f"a field of {size} bytes stands where {end - place} are left")
        yield number, wire, data[place : place + size]
        place += size


def _value(field: Field, wire: int, value: int | memoryview) -> list[Any]:
    """The values that one occurrence of a field holds: several, if numbers are packed."""
    read: Callable[[memoryview], Any]
    kind = field.kind
    if kind == "int":
        if isinstance(value, int):
            return [_signed(value)]
        if wire == _SIZED and field.many:
            return _packed(value)
    elif isinstance(kind, str) and kind in _NUMBERS:
        own, form, dtype = _NUMBERS[kind]
        if isinstance(value, memoryview) and wire == own:
            return [struct.unpack(form, value)[0]]
        if isinstance(value, memoryview) and wire == _SIZED and field.many and len(value) % struct.calcsize(form) == 0:
            return np.frombuffer(value, dtype=dtype).tolist()
    elif isinstance(value, memoryview) and wire == _SIZED:
        if kind == "bytes":
            return [value]
        read = _text if isinstance(kind, str) else lambda data: decode(data, kind)
        return [read(value)]
    raise _corrupt(f"the field {field.name!r} has the wire type {wire}")


def _packed(data: memoryview) -> list[int]:
    found: list[int] = []
    place = 0
    while place < len(data):
        value, place = _read_varint(data, place)
        found.append(_signed(value))
    return found


def _text(data: memoryview) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise _corrupt("a name is not text") from error
