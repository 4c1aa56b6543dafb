"""What networks do that is no single operator of a layered network, built from several: broadcasting, maxima, norms, attention.

Every function takes a `Builder` and positions in it, and gives the position of the result. `name` is what the nodes are called.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hauberk.errors import ModelError
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import (
    Add,
    AvgPool,
    Conv,
    Elementwise,
    Linear,
    MaxPool,
    Mean,
    Pad,
    Permute,
    Pick,
    Product,
    Quotient,
    Reshape,
    Scale,
    Shape,
)

__all__ = ["Compose", "dtype_of"]


def dtype_of(graph: Graph) -> torch.dtype:
    """Of its weights; float32 if it has none."""
    held = (value for node in graph.nodes for value in vars(node.op).values())
    return next(
        (value.dtype for value in held if isinstance(value, Tensor) and value.is_floating_point()), torch.float32
    )


@dataclass(frozen=True)
class Compose:
    """Adds nodes called `name` to a builder."""

    builder: Builder
    name: str

    def shape(self, place: int) -> Shape:
        """Of what the node at this position gives for one example."""
        return self.builder.shape(place)

    def numbers(self, place: int) -> Tensor:
        """The places of the values of a node, for `Pick`."""
        shape = self.shape(place)
        return torch.arange(math.prod(shape)).reshape(shape)

    def reshape(self, x: int, shape: Sequence[int]) -> int:
        """The values of x, in order, in another shape."""
        return x if tuple(shape) == self.shape(x) else self.builder.add(Reshape(tuple(shape)), x, name=self.name)

    def permute(self, x: int, order: Sequence[int]) -> int:
        """The axes of x in this order."""
        same = tuple(order) == tuple(range(len(order)))
        return x if same else self.builder.add(Permute(tuple(order)), x, name=self.name)

    def swap(self, x: int, first: int = -1, second: int = -2) -> int:
        """Two axes of x exchanged."""
        order = list(range(len(self.shape(x))))
        order[first], order[second] = order[second], order[first]
        return self.permute(x, order)

    def expand(self, x: int, shape: Shape) -> int:
        """x repeated to this shape by the rules of broadcasting."""
        if self.shape(x) == shape:
            return x
        return self.builder.add(Pick(self.numbers(x).broadcast_to(shape).clone()), x, name=self.name)

    def constant(self, value: Tensor) -> int:
        """The same value for every example."""
        zeros = self.builder.add(Pick(torch.full(value.shape, -1)), 0, name=self.name)
        return self.builder.add(Scale(1.0, value), zeros, name=self.name)

    def scale(self, x: int, factor: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> int:
        """factor * x + shift; x is repeated to the shape of the result."""
        shapes = [tuple(value.shape) for value in (factor, shift) if isinstance(value, Tensor)]
        x = self.expand(x, tuple(torch.broadcast_shapes(self.shape(x), *shapes)))
        return self.builder.add(Scale(factor, shift), x, name=self.name)

    def apply(self, function: str, x: int, *settings: float) -> int:
        """One of `FUNCTIONS` to each value."""
        return self.builder.add(Elementwise(function, settings), x, name=self.name)

    def relu(self, x: int) -> int:
        """max(x, 0)."""
        return self.apply("relu", x)

    def _alike(self, *places: int) -> list[int]:
        shape = tuple(torch.broadcast_shapes(*(self.shape(place) for place in places)))
        return [self.expand(place, shape) for place in places]

    def add(self, *places: int) -> int:
        """The sum."""
        return self.builder.add(Add(), *self._alike(*places), name=self.name)

    def subtract(self, a: int, b: int) -> int:
        """a - b."""
        return self.add(a, self.scale(b, -1.0))

    def multiply(self, a: int, b: int) -> int:
        """a b, value by value."""
        return self.builder.add(Product(), *self._alike(a, b), name=self.name)

    def divide(self, a: int, b: int) -> int:
        """a / b, value by value."""
        return self.builder.add(Quotient(), *self._alike(a, b), name=self.name)

    def maximum(self, a: int, b: int) -> int:
        """max(a, b) = b + relu(a - b), value by value."""
        return self.add(b, self.relu(self.subtract(a, b)))

    def minimum(self, a: int, b: int) -> int:
        """min(a, b) = b - relu(b - a), value by value."""
        return self.subtract(b, self.relu(self.subtract(b, a)))

    def prelu(self, x: int, slope: Tensor) -> int:
        """relu(x) - slope relu(-x), for slopes (), (1,), or (C,) along the first axis of an example."""
        if slope.numel() > 1:
            slope = slope.reshape(-1, *[1] * (len(self.shape(x)) - 1))
        return self.add(self.relu(x), self.scale(self.relu(self.scale(x, -1.0)), -slope))

    def hardsigmoid(self, x: int) -> int:
        """x / 6 + 1 / 2 between 0 and 1."""
        return self.apply("clamp", self.scale(x, 1 / 6, 0.5), 0.0, 1.0)

    def elu(self, x: int, alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0) -> int:
        """scale x where x > 0, else scale alpha (exp(inner x) - 1): ELU, and with other settings SELU and CELU."""
        x = x if inner == 1 else self.scale(x, inner)
        x = self.apply("elu", x, alpha * inner)
        return x if scale == inner else self.scale(x, scale / inner)

    def softplus(self, x: int, beta: float = 1.0) -> int:
        """log(1 + exp(beta x)) / beta."""
        if beta == 1:
            return self.apply("softplus", x)
        return self.scale(self.apply("softplus", self.scale(x, beta)), 1 / beta)

    def pad(self, x: int, amounts: Sequence[int], value: float = 0.0) -> int:
        """A value around, by amounts as `torch.nn.functional.pad` has them; negative ones cut."""
        if not any(amounts):
            return x
        if min(amounts) < 0:
            moved = F.pad(self.numbers(x)[None] + 1, list(amounts))[0] - 1
            return self.builder.add(Pick(moved), x, name=self.name)
        if value == 0:
            return self.builder.add(Pad(tuple(amounts)), x, name=self.name)
        if not math.isfinite(value):
            raise ModelError(
                f"node {self.name!r} pads with {value}, expected a finite number; pad in the pooling instead"
            )
        return self.scale(self.pad(self.scale(x, 1.0, -value), amounts), 1.0, value)

    def convolution(
        self,
        x: int,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int] | str,
        dilation: Sequence[int],
        groups: int,
    ) -> int:
        """As `torch.nn.functional.conv2d` or `conv1d`, also with padding "same" and "valid"."""
        axes = weight.ndim - 2
        if axes not in (1, 2) or len(self.shape(x)) != axes + 1:
            raise ModelError(
                f"node {self.name!r} convolves examples of shape {self.shape(x)} over {axes} axes, expected (channels, length) or "
                "(channels, height, width); other networks cannot be read"
            )
        if padding == "valid":
            padding = [0] * axes
        elif padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if any(total % 2 for total in totals):
                amounts = [amount for total in reversed(totals) for amount in (total // 2, total - total // 2)]
                x, padding = self.pad(x, amounts), [0] * axes
            else:
                padding = [total // 2 for total in totals]
        assert not isinstance(padding, str)
        op = Conv(weight, bias, _each(stride, axes), _each(padding, axes), _each(dilation, axes), groups)
        return self.builder.add(op, x, name=self.name)

    def transposed_convolution(
        self,
        x: int,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        more: Sequence[int],
        groups: int,
        dilation: Sequence[int],
    ) -> int:
        """As `torch.nn.functional.conv_transpose2d` or `conv_transpose1d`: zeros between the values, then a convolution."""
        axes = weight.ndim - 2
        if axes not in (1, 2) or len(self.shape(x)) != axes + 1:
            raise ModelError(
                f"node {self.name!r} is a transposed convolution over {axes} axes; only 1 and 2 can be read"
            )
        stride, padding, more, dilation = (_each(value, axes) for value in (stride, padding, more, dilation))
        channels, *sizes = self.shape(x)
        spread = torch.full((channels, *((size - 1) * s + 1 for size, s in zip(sizes, stride))), -1)
        spread[(slice(None), *(slice(None, None, s) for s in stride))] = self.numbers(x)
        if spread.shape != self.shape(x):
            x = self.builder.add(Pick(spread), x, name=self.name)
        around = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding)]
        x = self.pad(x, [amount for a, m in zip(reversed(around), reversed(more)) for amount in (a, a + m)])
        kernel = weight.reshape(groups, channels // groups, *weight.shape[1:]).transpose(1, 2)
        kernel = kernel.flatten(0, 1).flip(*range(2, 2 + axes))
        return self.convolution(x, kernel, bias, [1] * axes, [0] * axes, dilation, groups)

    def average(self, x: int, sizes: Sequence[int]) -> int:
        """Adaptive average pooling of the last axes of x to these sizes."""
        shape = self.shape(x)
        given = shape[len(shape) - len(sizes) :]
        if all(size == 1 for size in sizes):
            axes = tuple(range(len(shape) - len(sizes), len(shape)))
            return self.builder.add(Mean(axes, keep=True), x, name=self.name)
        if len(sizes) == 2 and len(shape) == 3 and all(g % s == 0 for g, s in zip(given, sizes)):
            kernel = (given[0] // sizes[0], given[1] // sizes[1])
            return x if kernel == (1, 1) else self.builder.add(AvgPool(kernel, kernel), x, name=self.name)
        for axis, (out, size) in enumerate(zip(sizes, given), start=len(shape) - len(sizes)):
            weight = torch.zeros(out, size, dtype=self.builder.dtype)
            for i in range(out):
                first, last = i * size // out, -(-(i + 1) * size // out)
                weight[i, first:last] = 1 / (last - first)
            x = self.along(x, axis, weight)
        return x

    def along(self, x: int, axis: int, weight: Tensor, bias: Tensor | None = None) -> int:
        """`Linear` along any axis of x."""
        x = self.swap(x, axis, -1)
        return self.swap(self.builder.add(Linear(weight, bias), x, name=self.name), axis, -1)

    def largest(self, x: int, axes: Sequence[int], keep: bool) -> int:
        """The maximum over these axes of an example."""
        shape = self.shape(x)
        rest = [axis for axis in range(len(shape)) if axis not in axes]
        rows, size = math.prod(shape[axis] for axis in rest), math.prod(shape[axis] for axis in axes)
        x = self.reshape(self.permute(x, [*rest, *axes]), (1, rows, size))
        x = self.builder.add(MaxPool((1, size), (1, size)), x, name=self.name)
        return self.reshape(
            x, [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
        )

    def standardised(self, x: int, axes: Sequence[int], eps: float) -> int:
        """(x - mean) / sqrt(variance + eps), both over these axes of an example: layer norm before its weights."""
        axes = tuple(axes)
        mean = self.builder.add(Mean(axes, keep=True), x, name=self.name)
        centred = self.subtract(x, mean)
        variance = self.builder.add(Mean(axes, keep=True), self.apply("power", centred, 2.0), name=self.name)
        return self.divide(centred, self.apply("sqrt", self.scale(variance, 1.0, eps)))

    def group_norm(self, x: int, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> int:
        """Group norm; with one group for each channel, instance norm without running statistics."""
        shape = self.shape(x)
        x = self.standardised(self.reshape(x, (groups, math.prod(shape) // groups)), [1], eps)
        each = (shape[0], *[1] * (len(shape) - 1))
        return self.affine(
            self.reshape(x, shape),
            None if weight is None else weight.reshape(each),
            None if bias is None else bias.reshape(each),
        )

    def affine(self, x: int, weight: Tensor | None, bias: Tensor | None) -> int:
        """weight x + bias, where they are given."""
        if weight is None and bias is None:
            return x
        return self.scale(x, 1.0 if weight is None else weight, 0.0 if bias is None else bias)

    def matmul(self, a: int, b: int) -> int:
        """a b for (..., n, k) and (..., k, m): every product by itself, then sums."""
        left, right = self.numbers(a)[..., :, None, :], self.numbers(b).transpose(-1, -2)[..., None, :, :]
        shape = torch.broadcast_shapes(left.shape, right.shape)
        picked = [
            self.builder.add(Pick(index.broadcast_to(shape).clone()), x, name=self.name)
            for x, index in ((a, left), (b, right))
        ]
        product = self.builder.add(Product(), *picked, name=self.name)
        return self.builder.add(Mean((len(shape) - 1,), total=True), product, name=self.name)


def _each(value: Sequence[int], axes: int) -> tuple[int, ...]:
    return tuple(value) * axes if len(value) == 1 else tuple(value)
