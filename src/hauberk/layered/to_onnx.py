"""Layered graphs as ONNX files: `to_onnx`, without the onnx package.

Opset 17. Functions that this opset lacks are written out: Gelu with Erf, its approximation with Tanh, SiLU with Sigmoid.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hauberk.errors import ModelError
from hauberk.layered import ops
from hauberk.layered.graph import Graph, Node
from hauberk.layered.onnx_file import MODEL, Array, tensor_record
from hauberk.layered.wire import Record, encode

__all__ = ["to_onnx"]

_PLAIN = {"relu": "Relu", "abs": "Abs", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "exp": "Exp"}
_PLAIN |= {"log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos"}


def to_onnx(graph: Graph, path: str | Path) -> None:
    """Write the network as an ONNX file with the input "input" and the output "output", both (batch, *shape).

    Args:
        graph: of weights in float32 or float64.
        path: of the file.

    Raises:
        ModelError: an operator has no counterpart in ONNX, or the file cannot be written.
    """
    dtype = _dtype(graph)
    writer = _Writer(dtype)
    names = ["input"]
    for position, node in list(graph)[1:]:
        out = "output" if position == len(graph.nodes) - 1 else f"value_{position}"
        writer.write(node, [names[place] for place in node.inputs], [graph.nodes[p].shape for p in node.inputs], out)
        names.append(out)
    kind = 1 if dtype == torch.float32 else 11
    body: Record = {
        "node": writer.nodes,
        "name": "hauberk",
        "initializer": writer.constants,
        "input": [_port("input", kind, graph.input_shape)],
        "output": [_port("output", kind, graph.output_shape)],
    }
    opsets: list[Record] = [{"domain": "", "version": 17}]
    model: Record = {"ir_version": 8, "producer_name": "hauberk", "graph": body, "opset_import": opsets}
    try:
        Path(path).write_bytes(encode(model, MODEL))
    except OSError as error:
        raise ModelError(f"{path} cannot be written ({error.strerror or error}); choose another path") from error


def _dtype(graph: Graph) -> torch.dtype:
    held = [getattr(node.op, field.name) for _, node in graph for field in fields(node.op)]  # type: ignore[arg-type]
    found = {value.dtype for value in held if isinstance(value, Tensor) and value.is_floating_point()}
    if not found <= {torch.float32} and found != {torch.float64}:
        kinds = ", ".join(sorted(str(dtype) for dtype in found))
        raise ModelError(f"an ONNX file needs weights all float32 or all float64, got {kinds}; use graph.to(dtype=...)")
    return found.pop() if found else torch.float32


def _port(name: str, kind: int, shape: Sequence[int]) -> Record:
    axes: list[Record] = [{"dim_param": "batch"}, *({"dim_value": size} for size in shape)]
    return {"name": name, "type": {"tensor_type": {"elem_type": kind, "shape": {"dim": axes}}}}


class _Writer:
    """Collects the records of nodes and constants."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.nodes: list[Record] = []
        self.constants: list[Record] = []

    def hold(self, values: Any, whole: bool = False) -> str:
        """The name of a new constant: of int64 if `whole`."""
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        kept: Array = np.asarray(values, dtype=np.int64 if whole else str(self.dtype).removeprefix("torch."))
        name = f"constant_{len(self.constants)}"
        self.constants.append(tensor_record(name, kept))
        return name

    def put(self, kind: str, inputs: Sequence[str], out: str = "", **attributes: Any) -> str:
        """One node more; the name of what it gives."""
        out = out or f"part_{len(self.nodes)}"
        held = [_attribute(name, value) for name, value in attributes.items()]
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append({"input": list(inputs), "output": [out], "name": name, "op_type": kind, "attribute": held})
        return out

    def write(self, node: Node, inputs: list[str], shapes: list[ops.Shape], out: str) -> None:
        """The nodes of one operator.

        Raises:
            ModelError: it has no counterpart.
        """
        x, op = inputs[0], node.op
        match op:
            case ops.Linear():
                self._linear(op, x, len(shapes[0]), out)
            case ops.Conv():
                extra = [] if op.bias is None else [self.hold(op.bias)]
                windows = {"strides": op.stride, "pads": (*op.padding, *op.padding), "dilations": op.dilation}
                self.put("Conv", [x, self.hold(op.weight), *extra], out, **windows, group=op.groups)
            case ops.Scale():
                self._scale(op, x, out)
            case ops.Reshape():
                self.put("Reshape", [x, self.hold([0, *op.shape], whole=True)], out)
            case ops.Permute():
                self.put("Transpose", [x], out, perm=(0, *(axis + 1 for axis in op.order)))
            case ops.Pick():
                self._pick(op.index, x, math.prod(shapes[0]), out)
            case ops.Pad():
                around = [(op.amounts[i], op.amounts[i + 1]) for i in range(0, len(op.amounts), 2)][::-1]
                rest = (0,) * (len(shapes[0]) + 1 - len(around))
                amounts = [*rest, *(a for a, _ in around), *rest, *(b for _, b in around)]
                self.put("Pad", [x, self.hold(amounts, whole=True)], out)
            case ops.Mean():
                axes = [axis + 1 for axis in op.axes]
                if op.total:
                    self.put("ReduceSum", [x, self.hold(axes, whole=True)], out, keepdims=int(op.keep))
                else:
                    self.put("ReduceMean", [x], out, axes=axes, keepdims=int(op.keep))
            case ops.AvgPool():
                settings = {"kernel_shape": op.kernel, "strides": op.stride, "pads": (*op.padding, *op.padding)}
                counted = int(op.count_padding)
                self.put("AveragePool", [x], out, **settings, count_include_pad=counted, ceil_mode=int(op.ceil))
            case ops.MaxPool():
                settings = {"kernel_shape": op.kernel, "strides": op.stride, "pads": (*op.padding, *op.padding)}
                self.put("MaxPool", [x], out, **settings, dilations=op.dilation, ceil_mode=int(op.ceil))
            case ops.Add():
                self.put("Sum", inputs, out)
            case ops.Concat():
                self.put("Concat", inputs, out, axis=op.axis + 1)
            case ops.Product():
                self.put("Mul", inputs, out)
            case ops.Quotient():
                self.put("Div", inputs, out)
            case ops.Softmax():
                self.put("Softmax", [x], out, axis=op.axis + 1)
            case ops.Elementwise():
                self._function(op.function, op.settings, x, out, node.name)
            case _:
                raise ModelError(f"node {node.name!r} ({type(op).__name__}) has no counterpart in ONNX; leave it out")

    def _linear(self, op: ops.Linear, x: str, rank: int, out: str) -> None:
        bias = [] if op.bias is None else [self.hold(op.bias)]
        if rank == 1:
            self.put("Gemm", [x, self.hold(op.weight), *bias], out, transB=1)
            return
        product = self.put("MatMul", [x, self.hold(op.weight.T)], "" if bias else out)
        if bias:
            self.put("Add", [product, *bias], out)

    def _scale(self, op: ops.Scale, x: str, out: str) -> None:
        scaled, shifted = (
            isinstance(value, Tensor) or value != trivial for value, trivial in ((op.factor, 1), (op.shift, 0))
        )
        if scaled:
            x = self.put("Mul", [x, self.hold(op.factor)], "" if shifted else out)
        if shifted:
            self.put("Add", [x, self.hold(op.shift)], out)
        elif not scaled:
            self.put("Identity", [x], out)

    def _pick(self, index: Tensor, x: str, size: int, out: str) -> None:
        """A gather from the flattened example with a zero at its end."""
        x = self.put("Reshape", [x, self.hold([0, size], whole=True)])
        if bool((index < 0).any()):
            x = self.put("Pad", [x, self.hold([0, 0, 0, 1], whole=True)])
        at = self.hold(index.flatten() % (size + 1), whole=True)
        x = self.put("Gather", [x, at], axis=1)
        self.put("Reshape", [x, self.hold([0, *index.shape], whole=True)], out)

    def _function(self, function: str, settings: tuple[float, ...], x: str, out: str, name: str) -> None:
        if function in _PLAIN:
            self.put(_PLAIN[function], [x], out)
        elif function in ("leaky_relu", "elu"):
            self.put("LeakyRelu" if function == "leaky_relu" else "Elu", [x], out, alpha=settings[0])
        elif function == "clamp":
            low, high = ("" if math.isinf(side) else self.hold(side) for side in settings)
            self.put("Clip", [x, low, high], out)
        elif function == "power":
            self.put("Pow", [x, self.hold(settings[0])], out)
        elif function == "silu":
            self.put("Mul", [x, self.put("Sigmoid", [x])], out)
        elif function in ("gelu", "gelu_tanh"):
            half = self.put("Mul", [x, self.hold(0.5)])
            if function == "gelu":
                inner = self.put("Erf", [self.put("Mul", [x, self.hold(math.sqrt(0.5))])])
            else:
                cube = self.put("Mul", [self.put("Pow", [x, self.hold(3.0)]), self.hold(0.044715)])
                inner = self.put("Add", [x, cube])
                inner = self.put("Tanh", [self.put("Mul", [inner, self.hold(math.sqrt(2 / math.pi))])])
            self.put("Mul", [half, self.put("Add", [inner, self.hold(1.0)])], out)
        else:
            raise ModelError(f"node {name!r} applies {function!r}, which has no counterpart in ONNX; leave it out")


def _attribute(name: str, value: Any) -> Record:
    if isinstance(value, float):
        return {"name": name, "f": value, "type": 1}
    if isinstance(value, int):
        return {"name": name, "i": value, "type": 2}
    return {"name": name, "ints": list(value), "type": 7}
