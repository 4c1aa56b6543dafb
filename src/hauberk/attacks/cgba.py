"""CGBA: estimate the boundary's normal from labels, and walk the half circle that this normal and the example span.

From a point z on the boundary, in step t = 1, 2, ...:

    g  = the normal at z, from samples * t^growth probes
    z <- the boundary on the half circle from z to x in the plane of z - x and g, found by bisection of the angle

Where the boundary is flat, the point of the circle on it is the nearest of that plane: each step goes as far as its normal is worth,
with no step size, and none goes away from x. Once the angles have become small, the bisection begins at the last of them.

Source: Reza, Rahmati, Wu, Dai 2023, "CGBA: curvature-aware geometric black-box attack", arXiv:2308.03163, algorithm 1. The plane of
the normal and the example is also that of Ma, Guo, Chen, Yong, Wang 2021, "Tangent attack", arXiv:2111.07492, which follows a
tangent of a hemisphere in it instead.
**Differs from the paper:** `samples` 40 and `growth` 1/4 (paper: 30 * sqrt(t)), probes 3 % of the distance away (paper: 0.0002 in the
units of pictures) and orthogonal to z - x, since of a probe only the part across the circle's chord tells where to turn; probes are
`grey` where the paper takes low frequencies, which is `noise="dct:16"` here; the first point is the nearest of some random ones, or one
that is given; the variant CGBA-H for targeted attacks, which walks the circle from the other end, is left out.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.label_search import (
    bisect,
    first_points,
    noise_named,
    normal_at,
    on_circle,
    reached,
    to_boundary,
    unit,
)
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["CGBA", "cgba"]


@dataclass(frozen=True)
class CGBA:
    """The smallest L2 change from labels alone. Cost: some 50 + the sum of `samples` * t^`growth` + 12 queries over the steps t; the
    default steps are some 10,000, a budget ends them earlier.

    Args:
        steps: normals, and circles.
        samples: probes for the first normal.
        growth: the power of the step's number by which the probes become more.
        probe: how far probes are from the boundary, in shares of the distance from the example.
        tolerance: where bisection ends, in radians of the circle and shares of the distance.
        noise: what the probes are: `white`, `grey`, or of a small space, `dct:16`.
    """

    steps: int = 100
    samples: int = 40
    growth: float = 0.25
    probe: float = 0.03
    tolerance: float = 1e-3
    noise: str = "grey"

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "probe", "tolerance")
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
        last = z.new_full((len(z),), math.pi / 4)
        for step in range(1, self.steps + 1):
            if not len(found):
                break
            change, count = z - found.x, int(self.samples * step**self.growth)
            g = normal_at(found, z, draws, noise, count, self.probe * Norm.L2.size(change), tangent=unit(change))
            g, z, last = found.compact(g, z, last)
            at = on_circle(found, z, g)
            beyond, high = reached(found, at(2 * last)), torch.zeros_like(last)
            low = torch.where(beyond, torch.full_like(last, math.pi / 2), 2 * last)
            low, high = bisect(found, at, low, torch.where(beyond, 2 * last, high), self.tolerance)
            z, last = at(high), high.clamp(2 * self.tolerance, math.pi / 4)
            z, last = found.compact(z, last)
        return found.best


cgba = friendly(CGBA)
