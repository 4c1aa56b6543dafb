"""The Boundary Attack: a random walk along the boundary, drawn towards the example, with labels alone.

From a point z that reaches the goal, at distance r:

    z'  = x + r * unit(z - x + across * r * u)         u random, of length 1, orthogonal to z - x
    z'' = x + (1 - closer) * (z' - x)
    z  <- z'' where it reaches the goal

Both step sizes follow the share of proposals that succeed: `across` grows where more than half of the z' reach the goal and shrinks
where fewer do, `closer` at a quarter of the z''.

Source: Brendel, Rauber, Bethge 2018, "Decision-based adversarial attacks: reliable attacks against black-box machine learning
models", arXiv:1712.04248, algorithm 1.
**Differs from the paper:** the steps change after every answer, by `pace` in their logarithms, where the paper counts the successes
of some hundred; z' itself is asked in every `check`-th step only, as the authors' code does; noise is `grey` (`noise="white"`: as the
paper); the walk begins on the boundary, at the nearest of some random points or at one that is given, where the paper begins far away.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, like, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.label_search import first_points, noise_named, reached, to_boundary, unit, unit_noise
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["Boundary", "boundary"]

_HALF, _QUARTER = 0.5, 0.25
_FIRST = 1e-2
_STEPS = (1e-7, 1.0)
"""The shortest and the longest of either step, in shares of the distance."""


@dataclass(frozen=True)
class Boundary:
    """The smallest L2 change from labels alone. Cost: some 50 + `steps` * (1 + 1 / `check`) queries.

    Args:
        steps: proposals.
        across: the first step along the sphere, in shares of the distance.
        closer: the first step towards the example, in shares of the distance.
        pace: by how much an answer changes the logarithm of a step.
        check: one in so many proposals is also asked before it is drawn towards the example.
        noise: what the proposals are: `white`, `grey`, or of a small space, `dct:16`.
    """

    steps: int = 10_000
    across: float = 0.1
    closer: float = 0.02
    pace: float = 0.1
    check: int = 5
    noise: str = "grey"

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "across", "closer", "pace", "check")
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
        noise, draws = noise_named(self.noise), streams.child("proposals")
        z = to_boundary(found, first_points(found, streams, starts), tolerance=_FIRST)
        (z,) = found.compact(z)
        across, closer = (torch.full_like(Norm.L2.size(z), step) for step in (self.across, self.closer))
        for step in range(self.steps):
            if not len(found):
                break
            change = z - found.x
            radius = Norm.L2.size(change)
            u = unit_noise(found, draws, noise, 1, unit(change))[:, 0]
            aside = found.inside(found.x + like(radius, z) * unit(change + like(across * radius, z) * u))
            if step % self.check == 0:
                across = _adapted(across, reached(found, aside), _HALF, self.pace * self.check)
                z, aside, across, closer = found.compact(z, aside, across, closer)
            proposal = found.x + like(1 - closer, z) * (aside - found.x)
            better = reached(found, proposal)
            closer = _adapted(closer, better, _QUARTER, self.pace)
            z = torch.where(wide(better, z), proposal, z)
            z, across, closer = found.compact(z, across, closer)
        return found.best


def _adapted(step: PerExample, won: Tensor, share: float, pace: float) -> PerExample:
    """Longer after a success, shorter after a failure, so that it settles where this share of them are successes."""
    return (step * torch.where(won, math.exp(pace * (1 - share)), math.exp(-pace * share))).clamp(*_STEPS)


boundary = friendly(Boundary)
