"""The objective of Carlini and Wagner by scores alone, in the numbers of a small space: how far, and how far from the goal.

    F(v) = |z - x|^2 + c * max(-margin(z), 0),    z = inside(x + lift(v)), or the same in tanh space

Only the margin costs a query: the distance of every probe is known, so that a difference of F is exact in its first part. The scores
of a victim are logarithms of probabilities but for a number that is the same for every class, so the margin of the scores is the
log-probability hinge of ZOO.

c belongs to each example, and follows it: it grows while the goal is missed, and falls while it is reached.

Sources: Chen et al. 2017, "ZOO", arXiv:1708.03999, eqs. 4 and 5; Tu et al. 2019, "AutoZOOM", arXiv:1805.11770.
"""

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, flat
from hauberk.blocks.closest import Closest
from hauberk.blocks.estimators import probes
from hauberk.blocks.subspaces import Identity, Subspace
from hauberk.blocks.tanh_space import TanhSpace
from hauberk.threat import Ball

__all__ = ["DistanceAndMargin"]

_REACH = 0.9
_LARGE = 1e6


class DistanceAndMargin:
    """The objective on the live examples of one batch.

    Args:
        found: whose examples; a goal with confidence (`with_confidence`) makes the hinge reach so far.
        space: what the numbers mean.
        tanh: the change is one of w, and z = tanh(w), so that no wall is ever met; else z is clipped.

    Attributes:
        c: (n,) the weight of each example; until `begin` sets it so large that F is the margin alone.
    """

    def __init__(self, found: Closest, space: Subspace, *, tanh: bool = False) -> None:
        self.found, self.space = found, space
        self.c = torch.full_like(found.size, _LARGE)
        self._tanh = TanhSpace(found.region.box, _REACH) if tanh else None

    def zeros(self) -> Tensor:
        """(live, *numbers) that change nothing."""
        x = self.found.x
        return x.new_zeros(len(x), *self.space.shape(tuple(x.shape[1:])))

    def points(self, v: Tensor) -> Batch:
        """(live, *shape) where these numbers lie."""
        return self._place(v, self.found.x, self.found.space)

    def hold(self, v: Tensor) -> Tensor:
        """The numbers at the walls where they lie beyond; only where each number is a value of the input."""
        if not isinstance(self.space, Identity):
            return v
        x = self.found.x
        if self._tanh is None:
            return self.points(v) - x
        w = self._tanh.enter(x)
        return self._tanh.hold(w + v) - w

    def value(self, z: Batch, margin: PerExample) -> PerExample:
        """(live,) F at these points."""
        weight = self.c[self.found.rows]
        return flat(z - self.found.x).square().sum(dim=1) + weight * (-margin).clamp_min(0)

    def ask(self, v: Tensor) -> Tensor:
        """(live, K) of F at K numbers of each live example, (live, K, *numbers): one query each, none of them proposed."""
        found, count = self.found, v.shape[1]
        row = torch.arange(len(v), device=v.device).repeat_interleave(count)
        placed = self._place(v.flatten(0, 1), found.x[row], found.space.take(row))
        points = placed.reshape(len(v), count, *found.x.shape[1:])
        margin = probes(found, points)
        far = (points - found.x[:, None]).flatten(2).square().sum(dim=2)
        return far + self.c[found.rows][:, None] * (-margin).clamp_min(0)

    def begin(self, margin: PerExample, squared: PerExample) -> PerExample:
        """Set c, from the margin and the squared length of the slope of F at the examples, to four times the least that holds the nearest
        point of the linearised boundary; (live,) by what share of its first value."""
        rows = self.found.rows
        c = (8 * margin.abs() * self.c[rows] ** 2 / squared).nan_to_num(1.0, 1.0, 1.0).clamp(1e-6, 1e6).to(self.c)
        share = c / self.c[rows]
        self.c[rows] = c
        return share

    def follow(self, reached: Tensor, rate: float) -> None:
        """c larger by this share where the goal was missed, smaller where it was reached."""
        rows = self.found.rows
        self.c[rows] *= torch.where(reached, 1 / (1 + rate), 1 + rate).to(self.c)

    def _place(self, v: Tensor, x: Batch, ball: Ball) -> Batch:
        change = self.space.lift(v, tuple(x.shape[1:]))
        if self._tanh is not None:
            w = self._tanh.enter(x)
            change = self._tanh.leave(self._tanh.hold(w + change))[0] - self._tanh.leave(w)[0]
        return ball.project(x + change, x)
