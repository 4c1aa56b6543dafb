"""Sets of points that parameters draw: a `Chart` renders them, and attacks search the parameters as if they were the input.

A picture turned by up to 30 degrees is no ball around the picture, but its angle lies in an interval. So the space of an attack
is an ordinary `Ball` around `origin` in the chart's parameters, the point that is judged is `render(z, x)`, and gradients come
back through it: every attack on balls works on every chart unchanged, and `contains` is exact. See docs/decisions/0007.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hauberk._shapes import Batch
from hauberk.errors import ThreatError

__all__ = ["Chart", "Single", "check_limits", "limits_text", "unchanged"]


class Chart(Protocol):
    """Parameters z for each example x, and the pictures that they stand for."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the few parameters is called; empty where the parameters are as many as the input's values."""
        ...

    def box(self, bounds: tuple[float, float]) -> tuple[float, float]:
        """The range of every parameter, for a victim with inputs in `bounds`."""
        ...

    def origin(self, x: Batch, bounds: tuple[float, float]) -> Batch:
        """(B, *parameters) where an attack begins: what renders x, or the point that the set lies around."""
        ...

    def render(self, z: Batch, x: Batch, bounds: tuple[float, float]) -> Batch:
        """(B, *shape) the points inside `bounds` that z stands for; differentiable in z."""
        ...

    def values(self, z: Batch) -> Tensor:
        """The parameters in their own units: degrees, shares of the side, factors."""
        ...

    def check(self, x: Batch) -> None:
        """Refuse examples that cannot be rendered, with ThreatError."""
        ...

    def describe(self, radius: float) -> str:
        """What may be done within this radius, to follow "the attacker may"."""
        ...


@dataclass(frozen=True)
class Single:
    """A chart of one kind of parameter at its widest, in its own unit: `rotation:30` counts degrees.

    Args:
        chart: with one limit above 0, the widest there is.
        name: of that limit.
        widest: its value; the parameters live in [-widest, widest].
    """

    chart: Chart
    name: str
    widest: float

    @property
    def names(self) -> tuple[str, ...]:
        return self.chart.names

    def box(self, bounds: tuple[float, float]) -> tuple[float, float]:
        return -self.widest, self.widest

    def origin(self, x: Batch, bounds: tuple[float, float]) -> Batch:
        return self.chart.origin(x, bounds)

    def render(self, z: Batch, x: Batch, bounds: tuple[float, float]) -> Batch:
        return self.chart.render(z / self.widest, x, bounds)

    def values(self, z: Batch) -> Tensor:
        return self.chart.values(z / self.widest)

    def check(self, x: Batch) -> None:
        self.chart.check(x)

    def describe(self, radius: float) -> str:
        return self.chart.describe(radius / self.widest)


def check_limits(name: str, limits: Mapping[str, float], widest: Mapping[str, float]) -> None:
    """Refuse limits that are not numbers from 0 to the widest of their kind, or that allow nothing.

    Raises:
        ThreatError: says which.
    """
    for key, value in limits.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= widest[key]:
            raise ThreatError(f"{name} takes a {key} from 0 to {widest[key]:g}, got {key}={value!r}")
    if not any(limits.values()):
        raise ThreatError(f"{name} needs a limit above 0, got none; set one of {', '.join(limits)}")


def limits_text(limits: Mapping[str, float], phrases: Mapping[str, str], radius: float) -> str:
    """The phrase of every limit above 0, filled in with this share of it, joined by commas and "and"."""
    parts = [phrases[key].format(limit * radius) for key, limit in limits.items() if limit > 0]
    return " and ".join(", ".join(parts).rsplit(", ", 1))


def unchanged(x: Batch, count: int) -> Batch:
    """(B, count) parameters that are all 0."""
    return torch.zeros(len(x), count, dtype=x.dtype, device=x.device)
