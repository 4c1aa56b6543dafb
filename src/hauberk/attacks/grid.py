"""Grid search: every point of a lattice of the region, for sets of a few parameters such as rotations and translations.

    z in { -1, -1 + h, ..., 0, ..., 1 }^k * radius        the z of the largest margin is kept

In a few dimensions the loss has many maxima and gradients lead into the nearest, so that trying everything beats climbing; it also
needs no more than labels. The lattice is walked in long strides, so that examples which are easily broken leave early.

Source: Engstrom, Tran, Tsipras, Schmidt, Madry 2019, "Exploring the landscape of spatial robustness", arXiv:1712.02779.
**Differs from the paper:** as many values for every parameter (there: 31 angles and 5 translations each way, 775 points); stops at
an example once it is broken; the whole box of the parameters that the ball leaves, in L2 and L1 its points inside the ball.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, like
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier
from hauberk.errors import ThreatError
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["Grid", "grid"]


@dataclass(frozen=True)
class Grid:
    """Grid search over a few parameters. Cost: at most `points` queries an example.

    Args:
        points: the most points of the lattice; each of the k parameters takes the largest odd number v of values, at least 3,
            with v**k no more than this. 729 are 9 values of 3 parameters, or 27 of 2.
        early_stop: leave an example once it is broken.
    """

    points: int = 729
    early_stop: bool = True

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})

    def __post_init__(self) -> None:
        positive(self, "points")

    def __call__(self, victim: Labelled, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        for offset in self._lattice(x, ball.norm):
            if not len(frontier):
                break
            moved = frontier.x + like(ball.take(frontier.rows).radius, x) * offset
            frontier.ask(frontier.region.project(moved, frontier.x))
            frontier.compact()
        return frontier.best

    def _lattice(self, x: Batch, norm: Norm) -> Tensor:
        """(points, *shape) offsets within a unit ball, in the order they are tried."""
        count = math.prod(x.shape[1:])
        if 3**count > self.points:
            raise ThreatError(
                f"grid with points={self.points} takes at most {int(math.log(max(self.points, 1), 3) + 1e-9)} parameters, got "
                f"{count} values an example; use it under threats of a few parameters, such as spatial:rotation=30"
            )
        values = int(self.points ** (1 / count) + 1e-9)
        values -= values % 2 == 0
        axis = torch.linspace(-1, 1, values, dtype=x.dtype, device=x.device)
        lattice = torch.cartesian_prod(*[axis] * count).reshape(-1, count)
        lattice = lattice[norm.size(lattice) <= 1 + 1e-9]
        return lattice[_strided(len(lattice)).to(x.device)].reshape(-1, *x.shape[1:])


def _strided(n: int) -> Tensor:
    """(n,) a permutation whose every beginning is spread over 0 .. n - 1: steps of about the golden section of n."""
    stride = round(n * (math.sqrt(5) - 1) / 2)
    while math.gcd(stride, n) != 1:
        stride += 1
    return torch.arange(n) * stride % n


grid = friendly(Grid)
