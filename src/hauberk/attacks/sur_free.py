"""SurFree: random turns around the example on half circles, without estimating a normal; labels alone.

From a point z on the boundary, with u = unit(z - x) and a random unit vector v orthogonal to u and to the last directions:

    p(a) = x + |z - x| cos(a) (cos(a) u + sin(a) v)          z at a = 0, x at a = pi / 2
    try the angles a = +w, -w, +w/2, -w/2, ...               w, the widest, one of `angles` that follow success
    z   <- p(a) for the widest angle of that sign that still reaches the goal, by bisection

Where the boundary is flat, p(a) of the best a is the nearest point of the plane, and one of the two signs always reaches the goal.

Source: Maho, Furon, Le Merrer 2021, "SurFree: a fast surrogate-free black-box attack", arXiv:2011.12807, algorithm 1.
**Differs from the paper:** the widest angle follows success (half as wide again after one, a tenth less after none) where the paper has
a like rule for the range; the directions kept apart are the last `memory` (paper: 100); noise is `grey` where the paper takes a random
part of the low frequencies (`noise="dct:16"`); the first point is the nearest of some random ones, or one that is given.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.label_search import (
    bisect,
    first_points,
    noise_named,
    on_circle,
    reached,
    still_open,
    to_boundary,
    unit,
    unit_noise,
    upright,
)
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["SurFree", "sur_free"]

_ANGLES = (1e-3, math.pi / 4)


@dataclass(frozen=True)
class SurFree:
    """The smallest L2 change from labels alone. Cost: some 50 + `steps` * (2 * `angles`) queries at most, and some seven for each
    direction that is better.

    Args:
        steps: directions.
        angles: angles tried with either sign before a direction is given up.
        widest: the first of them, in radians, at the outset.
        memory: how many directions a new one is made orthogonal to.
        tolerance: where bisection ends, in shares of the angle.
        noise: what the directions are: `white`, `grey`, or of a small space, `dct:16`.
    """

    steps: int = 3000
    angles: int = 2
    widest: float = 0.3
    memory: int = 20
    tolerance: float = 0.05
    noise: str = "grey"

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "angles", "widest", "tolerance")
        not_negative(self, "memory")
        noise_named(self.noise)

    def __call__(
        self,
        victim: Labelled,
        x: Batch,
        goal: Goal,
        region: Region,
        *,
        streams: Streams,
        starts: Batch | None = None,
    ) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        noise, draws = noise_named(self.noise), streams.child("directions")
        z = to_boundary(found, first_points(found, streams, starts), tolerance=1e-3)
        (z,) = found.compact(z)
        memory = min(self.memory, max(flat(z).shape[1] - 2, 0))
        before = z.new_zeros((len(z), memory, *z.shape[1:]))
        wide_angle = z.new_full((len(z),), self.widest)
        for step in range(self.steps):
            if not len(found):
                break
            u = unit(z - found.x)
            v = unit_noise(found, draws, noise, 1, u)[:, 0]
            if memory:
                v = v - torch.einsum("bk,bk...->b...", torch.einsum("bk...,b...->bk", before, v), before)
            v = upright(v, u)
            at = on_circle(found, z, v)
            sign, angle = torch.zeros_like(wide_angle), wide_angle
            for k in range(self.angles):
                for side in (1.0, -1.0):
                    trying = (sign == 0) & still_open(found)
                    tried = side * wide_angle * 0.5**k
                    won = reached(found, at(tried), trying)
                    sign, angle = torch.where(won, side, sign), torch.where(won, tried.abs(), angle)
            wider = (sign != 0) & (angle == wide_angle)
            low = torch.where(wider, (3 * angle).clamp_max(math.pi / 2), 2 * angle)
            low, high = bisect(found, at, sign * low, sign * angle, self.tolerance * angle, sign != 0)
            z = torch.where(wide(sign != 0, z), at(high), z)
            if memory:
                before[:, step % memory] = v
            wide_angle = torch.where(sign != 0, torch.where(wider, 1.5, 1.0) * angle, 0.9 * wide_angle).clamp(*_ANGLES)
            z, wide_angle, before = found.compact(z, wide_angle, before)
        return found.best


sur_free = friendly(SurFree)
