"""Inner maximisers: where in the region around each example the weights should learn.

Adversarial training minimises a maximum (Madry et al. 2018, arXiv:1706.06083, eq. 2.1). What climbs towards that maximum is no
attack of `hauberk.attacks`: it works on the net while it is trained, needs no meter and no judge, and must be cheap rather than strong.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, Rows, wide
from hauberk.blocks import start_named
from hauberk.errors import SettingError
from hauberk.threat import Ball
from hauberk.train._objective import Moment

__all__ = ["Climb", "Inner", "InnerPGD", "ascent_direction", "grown_ball"]

Climb: TypeAlias = Callable[[Batch, Rows], PerExample]
"""(points, the rows of the batch that they belong to) -> one number for each, attached to the graph of the points."""


class Inner(Protocol):
    """A frozen dataclass of settings that finds points of the region where a number is large."""

    def __call__(self, climb: Climb, x: Batch, ball: Ball, *, streams: Streams, at: Moment) -> Batch:
        """(B, *shape) points of the region, detached from every graph."""
        ...


def ascent_direction(climb: Climb, z: Batch, rows: Rows) -> tuple[PerExample, Batch]:
    """The values at these points and their gradients; no gradient reaches the weights."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        values = climb(leaf, rows)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient.nan_to_num_(0.0, 0.0, 0.0)


def grown_ball(ball: Ball, ramp: float, at: Moment) -> tuple[Ball, float]:
    """The ball whose radius grows in a straight line from 0 in the first share `ramp` of the training, and the share it has reached."""
    grown = min(1.0, (at.step + 1) / (ramp * at.steps)) if ramp else 1.0
    return (replace(ball, radius=ball.radius * grown) if grown < 1 else ball), grown


@dataclass(frozen=True)
class InnerPGD:
    """Projected gradient ascent; the last point is kept. Cost: `steps` forwards and backwards an example.

    Source: Madry et al. 2018, arXiv:1706.06083. **Differs from the paper:** starts to choose from (block corners are our own), and a
    radius that may grow in the course of the training, which keeps hard problems from starting with a constant answer.

    Args:
        steps: of ascent, >= 1.
        step_size: in the units of the radius; None: 2.5 * radius / `steps`.
        start: `uniform` in the region, `clean`, `blocks` (a random corner, constant on coarse blocks) or `gaussian` (normal noise of
            standard deviation 0.001, as TRADES has it); several joined by `+` are drawn evenly, one for each example.
        ramp: the share of the training in which the radius grows in a straight line from 0 to its value; 0: none.

    Raises:
        SettingError, UnknownNameError: a setting out of range.
    """

    steps: int = 7
    step_size: float | None = None
    start: str = "uniform"
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.ramp <= 1:
            raise SettingError(
                f"the inner ascent needs steps >= 1 and a ramp between 0 and 1, got steps={self.steps} and ramp={self.ramp}"
            )
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise SettingError(f"the inner ascent needs a finite step_size > 0, got {self.step_size}")
        for name in self.start.split("+"):
            if name != "gaussian":
                start_named(name)

    def __call__(self, climb: Climb, x: Batch, ball: Ball, *, streams: Streams, at: Moment) -> Batch:
        ball, grown = grown_ball(ball, self.ramp, at)
        rows = torch.arange(len(x), device=x.device)
        z = self._begin(x, rows, ball, streams)
        size = ball.reach * 2.5 / self.steps if self.step_size is None else self.step_size * grown
        for _ in range(self.steps):
            _, gradient = ascent_direction(climb, z, rows)
            z = ball.project(ball.step(z, gradient, size), x)
        return z

    def _begin(self, x: Batch, rows: Rows, ball: Ball, streams: Streams) -> Batch:
        names = self.start.split("+")
        starts = [_started(name, x, rows, ball, streams) for name in names]
        if len(starts) == 1:
            return starts[0]
        which = streams.integers(rows, len(starts))
        z = starts[0]
        for place, start in enumerate(starts[1:], 1):
            z = torch.where(wide(which == place, x), start, z)
        return z


def _started(name: str, x: Batch, rows: Rows, ball: Ball, streams: Streams) -> Batch:
    if name == "gaussian":
        return ball.project(x + 0.001 * streams.normal(rows, x.shape[1:], dtype=x.dtype), x)
    return start_named(name)(x, rows, ball, streams)
