"""OPT: descend g(theta), the distance to the boundary in the direction theta, by random finite differences of it.

    g(theta) = the smallest r at which x + r theta reaches the goal, by a coarse search and bisection
    rise_i   = g(theta + probe * u_i) - g(theta)
    slope    = mean of (rise_i - mean of the rises) * u_i
    theta   <- unit(theta - length * unit(slope))            length doubled while g falls, quartered until it does

Source: Cheng, Le, Chen, Yi, Zhang, Hsieh 2019, "Query-efficient hard-label black-box attack: an optimization-based approach",
arXiv:1807.04457, algorithms 1 and 2 (randomised gradient-free descent, Nesterov and Spokoiny 2017).
**Differs from the paper:** probes turn theta by `probe` 0.1 radians (paper: 0.005, with a distance measured to a five hundredth of
that), are orthogonal to it and `grey`; `samples` 10 (paper: 20); a length is tried with one query, and measured only where it is
nearer than the best; the mean of the rises is taken off, since near the optimum all probes rise alike; the first direction is the
nearest of some random points, or of one that is given (paper: of 1,000 random directions); where a probe's direction never
reaches the goal within twice the distance, it counts as twice as far. L2 only.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, like
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.label_search import first_points, noise_named, radius_along, to_boundary, turned, unit, unit_noise
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["OPT", "opt"]

_FAR = 2.0


@dataclass(frozen=True)
class OPT:
    """The smallest L2 change from labels alone. Cost: some 50 + `steps` * (9 * `samples` + 20) queries; the default steps are some
    10,000, a budget ends them earlier.

    Args:
        steps: turns of the direction.
        samples: differences for each turn; each costs some nine queries.
        probe: by how much the differences turn the direction, in radians.
        length: the first turn that is tried, in radians.
        tolerance: to which share of the distance it is measured for a difference, in shares of `probe`.
        noise: what the probes are: `white`, `grey`, or of a small space, `dct:16`.
    """

    steps: int = 100
    samples: int = 10
    probe: float = 0.1
    length: float = 0.2
    tolerance: float = 1e-3
    noise: str = "grey"

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "probe", "length", "tolerance")
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
        noise, draws, fine = noise_named(self.noise), streams.child("probes"), self.tolerance * self.probe
        z = to_boundary(found, first_points(found, streams, starts), tolerance=fine)
        (z,) = found.compact(z)
        direction, radius = unit(z - found.x), Norm.L2.size(z - found.x)
        length = torch.full_like(radius, self.length)
        for _ in range(self.steps):
            slope, along, total = torch.zeros_like(direction), torch.zeros_like(direction), torch.zeros_like(radius)
            for _ in range(self.samples):
                if not len(found):
                    return found.best
                u = unit_noise(found, draws, noise, 1, direction)[:, 0]
                there, most = unit(direction + self.probe * u), _FAR * radius
                further = radius_along(found, there, radius, most=most, tolerance=fine, growth=self.probe / 50)
                rise = (further.minimum(most) - radius) / radius
                slope, along, total = slope + like(rise, u) * u, along + u, total + rise
                state = slope, along, total, direction, radius, length
                slope, along, total, direction, radius, length = found.compact(*state)
            if self.samples > 1:
                slope = slope - like(total / self.samples, along) * along
            direction, radius, length = turned(found, direction, radius, -unit(slope), length, tolerance=fine)
            direction, radius, length = found.compact(direction, radius, length)
        return found.best


opt = friendly(OPT)
