"""The smallest transformation that fools: parameters tried outwards from the example, shell after shell, then bisection.

    shells  { z on a lattice : |z| = s },  s = h, 2h, ...           the first point that reaches the goal is kept
    then    the segment from it towards the example, halved within the last shell

With the threat `rotation` this is the smallest angle, in degrees, by which a picture must be turned; with `shear`, `scale`,
`translation` the smallest slant, growth or move; with several limits and `@smallest` the smallest share of all of them.

Source: Fawzi, Frossard 2015, "Manitest: are classifiers really invariant?", arXiv:1507.06535.
**Differs from the paper:** sizes are those of the parameters (degrees, shares), not lengths of the path that the picture draws in
pixel space, so that no fast marching is needed: the shells are walked in the order of their size; sizes between the shells are
found by bisection. Smaller changes that only points between the lattice reach are missed.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, like
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.errors import ThreatError
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["SmallestTransformation", "smallest_transformation"]


@dataclass(frozen=True)
class SmallestTransformation:
    """Shells of a lattice outwards from the example, then bisection. Cost: at most `points` + 2 * `bisections` + 2 queries.

    Args:
        points: the most points of the lattice over all that the box allows, or the radius where there is one; each of the k
            parameters takes the largest odd number of values, at least 3, whose k-th power is no more than this.
        bisections: halvings of the last step towards the example, and as many on its other side; one query each.
    """

    points: int = 361
    bisections: int = 8

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "points", "bisections")

    def __call__(self, victim: Labelled, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found = Closest(victim, x, goal, ball)
        if not len(found):
            return found.best
        width = (ball.box[1] - ball.box[0]) / 2
        shells, values = _shells(self.points, x)
        reach = torch.as_tensor(ball.radius, dtype=x.dtype, device=x.device).expand(len(x)).clamp_max(width)
        found.ask(found.x)
        found.compact()
        for offset in shells:
            if not len(found):
                break
            found.ask(found.inside(found.x + like(reach[found.rows], x) * offset))
            found.drop(found.size[found.rows].isfinite())
            found.compact()
        first = found.best - x
        for other_side in (False, True):  # the shell was left at its first success, and the other side may do with less
            self._refine(found, -first if other_side else first, reach * 2 / (values - 1), other_side)
        return found.best

    def _refine(self, found: Closest, towards: Batch, step: Tensor, other_side: bool) -> None:
        """Bisect along these directions between each smallest change known and the shell within it."""
        found.restart()
        found.drop(found.size[found.rows].isinf() | (found.size[found.rows] == 0))
        found.compact()
        if not len(found):
            return
        high, length = found.size[found.rows], flat(towards[found.rows]).abs().amax(dim=1)
        low = (length - step[found.rows]).clamp_min(0)
        way = towards[found.rows] / like(length, towards)
        for halving in range(self.bisections + other_side):
            if not len(found):
                return
            first = other_side and not halving
            tried = high * (1 - 2**-8) if first else (low + high) / 2
            reached = found.ask(found.inside(found.x + like(tried, way) * way)) > 0
            if first:
                found.drop(~reached)
            low, high = torch.where(reached, low, tried), torch.where(reached, tried, high)
            low, high, way = found.compact(low, high, way)


def _shells(points: int, x: Batch) -> tuple[Tensor, int]:
    """(points, *shape) offsets of a unit box without its middle, the smallest first, and the values each parameter takes."""
    count = math.prod(x.shape[1:])
    if 3**count > points:
        raise ThreatError(
            f"smallest_transformation with points={points} takes at most {int(math.log(max(points, 1), 3) + 1e-9)} parameters, got "
            f"{count} values an example; use it under threats of a few parameters, such as rotation"
        )
    values = int(points ** (1 / count) + 1e-9)
    values -= values % 2 == 0
    half = values // 2
    axis = torch.arange(-half, half + 1, device=x.device)
    lattice = torch.cartesian_prod(*[axis] * count).reshape(-1, count)
    size = lattice.abs().amax(dim=1)
    order = size.argsort(stable=True)[1:]
    return (lattice[order].to(x.dtype) / half).reshape(-1, *x.shape[1:]), values


smallest_transformation = friendly(SmallestTransformation)
