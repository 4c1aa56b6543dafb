"""ONNX files as layered graphs: `from_onnx`, without the onnx package.

The file is read as a function of one example. Constants are computed while reading, so that the shape arithmetic of exporters
disappears; an operator for which a layered graph has no node of its own is composed of others where that is exact. Source: the ONNX
operator specification, opsets 7 to 21; onnxruntime is the reference of the tests.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hauberk.errors import HauberkError, ModelError
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.onnx_call import Call
from hauberk.layered.onnx_file import LARGEST, OnnxFile, OnnxNode, read_onnx
from hauberk.layered.onnx_layout import LAYOUT
from hauberk.layered.onnx_live import ErfValue, Live, Value, Values
from hauberk.layered.onnx_moves import ARITHMETIC
from hauberk.layered.onnx_operators import OPERATORS
from hauberk.layered.onnx_windows import WINDOWS

__all__ = ["from_onnx"]

_FLOATS = (1, 10, 11)


def from_onnx(path: str | Path, *, dtype: torch.dtype = torch.float32, shape: Sequence[int] | None = None) -> Graph:
    """The network in an ONNX file. Weights beside the file are found by the names that it gives.

    Args:
        path: of the file.
        dtype: of the weights.
        shape: of one example, without the batch; needed if the file leaves axes open besides that of the batch.

    Returns:
        A graph of (B, *shape). The first axis of the file's input is the batch, be it 1, open or fixed; a file whose input is a
        vector, or whose first axis does not come back in its output, takes the whole as one example.

    Raises:
        ModelError: the file cannot be read, has not one input and one output of floats, or has an operator that is not covered,
            or one that mixes the examples of a batch; the message names the node.
    """
    path = Path(path)
    file = read_onnx(path)
    try:
        return _graph(file, dtype, shape)
    except ModelError as error:
        told = " ".join(str(error).split())  # names in a damaged file can hold line breaks
        raise ModelError(f"{path.name}: {told}") from error


def _graph(file: OnnxFile, dtype: torch.dtype, shape: Sequence[int] | None) -> Graph:
    sizes, batch, single = _input(file, shape)
    own = tuple(size for axis, size in enumerate(sizes) if axis != batch)
    if math.prod(own) > LARGEST or math.prod(own) == 0:
        raise ModelError(f"an example of shape {own} has too many values or none")
    builder = Builder(own, name=file.inputs[0].name, dtype=dtype)
    values = Values(builder, single, (file.inputs[0].shape or (None,))[0] or 0)
    found: dict[str, Value] = dict(file.constants)
    found[file.inputs[0].name] = Live(0, sizes, batch)
    for node in file.nodes:
        results = _results(node, found, file.opset, values)
        found.update({name: value for name, value in zip(node.outputs, results) if name})
    out = file.outputs[0].name
    if out not in found:
        raise ModelError(f"no node gives its output {out!r}; the file is damaged")
    last = found[out]
    if isinstance(last, ErfValue) or not isinstance(last, Live):
        raise ModelError(f"its output {out!r} does not depend on its input; there is nothing to prove")
    if last.batch is None and not single:
        raise ModelError(f"its output {out!r} has lost the axis of the batch; export the net with a batch of one")
    return builder.finish(last.place)


def _input(file: OnnxFile, shape: Sequence[int] | None) -> tuple[tuple[int, ...], int | None, bool]:
    """The shape of the input for one example, the axis of the batch, and whether the file is for one example."""
    for what, ports in (("inputs", file.inputs), ("outputs", file.outputs)):
        if len(ports) != 1:
            names = ", ".join(port.name for port in ports) or "none"
            raise ModelError(f"it has {len(ports)} {what} ({names}), expected one; export it with one")
    port = file.inputs[0]
    if port.kind not in _FLOATS:
        raise ModelError(f"its input {port.name!r} has elements of ONNX type {port.kind}, expected floats")
    if shape is not None:
        sizes = (None, *(int(size) for size in shape))
        if port.shape is not None and len(port.shape) == len(shape) and None not in port.shape:
            sizes = sizes[1:]
    elif port.shape is None:
        raise ModelError(f"it does not say the shape of its input {port.name!r}; give that of one example as shape=")
    else:
        sizes = port.shape
    if port.shape is not None and (
        len(sizes) != len(port.shape)
        or any(None not in pair and pair[0] != pair[1] for pair in list(zip(sizes, port.shape))[1:])
    ):
        raise ModelError(
            f"its input has the shape {_shown(port.shape)}, which examples of {tuple(shape or ())} do not fit"
        )
    rest = tuple(size for size in sizes[1:] if size is not None)
    if len(rest) < len(sizes) - 1 or len(sizes) == 0 or (len(sizes) == 1 and sizes[0] is None):
        raise ModelError(f"its input has the open shape {_shown(sizes)}; give that of one example as shape=")
    first = port.shape[0] if port.shape else None
    if len(sizes) == 1 or (first not in (None, 1) and (file.outputs[0].shape or (first,))[:1] != (first,)):
        return (*(size for size in sizes if size is not None),), None, True
    return (1, *rest), 0, first == 1


def _shown(shape: Sequence[int | None]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"


def _results(node: OnnxNode, found: dict[str, Value], opset: int, values: Values) -> Sequence[Value]:
    missing = [name for name in node.inputs if name and name not in found]
    if missing:
        raise ModelError(f"node {node.name!r} ({node.kind}) reads {missing[0]!r}, which no node before it gives")
    args = [found[name] if name else None for name in node.inputs]
    values.name = node.name
    call = Call(node, args, opset, values)
    try:
        with np.errstate(all="ignore"):
            return _apply(call)
    except HauberkError as error:
        told = str(error)
        raise ModelError(told if told.startswith("node ") else f"node {node.name!r} ({node.kind}): {told}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        # a damaged file can ask for anything; what fails in numpy or torch is told in their words
        told = str(error).split("\n")[0][:200]
        raise ModelError(
            f"node {node.name!r} ({node.kind}) cannot be computed: {told}; export the file anew"
        ) from error


def _apply(call: Call) -> Sequence[Value]:
    kind = call.node.kind
    if kind in ARITHMETIC and all(isinstance(arg, np.ndarray) for arg in call.args):
        arrays = [arg for arg in call.args if isinstance(arg, np.ndarray)]
        if sum(arg.size for arg in arrays) > LARGEST or math.prod(_spread(kind, arrays)) > LARGEST:
            raise ModelError(f"it computes a constant of more than {LARGEST} values")
        return [np.asarray(ARITHMETIC[kind](*arrays))]
    operator = OPERATORS.get(kind) or LAYOUT.get(kind) or WINDOWS.get(kind)
    if operator is None:
        raise ModelError(
            "this operator is not covered; export the net with simpler ones, cut it before this node, or attack it as a victim "
            "with hauberk.wrap"
        )
    found = operator(call)
    return found if isinstance(found, list) else [found]


def _spread(kind: str, arrays: Sequence[np.ndarray]) -> Sequence[int]:
    if kind in ("MatMul", "Range"):
        return ()
    return np.broadcast_shapes(*(array.shape for array in arrays))
