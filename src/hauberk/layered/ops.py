"""The operators of a layered network, and nothing else: what each computes, and for the linear ones their transpose and magnitude.

Every tensor has the batch first; shapes below leave it out. An operator is a frozen dataclass of settings and weights; weights may
be live parameters, so that a bound can be trained on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "FUNCTIONS",
    "Add",
    "AvgPool",
    "Concat",
    "Conv",
    "Elementwise",
    "Input",
    "Linear",
    "LinearOp",
    "MaxPool",
    "Mean",
    "Op",
    "Pad",
    "Permute",
    "Pick",
    "Product",
    "Quotient",
    "Reshape",
    "Scale",
    "Shape",
    "Softmax",
    "moves",
]

Shape: TypeAlias = tuple[int, ...]


class Op(Protocol):
    """From the tensors of its inputs, (B, *shape) each, to its own."""

    def __call__(self, *inputs: Tensor) -> Tensor: ...


@runtime_checkable
class LinearOp(Protocol):
    """An operator of one input, y = L x + b."""

    def __call__(self, *inputs: Tensor) -> Tensor: ...

    def apply(self, x: Tensor) -> Tensor:
        """L x."""
        ...

    def magnitude(self, x: Tensor) -> Tensor:
        """|L| x: every weight by its absolute value."""
        ...

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        """(N, *shape) L^T a, for a of (N, *output shape)."""
        ...

    def constant(self, a: Tensor) -> Tensor:
        """(N,) a . b."""
        ...


class _Moves:
    """Base of the linear operators that have no weights: they move, repeat, drop or average values, so L >= 0 and b = 0."""

    def apply(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.apply(inputs[0])

    def magnitude(self, x: Tensor) -> Tensor:
        return self.apply(x)

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        with torch.enable_grad():
            x = a.new_zeros((len(a), *shape)).requires_grad_()
            (found,) = torch.autograd.grad(self.apply(x), x, a, create_graph=a.requires_grad)
        return found

    def constant(self, a: Tensor) -> Tensor:
        return a.new_zeros(len(a))


def moves(op: LinearOp) -> bool:
    """The operator only moves, drops or averages values: it has no weights, none of which then is negative."""
    return isinstance(op, _Moves)


@dataclass(frozen=True)
class Input:
    """Where the example enters."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


