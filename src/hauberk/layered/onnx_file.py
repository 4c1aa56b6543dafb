"""What an ONNX file says, typed: nodes, constants, the shapes of inputs and outputs. No operator is known here.

Source: the ONNX specification, onnx/onnx.proto. Subgraphs (of If, Loop and Scan) are not read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hauberk.errors import ModelError
from hauberk.layered.wire import Field, Record, Schema, decode

__all__ = ["LARGEST", "MODEL", "Array", "OnnxFile", "OnnxNode", "Port", "read_onnx", "tensor_record"]

Array: TypeAlias = NDArray[Any]
LARGEST = 2**28
"""Values that a tensor may hold: more than any network to be verified has, less than would stop the machine."""

_ENTRY: Schema = {1: Field("key", "text"), 2: Field("value", "text")}
_TENSOR: Schema = {
    1: Field("dims", "int", many=True),
    2: Field("data_type", "int"),
    4: Field("float_data", "float", many=True),
    5: Field("int32_data", "int", many=True),
    7: Field("int64_data", "int", many=True),
    8: Field("name", "text"),
    9: Field("raw_data", "bytes"),
    10: Field("double_data", "double", many=True),
    11: Field("uint64_data", "int", many=True),
    13: Field("external_data", _ENTRY, many=True),
    14: Field("data_location", "int"),
}
_ATTRIBUTE: Schema = {
    1: Field("name", "text"),
    2: Field("f", "float"),
    3: Field("i", "int"),
    4: Field("s", "bytes"),
    5: Field("t", _TENSOR),
    6: Field("g", "bytes"),
    7: Field("floats", "float", many=True),
    8: Field("ints", "int", many=True),
    20: Field("type", "int"),
}
_NODE: Schema = {
    1: Field("input", "text", many=True),
    2: Field("output", "text", many=True),
    3: Field("name", "text"),
    4: Field("op_type", "text"),
    5: Field("attribute", _ATTRIBUTE, many=True),
    7: Field("domain", "text"),
}
_DIMENSION: Schema = {1: Field("dim_value", "int"), 2: Field("dim_param", "text")}
_SHAPE: Schema = {1: Field("dim", _DIMENSION, many=True)}
_TENSOR_TYPE: Schema = {1: Field("elem_type", "int"), 2: Field("shape", _SHAPE)}
_TYPE: Schema = {1: Field("tensor_type", _TENSOR_TYPE)}
_PORT: Schema = {1: Field("name", "text"), 2: Field("type", _TYPE)}
_GRAPH: Schema = {
    1: Field("node", _NODE, many=True),
    2: Field("name", "text"),
    5: Field("initializer", _TENSOR, many=True),
    11: Field("input", _PORT, many=True),
    12: Field("output", _PORT, many=True),
}
_OPSET: Schema = {1: Field("domain", "text"), 2: Field("version", "int")}
MODEL: Schema = {
    1: Field("ir_version", "int"),
    2: Field("producer_name", "text"),
    7: Field("graph", _GRAPH),
    8: Field("opset_import", _OPSET, many=True),
}

_OLDEST = 7
_BFLOAT16 = 16
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_DTYPES |= {12: "<u4", 13: "<u8"}
_FIELDS = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}


@dataclass(frozen=True)
class Port:
    """An input or output: its name, the number of its element type, and its shape with None for open axes; None if not said."""

    name: str
    kind: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One node of the file; `attributes` hold int, float, str, Array and lists of them."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """The graph of an ONNX file, its nodes in the order in which they can be computed."""

    name: str
    opset: int
    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Array]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_onnx(path: Path) -> OnnxFile:
    """The file, with the weights kept beside it.

    Raises:
        ModelError: there is no such file, or it is not ONNX.
    """
    try:
        model = decode(path.read_bytes(), MODEL)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    except ModelError as error:
        raise ModelError(f"{path.name}: {error}") from error
    graph = model["graph"]
    if graph is None:
        raise ModelError(f"{path.name} holds no graph of nodes, expected an ONNX file; export it anew")
    opsets = [entry["version"] or 0 for entry in model["opset_import"] if entry["domain"] in (None, "", "ai.onnx")]
    if max(opsets, default=1) < _OLDEST:
        raise ModelError(
            f"{path.name} has the opset {max(opsets, default='none')}, expected {_OLDEST} or later; export it anew, or use "
            "onnx.version_converter"
        )
    constants = {tensor["name"]: _array(tensor, path) for tensor in graph["initializer"]}
    return OnnxFile(
        path.name,
        max(opsets),
        tuple(_node(node, place, path) for place, node in enumerate(graph["node"])),
        constants,
        tuple(_port(port) for port in graph["input"] if port["name"] not in constants),
        tuple(_port(port) for port in graph["output"]),
    )


def tensor_record(name: str, values: Array) -> Record:
    """The record of a tensor of floats or int64.

    Args:
        name: of the initializer.
        values: float32, float64 or int64.
    """
    kind = {"float32": 1, "int64": 7, "float64": 11}[values.dtype.name]
    raw = np.ascontiguousarray(values, dtype=_DTYPES[kind]).tobytes()
    return {"name": name, "dims": list(values.shape), "data_type": kind, "raw_data": raw}


def _port(record: Record) -> Port:
    tensor = (record["type"] or {}).get("tensor_type") or {}
    shape = tensor.get("shape")
    sizes = None if shape is None else tuple(_size(axis["dim_value"]) for axis in shape["dim"])
    return Port(record["name"] or "", tensor.get("elem_type") or 0, sizes)


def _size(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _node(record: Record, place: int, path: Path) -> OnnxNode:
    kind = record["op_type"] or ""
    if record["domain"] not in (None, "", "ai.onnx"):
        kind = f"{record['domain']}.{kind}"
    name = record["name"] or next((out for out in record["output"] if out), "") or f"{kind}_{place}"
    attributes = {entry["name"]: _attribute(entry, path) for entry in record["attribute"]}
    return OnnxNode(name, kind, tuple(record["input"]), tuple(record["output"]), attributes)


def _attribute(record: Record, path: Path) -> Any:
    """By its type; files from before attributes had types say it by what they hold."""
    read = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints"}.get(record["type"] or 0)
    if read is None:
        read = next((name for name in ("f", "i", "s", "t", "g", "floats", "ints") if record[name]), "ints")
    value = record[read]
    if read == "t":
        return _array(value, path) if value is not None else None
    if read == "s":
        return bytes(value or b"").decode(errors="replace")
    if read in ("f", "i"):
        return value or 0  # zero is what protobuf leaves out
    return value


def _array(record: Record, path: Path) -> Array:
    name, kind, dims = record["name"] or "a constant", record["data_type"] or 0, tuple(record["dims"])
    if kind not in _DTYPES and kind != _BFLOAT16:
        raise ModelError(f"{path.name}: {name!r} has elements of ONNX type {kind}, expected floats or integers")
    if any(size < 0 for size in dims) or math.prod(dims) > LARGEST:
        raise ModelError(f"{path.name}: {name!r} has the shape {dims}, which is negative or too large")
    count = math.prod(dims)
    raw = _beside(record, path, name) if record["data_location"] == 1 else record["raw_data"]
    dtype = "<u2" if kind == _BFLOAT16 else _DTYPES[kind]
    if raw is not None:
        if len(raw) != count * np.dtype(dtype).itemsize:
            raise ModelError(
                f"{path.name}: {name!r} of shape {dims} has {len(raw)} bytes, which do not fit; it is damaged"
            )
        values = np.frombuffer(raw, dtype=dtype)
    else:
        values = _typed(record[_FIELDS.get(kind, "int32_data")], kind, dtype)
    if values.size != count:
        raise ModelError(f"{path.name}: {name!r} of shape {dims} holds {values.size} values; the file is damaged")
    if kind == _BFLOAT16:
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(dims)


def _typed(values: list[Any], kind: int, dtype: str) -> Array:
    if kind in (1, 11):
        return np.asarray(values, dtype=dtype)
    whole = np.asarray([value & (1 << 64) - 1 for value in values], dtype=np.uint64)
    if kind in (10, _BFLOAT16):  # sixteen bits of a float, kept in an integer
        return whole.astype("<u2").view(dtype)
    return whole.astype(dtype)


def _beside(record: Record, path: Path, name: str) -> memoryview:
    said = {entry["key"]: entry["value"] or "" for entry in record["external_data"]}
    file = path.parent / said.get("location", "")
    if not said.get("location") or not file.resolve().is_relative_to(path.parent.resolve()):
        raise ModelError(
            f"{path.name}: {name!r} is said to be in {said.get('location', '')!r}, expected a file beside it"
        )
    try:
        offset, length = int(said.get("offset", 0)), int(said.get("length", -1))
        data = np.memmap(file, dtype=np.uint8, mode="r").data if file.stat().st_size else memoryview(b"")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path.name}: {name!r} is in {file.name}, which cannot be read; keep both together"
        ) from error
    end = len(data) if length < 0 else offset + length
    if not 0 <= offset <= end <= len(data):
        raise ModelError(
            f"{path.name}: {name!r} is in {file.name}, which is too short; keep the files of one export together"
        )
    return data[offset:end]
