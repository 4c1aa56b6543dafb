"""One operator of an exported PyTorch module with its arguments, as the rules that read it see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hauberk.errors import ModelError
from hauberk.layered.compose import Compose
from hauberk.layered.ops import Pick, Shape

__all__ = ["Call", "Wire", "moved"]


@dataclass(frozen=True)
class Wire:
    """What a node of the layered network gives."""

    place: int


@dataclass(frozen=True)
class Call:
    """An operator and its arguments by name: wires, tensors that do not depend on the input, numbers, lists of them.

    Attributes:
        compose: adds nodes.
        operator: the operator itself, for those that only move values.
        arguments: all of them, defaults filled in.
        shape: of the (first) result for one example.
        where: what the operator is and where it stands in the module, for errors.
    """

    compose: Compose
    operator: Any
    arguments: Mapping[str, Any]
    shape: Shape
    where: str

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def fail(self, reason: str) -> ModelError:
        """An error that names the operator."""
        return ModelError(f"{self.where} {reason}")

    @property
    def x(self) -> int:
        """The position of the first argument."""
        return self.wire(next(iter(self.arguments)))

    def wire(self, name: str) -> int:
        """The position of an argument, which must depend on the input."""
        value = self.arguments[name]
        if not isinstance(value, Wire):
            raise self.fail(f"needs an argument {name!r} that depends on the input, got a constant; it cannot be read")
        return value.place

    def fixed(self, name: str) -> Any:
        """An argument that must not depend on the input."""
        value = self.arguments[name]
        if isinstance(value, Wire):
            raise self.fail(
                f"has an argument {name!r} that depends on the input, expected a constant; it cannot be read"
            )
        return value

    def example(self, value: Any) -> Any:
        """A number as it is; a tensor that broadcasts against the batch as one that does against an example."""
        if not isinstance(value, Tensor):
            return float(value)
        value = value.to(self.compose.builder.dtype)
        return value[0] if value.ndim == len(self.shape) + 1 else value

    def axis(self, value: int, of: int | None = None) -> int:
        """An axis of the batch as one of an example.

        Raises:
            ModelError: it is the axis of the batch.
        """
        ndim = len(self.compose.shape(self.x)) + 1 if of is None else of
        if value % ndim == 0:
            raise self.fail("mixes the examples of a batch (it works along axis 0); leave it out of what is bounded")
        return value % ndim - 1

    def axes(self, value: int | Sequence[int] | None) -> tuple[int, ...]:
        """Several axes; none given are all."""
        if value is None or (not isinstance(value, int) and not value):
            raise self.fail("mixes the examples of a batch (it works along all axes); name the axes in the module")
        return tuple(sorted(self.axis(each) for each in ([value] if isinstance(value, int) else value)))


def moved(call: Call) -> list[int]:
    """For an operator that only moves, repeats or drops values: it is asked where, by moving numbers."""
    c, x = call.compose, call.x
    numbers = c.numbers(x).double() + 1
    both = torch.stack([numbers, numbers + numbers.numel()])
    given = {name: both if isinstance(value, Wire) else value for name, value in call.arguments.items()}
    schema = call.operator._schema.arguments
    positional = [given[part.name] for part in schema if not part.kwarg_only]
    named = {part.name: given[part.name] for part in schema if part.kwarg_only}
    found = call.operator(*positional, **named)
    places: list[int] = []
    for each in found if isinstance(found, tuple | list) else [found]:
        if len(each) != 2 or not torch.equal(torch.where(each[0] > 0, each[0] + numbers.numel(), 0.0), each[1]):
            raise call.fail("mixes the examples of a batch; leave it out of what is bounded")
        index = each[0].long() - 1
        same = index.numel() == numbers.numel() and torch.equal(index.flatten(), torch.arange(index.numel()))
        places.append(c.reshape(x, index.shape) if same else c.builder.add(Pick(index.contiguous()), x, name=c.name))
    return places
