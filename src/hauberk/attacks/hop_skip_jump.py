"""HopSkipJump: from labels alone, estimate the boundary's normal, hop along it, and bisect back towards the example.

From a point z on the boundary, at distance r in the norm, in step t = 1, 2, ...:

    g   = mean of s_i * u_i over samples * t^growth probes z + probe * r * u_i     s_i = +1 where the goal is reached, -1 where not
    z' <- z + xi * move,  move = g (L2) or sign(g) (L-inf)                         xi = r / sqrt(t), halved until z' reaches the goal
    z  <- the boundary between z' and x: along the line (L2), along projections onto smaller cubes (L-inf)

Source: Chen, Jordan, Wainwright 2020, "HopSkipJumpAttack: a query-efficient decision-based attack", arXiv:1904.02144, algorithm 2;
step sizes by geometric progression, the mean of the signs taken off (section III.C).
**Differs from the paper:** `samples` 40 and `growth` 1/4 where the paper takes 100 probes times sqrt(t): below some thousands of
queries more hops are worth more than a finer normal, and the plan is good whenever the budget ends; in L2 the probes are orthogonal
to z - x, of which the bisection takes care; they are `grey`, nearly alike in the channels of a colour picture (`noise="white"`: as the
paper, and the choice for more than some thousand queries in L-inf, where grey noise biases the signs); they lie at 3 % of the distance
(paper: 1/D of it), and bisection ends at a thousandth of it (paper: D^-1.5, some nine queries a step more); the start is the nearest
of some random points, noise and block corners (paper: the first of noise alone), or a point that is given; after
`again` hops a second way is gone, from the best of `tries` other starts, and the nearer of the two is gone on. Every example has its
own start, step and interval, so that no result depends on the batch.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.label_search import (
    first_points,
    noise_named,
    normal_at,
    reached,
    still_open,
    to_boundary,
    unit,
)
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["HopSkipJump", "hop_skip_jump"]

_HALVINGS = 12
"""Of a hop; if none of these lengths reaches the goal, the example stays where it is for this step."""
_SPRINT = 3


@dataclass(frozen=True)
class HopSkipJump:
    """The smallest change in L2 or L-inf from labels alone. Cost: some 50 + the sum of `samples` * t^`growth` + 12 queries over the
    steps t; the default steps are some 14,000, a budget ends them earlier; the second way begins after some 1,800 and costs some 3,000.

    Args:
        steps: hops.
        samples: probes for the first normal.
        growth: the power of the step's number by which the probes become more.
        probe: how far probes are from the boundary, in shares of the distance from the example; for L-inf the root mean square.
        tolerance: where bisection ends, in shares of the distance.
        noise: what the probes are: `white`, `grey`, or of a small space, `dct:16`.
        again: after so many hops, go as far from another start and go on from the nearer of the two; 0: never. The boundary of one
            rival class seldom leads to that of another.
        tries: starts from which the other is taken, the one that is nearest after three hops.
    """

    steps: int = 100
    samples: int = 40
    growth: float = 0.25
    probe: float = 0.03
    tolerance: float = 1e-3
    noise: str = "grey"
    again: int = 20
    tries: int = 6

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "probe", "tolerance", "tries")
        not_negative(self, "growth", "again")
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
        found, draws = Closest(victim, x, goal, ball_of(self, region)), streams.child("probes")
        z, done = first_points(found, streams, starts), 0
        if 0 < self.again < self.steps:
            z, done = self._nearer_of_two(found, z, streams, draws), self.again
        z = self._walk(found, z, done + 1, self.steps, draws)
        if len(found):
            to_boundary(found, z, tolerance=self.tolerance)
        return found.best

    def _walk(self, found: Closest, z: Batch, first: int, last: int, draws: Streams) -> Batch:
        """The hops of these numbers; rows that are left."""
        noise, norm = noise_named(self.noise), found.space.norm
        for step in range(first, last + 1):
            z = to_boundary(found, z, tolerance=self.tolerance)
            (z,) = found.compact(z)
            if not len(found):
                break
            size = norm.size(z - found.x)
            scale = self.probe * size * (math.sqrt(flat(z).shape[1]) if norm is Norm.LINF else 1)
            count = int(self.samples * step**self.growth)
            across = None if norm is Norm.LINF else unit(z - found.x)
            g = normal_at(found, z, draws, noise, count, scale, tangent=across)
            g, z, size = found.compact(g, z, size)
            z = _hop(found, z, norm.steepest(g), size / math.sqrt(step))
            (z,) = found.compact(z)
        return z

    def _nearer_of_two(self, found: Closest, z: Batch, streams: Streams, draws: Streams) -> Batch:
        """Where `again` hops lead from the point given, or from the best of some other starts."""
        few = min(_SPRINT, self.again)
        one = _Nearest(found)
        one.take(self._walk(found, z, 1, self.again, draws))
        other = _Nearest(found)
        for _ in range(self.tries):
            one.resume()
            other.take(self._walk(found, first_points(found, streams), 1, few, draws))
        one.take(self._walk(found, other.resume(), few + 1, self.again, draws))
        return one.resume()


class _Nearest:
    """The nearest point of each example among those that walks ended at."""

    def __init__(self, found: Closest) -> None:
        self.found, self.z, self.size = found, found.best.clone(), torch.full_like(found.size, torch.inf)

    def take(self, z: Batch) -> None:
        """Keep these of the live rows where they are nearer."""
        rows, size = self.found.rows, self.found.space.size(z, self.found.x)
        nearer = size < self.size[rows]
        self.z[rows[nearer]], self.size[rows[nearer]] = z[nearer], size[nearer]

    def resume(self) -> Batch:
        """Work again on the examples that have a point and can pay; theirs."""
        self.found.restart()
        self.found.drop(self.size[self.found.rows].isinf())
        self.found.compact()
        return self.z[self.found.rows]


def _hop(found: Closest, z: Batch, move: Batch, length: PerExample) -> Batch:
    """As far along the move as the goal is reached, of this length and its halves."""
    waiting, landed = torch.ones(len(z), dtype=torch.bool, device=z.device), z
    for _ in range(_HALVINGS):
        there = found.inside(z + like(length, z) * move)
        crossed = reached(found, there, waiting)
        landed = torch.where(wide(crossed, z), there, landed)
        waiting, length = waiting & ~crossed, length / 2
        if not bool((waiting & still_open(found)).any()):
            break
    return landed


hop_skip_jump = friendly(HopSkipJump)
