"""One node of an ONNX file being read: its arguments and attributes, asked for by kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hauberk.errors import ModelError
from hauberk.layered.onnx_file import Array, OnnxNode
from hauberk.layered.onnx_live import ErfValue, Live, Value, Values

__all__ = ["Call"]


@dataclass(frozen=True, eq=False)
class Call:
    """A node and what its inputs are.

    Attributes:
        node: as the file has it.
        args: a value for each input, None for those left out.
        opset: of the file.
        values: where nodes are added.
    """

    node: OnnxNode
    args: Sequence[Value | None]
    opset: int
    values: Values

    def arg(self, position: int) -> Array | Live:
        """The input at this position, constant or live."""
        found = self.args[position] if position < len(self.args) else None
        if found is None:
            raise ModelError(f"its input {position} is missing; the file is damaged")
        if isinstance(found, ErfValue):
            raise ModelError(
                "it takes an Erf, which is only covered in x / 2 * (1 + Erf(x / sqrt 2)); export it as Gelu"
            )
        return found

    def all(self) -> list[Array | Live]:
        return [self.arg(position) for position in range(len(self.args))]

    def live(self, position: int = 0) -> Live:
        """The input at this position, which must depend on the input of the net."""
        found = self.arg(position)
        if isinstance(found, Live):
            return found
        raise ModelError(f"its input {position} is a constant where others are not; fold the constants of the file")

    def const(self, position: int) -> Array | None:
        """The constant at this position, None if it is left out."""
        if position >= len(self.args) or self.args[position] is None:
            return None
        found = self.arg(position)
        if isinstance(found, Live):
            raise ModelError(f"its input {position} depends on the input of the net, expected a constant")
        return found

    def weight(self, position: int) -> Array:
        """The constant at this position, in float64."""
        found = self.const(position)
        if found is None:
            raise ModelError(f"its input {position} is missing; the file is damaged")
        return found.astype(np.float64)

    def number(self, name: str, default: float) -> float:
        return float(self.attribute(name, default, (int, float)))

    def whole(self, name: str, default: int) -> int:
        return int(self.attribute(name, default, int))

    def text(self, name: str, default: str) -> str:
        return self.attribute(name, default, str)

    def wholes(self, name: str) -> list[int] | None:
        """A list of integers."""
        found = self.attribute(name, None, (list, type(None)))
        if found is not None and not all(isinstance(size, int) for size in found):
            raise ModelError(f"its attribute {name!r} has {found!r}, expected integers")
        return found

    def numbers(self, name: str, position: int) -> list[int] | None:
        """Integers that older opsets keep in an attribute and newer ones in an input."""
        found = self.const(position)
        return self.wholes(name) if found is None else [int(size) for size in found.reshape(-1)]

    def attribute(self, name: str, default: Any, kind: Any) -> Any:
        found = self.node.attributes.get(name, default)
        if not isinstance(found, kind):
            raise ModelError(f"its attribute {name!r} is {found!r}, which is of the wrong kind; the file is damaged")
        return found