@dataclass(frozen=True, eq=False)
class Linear:
    """Along the last axis: weight (out, in), bias (out,) or None."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, self.bias)

    def apply(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def magnitude(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.abs())

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        return a @ self.weight

    def constant(self, a: Tensor) -> Tensor:
        return a.new_zeros(len(a)) if self.bias is None else (a @ self.bias).reshape(len(a), -1).sum(dim=1)


@dataclass(frozen=True, eq=False)
class Conv:
    """In one or two dimensions; weight (out, in / groups, *kernel), bias (out,) or None, zeros around."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Shape = (1, 1)
    padding: Shape = (0, 0)
    dilation: Shape = (1, 1)
    groups: int = 1

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv: Any = F.conv2d if weight.ndim == 4 else F.conv1d
        return conv(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._conv(inputs[0], self.weight, self.bias)

    def apply(self, x: Tensor) -> Tensor:
        return self._conv(x, self.weight, None)

    def magnitude(self, x: Tensor) -> Tensor:
        return self._conv(x, self.weight.abs(), None)

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        spans = zip(
            a.shape[2:], shape[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
        )
        rest = tuple(
            size - ((out - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1)
            for out, size, kernel, stride, pad, dilation in spans
        )
        spread: Any = F.conv_transpose2d if self.weight.ndim == 4 else F.conv_transpose1d
        return spread(a, self.weight, None, self.stride, self.padding, rest, self.groups, self.dilation)

    def constant(self, a: Tensor) -> Tensor:
        return a.new_zeros(len(a)) if self.bias is None else a.flatten(2).sum(dim=2) @ self.bias


@dataclass(frozen=True, eq=False)
class Scale:
    """y = factor * x + shift, both of a shape that broadcasts against the example, or numbers; batch norm and normalisation."""

    factor: Tensor | float = 1.0
    shift: Tensor | float = 0.0

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.factor + self.shift

    def apply(self, x: Tensor) -> Tensor:
        return x * self.factor

    def magnitude(self, x: Tensor) -> Tensor:
        return x * (self.factor.abs() if isinstance(self.factor, Tensor) else abs(self.factor))

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        return a * self.factor

    def constant(self, a: Tensor) -> Tensor:
        return (a * self.shift).flatten(1).sum(dim=1)


@dataclass(frozen=True)
class Reshape(_Moves):
    """To this shape of an example."""

    shape: Shape

    def apply(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        return a.reshape(len(a), *shape)


@dataclass(frozen=True)
class Permute(_Moves):
    """Axes of an example in this order, counted from 0 without the batch."""

    order: Shape

    def apply(self, x: Tensor) -> Tensor:
        return x.permute(0, *(axis + 1 for axis in self.order))


@dataclass(frozen=True, eq=False)
class Pick(_Moves):
    """Values of the flattened example at these places, in the shape of `index`; -1 is a zero. Slices, gathers and upsampling."""

    index: Tensor

    def apply(self, x: Tensor) -> Tensor:
        whole = F.pad(x.flatten(1), (0, 1))
        return whole[:, self.index.to(x.device).flatten() % whole.shape[1]].reshape(len(x), *self.index.shape)


@dataclass(frozen=True)
class Pad(_Moves):
    """Zeros around; amounts as `torch.nn.functional.pad` has them, from the last axis."""

    amounts: Shape

    def apply(self, x: Tensor) -> Tensor:
        return F.pad(x, list(self.amounts))


@dataclass(frozen=True)
class Mean(_Moves):
    """Over these axes of an example, counted from 0 without the batch; `total` sums instead."""

    axes: Shape
    keep: bool = False
    total: bool = False

    def apply(self, x: Tensor) -> Tensor:
        axes = tuple(axis + 1 for axis in self.axes)
        return x.sum(dim=axes, keepdim=self.keep) if self.total else x.mean(dim=axes, keepdim=self.keep)


@dataclass(frozen=True)
class AvgPool(_Moves):
    """In two dimensions; `count_padding`: zeros around count as values."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    count_padding: bool = True
    ceil: bool = False

    def apply(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, self.ceil, self.count_padding)


@dataclass(frozen=True)
class Add:
    """The sum of its inputs, which broadcast against each other no more: all have the shape of the result."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return sum(inputs[1:], start=inputs[0])


@dataclass(frozen=True)
class Concat:
    """Along this axis of an example, counted from 0 without the batch."""

    axis: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=self.axis + 1)


@dataclass(frozen=True)
class MaxPool:
    """In two dimensions; what is around never is the largest."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.max_pool2d(inputs[0], self.kernel, self.stride, self.padding, self.dilation, self.ceil)


def _clamp(x: Tensor, low: float, high: float) -> Tensor:
    return x.clamp(low, high)


FUNCTIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "relu": torch.relu,
        "leaky_relu": lambda x, slope: F.leaky_relu(x, slope),
        "abs": torch.abs,
        "clamp": _clamp,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "softplus": F.softplus,
        "elu": lambda x, alpha: F.elu(x, alpha),
        "exp": torch.exp,
        "log": torch.log,
        "sqrt": torch.sqrt,
        "sin": torch.sin,
        "cos": torch.cos,
        "power": lambda x, exponent: x**exponent,
    }
)
"""What `Elementwise` can apply, by name; settings follow the tensor."""


@dataclass(frozen=True)
class Elementwise:
    """One function of one number, applied to each value: a name of `FUNCTIONS` and its settings."""

    function: str
    settings: tuple[float, ...] = ()

    def __call__(self, *inputs: Tensor) -> Tensor:
        return FUNCTIONS[self.function](inputs[0], *self.settings)


@dataclass(frozen=True)
class Product:
    """Of two inputs of one shape, value by value."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]


@dataclass(frozen=True)
class Quotient:
    """The first input over the second, of one shape, value by value."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0] / inputs[1]


@dataclass(frozen=True)
class Softmax:
    """Along this axis of an example, counted from 0 without the batch."""

    axis: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].softmax(dim=self.axis + 1)
