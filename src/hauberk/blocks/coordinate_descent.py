"""Two ways down with slopes along single coordinates, some of them measured in each step, for the smallest L2 change.

    NewtonDescent   z <- the point nearest to x on the plane that the slopes known so far draw; then along the line on to the boundary
    AdamDescent     Adam for each coordinate by itself on |z - x|^2 + c max(-margin, 0)

    descent.enter(space)                       begin, or go on in another space
    descent.step(chosen, whole=..., pace=...)  measure these coordinates, (live, K) of the live examples, and move: 2 K queries and 1 more,
                                               in NewtonDescent 5 more where every slope is known (`whole`)

What they know is of the whole batch, so that rows may leave at any time. Source: Chen et al. 2017, "ZOO", arXiv:1708.03999.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, flat
from hauberk.blocks.closest import Closest
from hauberk.blocks.distance_and_margin import DistanceAndMargin
from hauberk.blocks.estimators import coordinates, probes
from hauberk.blocks.plane_search import PlaneSearch
from hauberk.blocks.subspaces import Identity, Subspace, lower

__all__ = ["AdamDescent", "Descent", "NewtonDescent"]

_ALONG = 4
"""Points asked on the line through x and z after each step."""
_AT_ONCE = 64
"""Vectors of a space that are drawn together."""


class Descent(Protocol):
    """What `NewtonDescent` and `AdamDescent` share."""

    def enter(self, space: Subspace) -> None: ...

    def numbers(self) -> Tensor:
        """(live, *numbers) of the change, as far as importance cares."""
        ...

    def step(self, chosen: Tensor, *, whole: bool, pace: float) -> None: ...


class NewtonDescent:
    """Remembered slopes, the nearest point of their plane, and the boundary on the line to it.

    Args:
        found: whose examples.
        margin: (live,) at the examples.
        probe: how far each coordinate is moved, in widths of the box.
    """

    def __init__(self, found: Closest, margin: PerExample, probe: float) -> None:
        self._found, self._search = found, PlaneSearch(found, margin)
        low, high = found.region.box
        self._probe = probe * (high - low)
        self._space: Subspace = Identity()

    def enter(self, space: Subspace) -> None:
        slope = self._search.slope
        self._space, self._numbers = space, space.shape(tuple(slope.shape[1:]))
        self._curvature = _squares(space, slope)
        self._g = flat(lower(space, slope)) * self._curvature
        self._known = torch.zeros_like(self._g, dtype=torch.bool)

    def numbers(self) -> Tensor:
        return (self._g[self._found.rows] / self._curvature).reshape(-1, *self._numbers)

    def step(self, chosen: Tensor, *, whole: bool, pace: float) -> None:
        found, every = self._found, self._found.rows[:, None]
        measured, before = self._measured(chosen), self._g[every, chosen]
        self._g[every, chosen] = torch.where(self._known[every, chosen], (before + measured) / 2, measured)
        self._known[every, chosen] = True
        found.compact()
        rows, mask = found.rows, found.space.mask
        if not len(rows):
            return
        slope = self._space.lift(self.numbers(), tuple(found.x.shape[1:]))
        self._search.slope[rows] = slope if mask is None else slope * mask.to(slope)
        self._search.move(1.0 if whole else self._known[rows].to(slope).mean(dim=1), _ALONG if whole else 0)

    def _measured(self, chosen: Tensor) -> Tensor:
        """(live, K) slopes of the margin."""
        found, h = self._found, self._probe
        low, high = found.region.box
        z, mask = self._search.points(), found.space.mask
        free = torch.ones_like(z[:1], dtype=torch.bool) if mask is None else mask.to(z.device)

        def ask(v: Tensor) -> Tensor:
            moves = self._space.lift(v.flatten(0, 1), tuple(z.shape[1:])).reshape(*v.shape[:2], *z.shape[1:])
            points = (z[:, None] + moves).clamp(low, high)
            return probes(found, torch.where(free[:, None], points, found.x[:, None]))

        slopes, _ = coordinates(ask, z.new_zeros(len(z), *self._numbers), chosen, h)
        if isinstance(self._space, Identity):  # walls cut probes off
            at = flat(z).gather(1, chosen)
            slopes = slopes * (2 * h / ((at + h).clamp_max(high) - (at - h).clamp_min(low)))
        return slopes


class AdamDescent:
    """Adam with a count of its own for each coordinate, and a c that follows.

    Args:
        found: whose examples.
        margin: (live,) at the examples.
        probe: how far each coordinate is moved, in widths of the box; twice that of w in tanh space.
        rate: step at a pace of 1, in widths of the box, or units of w.
        tanh: change w, see `DistanceAndMargin`.
    """

    def __init__(self, found: Closest, margin: PerExample, probe: float, rate: float, *, tanh: bool) -> None:
        self._found, self._margin = found, torch.zeros_like(found.size)
        self._margin[found.rows] = margin.to(self._margin)
        low, high = found.region.box
        self._probe, self._rate = (2 * probe, rate) if tanh else (probe * (high - low), rate * (high - low))
        self._objective = DistanceAndMargin(found, Identity(), tanh=tanh)
        self._v = torch.zeros_like(found.best)
        self._first = True

    def enter(self, space: Subspace) -> None:
        change = self._objective.space.lift(self._v, tuple(self._found.best.shape[1:]))
        self._objective.space, self._v = space, lower(space, change)
        self._mean, self._square = torch.zeros_like(flat(self._v)), torch.zeros_like(flat(self._v))
        self._count = torch.zeros_like(self._mean, dtype=torch.int64)

    def numbers(self) -> Tensor:
        return self._v[self._found.rows]

    def step(self, chosen: Tensor, *, whole: bool, pace: float) -> None:
        found, objective = self._found, self._objective
        slopes, _ = coordinates(objective.ask, self._v[found.rows], chosen, self._probe)
        if self._first:
            squared = slopes.square().sum(dim=1) * (flat(self._v).shape[1] / chosen.shape[1])
            slopes = slopes * objective.begin(self._margin[found.rows], squared)[:, None]
            self._first = False
        chosen, slopes = found.compact(chosen, slopes)
        rows = found.rows
        if not len(rows):
            return
        every = rows[:, None]
        self._mean[every, chosen] = 0.9 * self._mean[every, chosen] + 0.1 * slopes
        self._square[every, chosen] = 0.999 * self._square[every, chosen] + 0.001 * slopes.square()
        self._count[every, chosen] += 1
        count = self._count[every, chosen].to(slopes)
        mean = self._mean[every, chosen] / (1 - 0.9**count)
        move = mean / ((self._square[every, chosen] / (1 - 0.999**count)).sqrt() + 1e-8)
        flat(self._v)[every, chosen] -= pace * self._rate * move
        self._v[rows] = objective.hold(self._v[rows])
        margin = found.ask(objective.points(self._v[rows]))
        turns = -(-flat(self._v).shape[1] // chosen.shape[1])
        objective.follow(margin > 0, pace / max(turns, 10))


def _squares(space: Subspace, x: Batch) -> Tensor:
    """(k,) the squared length of the change that each number of a space stands for."""
    shape = tuple(x.shape[1:])
    numbers = space.shape(shape)
    if isinstance(space, Identity):
        return x.new_ones(math.prod(shape))
    units = torch.eye(math.prod(numbers), dtype=x.dtype, device=x.device).split(_AT_ONCE)
    return torch.cat([flat(space.lift(some.reshape(-1, *numbers), shape)).square().sum(dim=1) for some in units])
