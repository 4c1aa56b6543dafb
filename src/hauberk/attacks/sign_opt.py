"""Sign-OPT: descend g(theta), the distance to the boundary in the direction theta, by the signs of its slopes.

    g(theta) = the smallest r at which x + r theta reaches the goal
    s_i      = sign(g(theta + probe * u_i) - g(theta))      one query: does x + g(theta) * unit(theta + probe * u_i) reach the goal?
    theta   <- unit(theta - length * unit(mean of s_i u_i))     length doubled while g falls, quartered until it does

Source: Cheng, Singh, Chen, Chen, Liu, Hsieh 2020, "Sign-OPT: a query-efficient hard-label adversarial attack", arXiv:1909.10773,
algorithm 1.
**Differs from the paper:** `samples` 40 * t^(1/4) signs in step t where the paper takes 200 in each: a plan for small budgets that is
good wherever the budget ends; probes turn theta by `probe` 0.03 radians (paper: 0.001 of the initial distance's scale), are orthogonal
to it, and `grey`; the mean of the signs is taken off, so that g(theta) need not be known exactly; a length is tried with one query,
and measured only where it is nearer than the best; the first direction is the nearest of some random points, or of one that is
given (paper: of 100 random directions). L2 only.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, like
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.label_search import first_points, noise_named, normal_at, to_boundary, turned, unit
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["SignOPT", "sign_opt"]


@dataclass(frozen=True)
class SignOPT:
    """The smallest L2 change from labels alone. Cost: some 50 + the sum of `samples` * t^`growth` + 20 queries over the steps t; the
    default steps are some 10,000, a budget ends them earlier.

    Args:
        steps: turns of the direction.
        samples: signs for the first turn.
        growth: the power of the step's number by which the signs become more.
        probe: by how much probes turn the direction, in radians.
        length: the first turn that is tried, in radians.
        tolerance: where bisection ends, in shares of the distance.
        noise: what the probes are: `white`, `grey`, or of a small space, `dct:16`.
    """

    steps: int = 100
    samples: int = 40
    growth: float = 0.25
    probe: float = 0.03
    length: float = 0.2
    tolerance: float = 1e-3
    noise: str = "grey"

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "probe", "length", "tolerance")
        not_negative(self, "growth")
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
        noise, draws = noise_named(self.noise), streams.child("probes")
        z = to_boundary(found, first_points(found, streams, starts), tolerance=self.tolerance)
        (z,) = found.compact(z)
        direction, radius = unit(z - found.x), Norm.L2.size(z - found.x)
        length = torch.full_like(radius, self.length)
        for step in range(1, self.steps + 1):
            if not len(found):
                break
            z = found.inside(found.x + like(radius, direction) * direction)
            count = int(self.samples * step**self.growth)
            # on the sphere of this radius the goal is reached where g is smaller: the normal across theta is minus g's slope
            slope = normal_at(found, z, draws, noise, count, self.probe * radius, tangent=direction)
            slope, direction, radius, length = found.compact(slope, direction, radius, length)
            direction, radius, length = turned(found, direction, radius, slope, length, tolerance=self.tolerance)
            direction, radius, length = found.compact(direction, radius, length)
        return found.best


sign_opt = friendly(SignOPT)
