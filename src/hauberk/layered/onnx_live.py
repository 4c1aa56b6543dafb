"""Values of an ONNX graph while it is read: constants, and live ones, which depend on the input and are nodes of a layered graph.

A live value has the shape that the file gives it for one example, with an axis of length one where the batch runs; the node that
holds it has the same values in the same order, without that axis. What moves values is computed on their positions, so that one
function serves constants (moved) and live values (a `Pick`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from hauberk.errors import ModelError
from hauberk.layered.graph import Builder
from hauberk.layered.onnx_file import LARGEST, Array
from hauberk.layered.ops import (
    Add,
    Elementwise,
    Linear,
    Mean,
    Op,
    Permute,
    Pick,
    Product,
    Quotient,
    Reshape,
    Scale,
    Shape,
)

__all__ = ["ErfValue", "Live", "Value", "Values", "mixes"]


@dataclass(frozen=True)
class Live:
    """A value that depends on the input.

    Attributes:
        place: of its node.
        shape: in the file, for one example.
        batch: the axis of `shape` along which the batch runs; None where the file has none.
    """

    place: int
    shape: Shape
    batch: int | None

    @property
    def ndim(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class ErfValue:
    """factor * erf(x / sqrt 2) + shift, which only occurs inside of Gelu."""

    of: Live
    factor: float = 1.0
    shift: float = 0.0


Value: TypeAlias = Array | Live | ErfValue


def mixes(what: str) -> ModelError:
    """The error for an operator that would mix the examples of a batch."""
    return ModelError(f"it {what} the axis of the batch, which would mix examples; export the net with a batch of one")


class Values:
    """Adds nodes to a graph by the shapes of the file.

    Args:
        builder: of the graph.
        single: the file is for one example, so that its axis of length one is as good as any other.
        fixed: the size of the batch that the file is for, as its constants may repeat it; 0 if open.
    """

    def __init__(self, builder: Builder, single: bool, fixed: int = 0) -> None:
        self.builder, self.single, self.fixed, self.name = builder, single, fixed, ""

    def tensor(self, values: Array) -> torch.Tensor:
        """A constant as a weight."""
        return torch.from_numpy(np.array(values, dtype=np.float64, order="C")).to(self.builder.dtype)

    def node(self, op: Op, *inputs: int) -> int:
        return self.builder.add(op, *inputs, name=self.name)

    def put(self, op: Op, shape: Sequence[int], batch: int | None, *inputs: Live) -> Live:
        """The live value of this shape that an operator gives."""
        own = tuple(size for axis, size in enumerate(shape) if axis != batch)
        if math.prod(own) > LARGEST or math.prod(own) == 0:
            raise ModelError(f"its result would have the shape {tuple(shape)}, expected 1 to {LARGEST} values")
        place = self.node(op, *(value.place for value in inputs))
        return Live(place, tuple(shape), batch)

    def elementwise(self, x: Live, function: str, *settings: float) -> Live:
        return self.put(Elementwise(function, settings), x.shape, x.batch, x)

    def axis(self, x: Live, axis: int, what: str = "computes along") -> tuple[Live, int]:
        """The value, and the axis of its node that an axis of the file is; both without the batch.

        Raises:
            ModelError: it is the axis of the batch, or there is none such.
        """
        if not -x.ndim <= axis < x.ndim:
            raise ModelError(f"it names the axis {axis} of a value of {x.ndim} axes; the file is damaged")
        axis %= x.ndim
        if axis == x.batch:
            x = self.whole(x, what)
        return x, axis - (x.batch is not None and axis > x.batch)

    def whole(self, x: Live, what: str = "computes along") -> Live:
        """The value without an axis for the batch: its node has the shape of the file."""
        if x.batch is None:
            return x
        if not self.single:
            raise mixes(what)
        return self.put(Reshape(x.shape), x.shape, None, x)

    def front(self, x: Live) -> Live:
        """The value with the batch as its first axis."""
        if x.batch == 0:
            return x
        if x.shape[:1] != (1,):
            raise ModelError(f"it takes the shape {x.shape}, whose first axis is not that of the batch")
        x = self.whole(x)
        return self.put(Reshape(x.shape[1:]), x.shape, 0, x)

    def moved(self, x: Live, move: Callable[[Array], Array], batch: int | None) -> Live:
        """What `move` gives on values; on positions it is computed here. -1 is a zero."""
        at = move(np.arange(math.prod(x.shape)).reshape(x.shape))
        if batch is not None and (batch >= at.ndim or at.shape[batch] != 1):
            raise mixes("changes")
        own = tuple(size for axis, size in enumerate(at.shape) if axis != batch)
        if at.size == math.prod(x.shape) and np.array_equal(at.reshape(-1), np.arange(at.size)):
            if self.builder.shape(x.place) == own:
                return Live(x.place, at.shape, batch)
            return self.put(Reshape(own), at.shape, batch, x)
        index = torch.from_numpy(np.array(at.reshape(own), dtype=np.int64))
        return self.put(Pick(index), at.shape, batch, x)

    def reshape(self, x: Live, shape: Sequence[int]) -> Live:
        """The same values in another shape; the batch keeps its place among them."""
        shape = tuple(shape)
        batch = None
        if x.batch is not None:
            before = math.prod(x.shape[: x.batch])
            fits = [p for p, size in enumerate(shape) if size == 1 and math.prod(shape[:p]) == before]
            if not fits:
                x = self.whole(x, "reshapes")
            else:
                batch = x.batch if x.batch in fits else fits[0]
        return self.moved(x, lambda at: at.reshape(shape), batch)

    def transpose(self, x: Live, order: Sequence[int]) -> Live:
        order = [axis % x.ndim for axis in order]
        if sorted(order) != list(range(x.ndim)):
            raise ModelError(f"it transposes {x.ndim} axes into the order {order}; the file is damaged")
        batch = None if x.batch is None else order.index(x.batch)
        shape = tuple(x.shape[axis] for axis in order)
        own = [axis - (x.batch is not None and axis > x.batch) for axis in order if axis != x.batch]
        if own == sorted(own):
            return Live(x.place, shape, batch)
        return self.put(Permute(tuple(own)), shape, batch, x)

    def spread(self, x: Live, shape: Shape, batch: int | None) -> Live:
        """The value broadcast to this shape of the file."""
        missing = len(shape) - x.ndim
        if x.batch is not None and x.batch + missing != batch:
            x = self.whole(x, "broadcasts along")
        if batch is not None and x.batch is None and shape[batch] != 1:
            raise mixes("broadcasts along")
        return self.moved(x, lambda at: np.broadcast_to(at, shape), batch)

    def together(self, *values: Array | Live) -> tuple[Shape, int | None]:
        """The shape, and the axis of the batch, that values have when broadcast to one another."""
        shape = np.broadcast_shapes(*(value.shape for value in values))
        places = {v.batch + len(shape) - v.ndim for v in values if isinstance(v, Live) and v.batch is not None}
        batch = places.pop() if len(places) == 1 and shape[min(places)] == 1 else None
        return shape, batch

    def scale(self, x: Live, factor: Array | float = 1.0, shift: Array | float = 0.0) -> Live:
        """factor * x + shift, for constants that may make it larger."""
        sides = [np.asarray(side) for side in (factor, shift)]
        shape, batch = self.together(x, *sides)
        x = self.spread(x, shape, batch)
        parts: list[torch.Tensor | float] = []
        for side in sides:
            if side.size == 1:
                parts.append(float(side.reshape(())))
                continue
            side = side.reshape((1,) * (len(shape) - side.ndim) + side.shape)
            parts.append(self.tensor(side if batch is None else side.squeeze(batch)))
        if not any(isinstance(part, torch.Tensor) for part in parts) and parts == [1.0, 0.0]:
            return x
        before = self.builder.nodes[x.place]
        if isinstance(before.op, Linear) and sides[0].size == 1 and before.op.bias is None and parts[0] == 1.0:
            width = before.op.weight.shape[0]
            bias = (
                parts[1] if isinstance(parts[1], torch.Tensor) else torch.tensor([parts[1]], dtype=self.builder.dtype)
            )
            if bias.numel() == 1 or bias.numel() == bias.shape[-1] == width:
                joined = Linear(before.op.weight, bias.reshape(-1).expand(width).clone())
                return Live(self.builder.add(joined, *before.inputs, name=before.name), shape, batch)
        return self.put(Scale(*parts), shape, batch, x)

    def pair(self, a: Live, b: Live) -> tuple[Live, Live, Shape, int | None]:
        shape, batch = self.together(a, b)
        return self.spread(a, shape, batch), self.spread(b, shape, batch), shape, batch

    def add(self, a: Live, b: Live) -> Live:
        a, b, shape, batch = self.pair(a, b)
        return self.put(Add(), shape, batch, a, b)

    def product(self, a: Live, b: Live) -> Live:
        """a * b; squares and x * sigmoid(x) by their own names, which have tighter bounds."""
        for x, other in ((a, b), (b, a)):
            node = self.builder.nodes[other.place]
            if node.op == Elementwise("sigmoid") and node.inputs == (x.place,) and x.shape == other.shape:
                return self.elementwise(x, "silu")
        if a == b:
            return self.elementwise(a, "power", 2.0)
        a, b, shape, batch = self.pair(a, b)
        return self.put(Product(), shape, batch, a, b)

    def quotient(self, a: Live, b: Live) -> Live:
        a, b, shape, batch = self.pair(a, b)
        return self.put(Quotient(), shape, batch, a, b)

    def reduce(self, x: Live, axes: Sequence[int], keep: bool, total: bool = False) -> Live:
        """The mean, or the total, over these axes."""
        own: list[int] = []
        if x.batch is not None and any(axis % x.ndim == x.batch for axis in axes):
            x = self.whole(x, "averages over" if not total else "sums over")
        for axis in axes:
            x, at = self.axis(x, axis)
            own.append(at)
        gone = {axis % x.ndim for axis in axes}
        shape = tuple(1 if axis in gone else size for axis, size in enumerate(x.shape))
        batch = x.batch
        if not keep:
            shape = tuple(size for axis, size in enumerate(x.shape) if axis not in gone)
            batch = None if batch is None else batch - sum(axis < batch for axis in gone)
        if not gone:
            return x
        return self.put(Mean(tuple(sorted(own)), keep, total), shape, batch, x)

    def contract(self, x: Live, axis: int, weight: Array) -> Live:
        """A weight (out, in) along one axis of the file."""
        x, at = self.axis(x, axis)
        axis %= x.ndim
        shape = (*x.shape[:axis], len(weight), *x.shape[axis + 1 :])
        rank = x.ndim - (x.batch is not None)
        linear = Linear(self.tensor(weight))
        if at == rank - 1:
            return self.put(linear, shape, x.batch, x)
        order = (*(i for i in range(rank) if i != at), at)
        place = self.node(linear, self.node(Permute(order), x.place))
        back = tuple(order.index(i) for i in range(rank))
        return Live(self.node(Permute(back), place), shape, x.batch)

    def constant(self, like: Live, values: Array) -> Live:
        """A constant as a live value: zeros picked from `like`, plus the constant."""
        nothing = self.put(Pick(torch.full(values.shape, -1)), values.shape, None, like)
        return self.put(Scale(1.0, self.tensor(values)), values.shape, None, nothing)
