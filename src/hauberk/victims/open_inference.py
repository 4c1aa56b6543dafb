"""The Open Inference Protocol, version 2, as JSON: what KServe, Triton, MLServer, OpenVINO and hauberk's own server speak.

    GET  /v2/models/NAME        -> {"name", "inputs": [{"name", "datatype", "shape"}], "outputs": [...]}
    POST /v2/models/NAME/infer  {"inputs": [{"name", "datatype", "shape", "data"}]} -> {"outputs": [{... "data"}]}

Source: Open Inference Protocol, "REST predict protocol, version 2" (KServe). Floats are written with all their digits, so that
the server sees the very numbers that hauberk holds. Not here: the binary tensors and the classification extension of Triton, gRPC.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from hauberk.errors import ModelError

__all__ = ["DATATYPES", "OpenInference", "Slot", "as_array", "as_slot", "tensor_of"]

DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""The datatypes of the protocol that are numbers; there is BYTES besides, for texts."""


@dataclass(frozen=True)
class Slot:
    """An input or output of a model: the first size of its shape is that of the batch, -1 where any will do."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@final
class OpenInference:
    """How one model is asked.

    Args:
        name: for messages.
        metadata: what the server says of the model; None or empty lists where it says nothing.

    Raises:
        ModelError: it has not one input of numbers.
    """

    single = False

    def __init__(self, name: str, metadata: Any) -> None:
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ModelError(f"{name!r} describes itself with {_kind(metadata)}, expected an object with inputs")
        said = dict(metadata or {})
        inputs, outputs = (_slots(name, said, part) for part in ("inputs", "outputs"))
        self.name, self.outputs, self.notes = name, outputs, []
        if len(inputs) > 1:
            raise ModelError(f"{name!r} has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}), expected one")
        if not inputs:
            self.notes.append("The server does not say what its input is: it is called input-0 and given FP32.")
        self.input = inputs[0] if inputs else Slot("input-0", "FP32", ())
        if self.input.datatype not in DATATYPES:
            raise ModelError(f"{name!r} takes {self.input.datatype}, expected an input of numbers")
        self.dtype = np.dtype(DATATYPES[self.input.datatype])
        if self.dtype.kind != "f":
            self.notes.append(
                f"The server takes {self.input.datatype}: inputs are rounded to whole numbers, so attack on that grid (@grid255)."
            )
        self.answers_labels = len(outputs) == 1 and "INT" in outputs[0].datatype and outputs[0].shape[1:] in ((), (1,))
        # what else is an answer's spelling: a new version of the model is another model
        versions = said.get("versions")
        self.description: dict[str, Any] = {
            "protocol": "v2",
            "input": [self.input.name, self.input.datatype, list(self.input.shape)],
            "outputs": [slot.name for slot in outputs],
            "versions": [str(v) for v in versions] if isinstance(versions, Sequence) else [],
            "platform": str(said.get("platform", "")),
        }
        shape = self.input.shape
        self.channels = shape[1] if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4) else None

    def prepared(self, array: Any) -> Any:
        """The examples as they are sent: in the server's datatype and, where that is only another view, in its shape.

        Raises:
            ModelError: they have another shape.
        """
        if self.dtype.kind != "f":
            limits = (0, 1) if self.dtype.kind == "b" else (np.iinfo(self.dtype).min, np.iinfo(self.dtype).max)
            array = np.rint(array).clip(*limits)
        array = np.ascontiguousarray(array, dtype=self.dtype)
        wanted, given = self.input.shape[1:], array.shape[1:]
        if not wanted or (len(wanted) == len(given) and all(w in (-1, g) for w, g in zip(wanted, given, strict=True))):
            return array
        axes, own = [size for size in wanted if size != 1], [size for size in given if size != 1]
        if -1 in wanted or (axes != own and axes != [math.prod(own)]):
            shown = ", ".join("?" if size == -1 else str(size) for size in wanted)
            raise ModelError(f"{self.name!r} takes examples of shape ({shown}), got {tuple(given)}; reshape the data")
        return array.reshape(len(array), *wanted)

    def encode(self, array: Any) -> bytes:
        """The body of a request for these prepared rows."""
        tensor = tensor_of(self.input.name, self.input.datatype, array)
        return json.dumps({"inputs": [tensor]}, separators=(",", ":"), allow_nan=False).encode()

    def decode(self, document: Any, rows: int) -> dict[str, Any]:
        """Output name -> array.

        Raises:
            ModelError: no answer of the protocol.
        """
        outputs = document.get("outputs") if isinstance(document, Mapping) else None
        if isinstance(document, Mapping) and outputs is None and "error" in document:
            raise ModelError(f"{self.name!r} answers an error: {str(document['error'])[:200]}; look into its log")
        if not isinstance(outputs, list) or not outputs:
            raise ModelError(f"{self.name!r} answers {_kind(document)}, expected an object with a list of outputs")
        found: dict[str, Any] = {}
        for tensor in outputs:
            key, array = as_array(self.name, tensor)
            if key in found:
                raise ModelError(f"{self.name!r} answers the output {key!r} twice, expected one")
            found[key] = array
        return found


def tensor_of(name: str, datatype: str, array: Any) -> dict[str, Any]:
    """The array as the protocol has it, its numbers in one flat list."""
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.reshape(-1).tolist()}


def as_slot(what: str, said: Any) -> Slot:
    """An input or output as metadata or a tensor describe it.

    Raises:
        ModelError: a name, a datatype or a shape is missing.
    """
    name, datatype, shape = (
        (said.get(k) for k in ("name", "datatype", "shape")) if isinstance(said, Mapping) else (0,) * 3
    )
    sizes = isinstance(shape, list) and all(type(size) is int and size >= -1 for size in shape)
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list) or not sizes:
        shown = repr(said if len(repr(said)) <= 80 else f"{repr(said)[:77]}...")
        raise ModelError(f"{what} as {shown}, expected name, datatype and a shape of whole numbers")
    return Slot(name, datatype, tuple(shape))


def as_array(who: str, tensor: Any) -> tuple[str, Any]:
    """Name and array of a tensor; BYTES become an array of texts.

    Raises:
        ModelError: it is none, or its data do not fill its shape.
    """
    slot = as_slot(f"{who!r} gives a tensor", tensor)
    what = f"{who!r} gives the tensor {slot.name!r}"
    if "data" not in tensor:
        raise ModelError(f"{what} without data, expected numbers in JSON; turn binary tensors off")
    if slot.datatype not in DATATYPES and slot.datatype != "BYTES":
        raise ModelError(f"{what} with the datatype {slot.datatype}, expected one of {', '.join(DATATYPES)}, BYTES")
    try:
        flat = np.asarray(tensor["data"])
        if slot.datatype == "BYTES":
            if flat.dtype.kind not in "US":
                raise TypeError("no texts")
            flat = flat.astype(np.str_)
        elif flat.size:
            if flat.dtype.kind not in "biuf" or (flat.dtype.kind == "f" and slot.datatype[:2] != "FP"):
                raise TypeError(f"no numbers of {slot.datatype}")
            if slot.datatype[:2] != "FP" and not np.array_equal(flat.astype(DATATYPES[slot.datatype]), flat):
                raise TypeError(f"a number that {slot.datatype} cannot hold")
        if slot.datatype in DATATYPES:
            with np.errstate(over="ignore"):  # an infinity is refused later, by name
                flat = flat.astype(DATATYPES[slot.datatype])
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{what} with data that are no {slot.datatype} ({error}), expected one flat list") from None
    if any(size < 0 for size in slot.shape) or flat.size != math.prod(slot.shape):
        raise ModelError(
            f"{what} with {flat.size} values and the shape {list(slot.shape)}, expected as many as it says"
        )
    return slot.name, flat.reshape(slot.shape)


def _slots(name: str, said: dict[str, Any], part: str) -> tuple[Slot, ...]:
    listed = said.get(part) or []
    if not isinstance(listed, list):
        raise ModelError(f"{name!r} describes its {part} with {_kind(listed)}, expected a list")
    return tuple(as_slot(f"{name!r} describes its {part}", slot) for slot in listed)


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "a truth value",
    }
    kind = "null" if value is None else names.get(type(value), type(value).__name__)
    return f"{kind} with {', '.join(map(str, list(value)[:5]))}" if isinstance(value, Mapping) and value else kind
