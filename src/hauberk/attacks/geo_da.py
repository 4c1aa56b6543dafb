"""GeoDA: take the boundary for a plane, estimate its normal from labels, and go from the example along it.

From a point z on the boundary, in step t = 1, 2, ...:

    w <- w + sum of s_i * u_i over samples * growth^(t - 1) probes around z       s_i = +1 where the goal is reached, -1 where not
    z <- the boundary on the way from x along w (L2) or along sign(w) (L-inf)

The direction that is best against a plane of normal w is the norm's steepest. More and more probes a step are the paper's finding: the
first normals only have to bring z near.

Source: Rahmati, Moosavi-Dezfooli, Frossard, Dai 2020, "GeoDA: a geometric framework for black-box adversarial attacks",
arXiv:2003.06468, algorithm 1 and section 3.3.
**Differs from the paper:** all the probes so far count (paper: those of this step), as they would for a plane; each step has
`growth` 1.25 times the probes of the one before, whatever the budget (paper: that share of a given budget, growth 1 / 0.6); probes lie
at `probe` 3 % of the distance and are `grey`, where the paper takes low frequencies (`noise="dct:16"`); both noises bias the
normal towards themselves, only `noise="white"` finds the optimum of a plane; where the boundary along w is more than twice as far away,
z stays; the first point is the nearest of some random ones, or one that is given. L1 is left out.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, like, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.label_search import first_points, noise_named, normal_at, radius_along, to_boundary
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["GeoDA", "geo_da"]

_FAR = 2.0


@dataclass(frozen=True)
class GeoDA:
    """The smallest change in L2 or L-inf from labels alone. Cost: some 50 + the sum of `samples` * `growth`^(t - 1) + 15 queries over
    the steps t; the default steps are some 12,000, a budget ends them earlier.

    Args:
        steps: normals, and ways along them.
        samples: probes for the first normal.
        growth: by what factor the probes become more in each step.
        probe: how far probes are from the boundary, in shares of the distance from the example; for L-inf the root mean square.
        tolerance: where bisection ends, in shares of the distance.
        noise: what the probes are: `white`, `grey`, or of a small space, `dct:16`.
    """

    steps: int = 20
    samples: int = 40
    growth: float = 1.25
    probe: float = 0.03
    tolerance: float = 1e-3
    noise: str = "grey"

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "growth", "probe", "tolerance")
        noise_named(self.noise)
        if self.growth < 1:
            raise SettingError(f"geo_da needs growth >= 1, got growth={self.growth}; 1 gives each step the same probes")

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
        noise, norm, draws = noise_named(self.noise), found.space.norm, streams.child("probes")
        z = to_boundary(found, first_points(found, streams, starts), tolerance=self.tolerance)
        (z,) = found.compact(z)
        w = torch.zeros_like(z)
        for step in range(self.steps):
            if not len(found):
                break
            count, size = int(self.samples * self.growth**step), norm.size(z - found.x)
            scale = self.probe * size * (math.sqrt(flat(z).shape[1]) if norm is Norm.LINF else 1)
            w = w + math.sqrt(count) * normal_at(found, z, draws, noise, count, scale)
            w, z, size = found.compact(w, z, size)
            direction = norm.steepest(w)
            radius = radius_along(found, direction, size, most=_FAR * size, tolerance=self.tolerance, growth=0.1)
            there = found.inside(found.x + like(radius.clamp_max(1e6), direction) * direction)
            z = torch.where(wide(radius.isfinite(), z), there, z)
            z, w = found.compact(z, w)
        return found.best


geo_da = friendly(GeoDA)
