"""To the nearest point of the boundary with slopes that are only partly known: what attacks from scores do between measurements.

    change <- the smallest inside the box with  margin + <slope, change - last change> = 0
    change <- share * change, the root of the margin on the line through the example, by its slope

    search = PlaneSearch(found, margin)        # the margin at the examples
    search.correct(space, streams, 16)         # 16 queries for each live example, or
    search.slope[rows] = ...                   # measured in another way, at search.points()
    found.compact()
    search.move(seen=1.0, along=4)             # 1 + 4 queries for each live example

What is known is of the whole batch, so that rows may leave at any time.
"""

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like, wide
from hauberk.blocks.closest import Closest
from hauberk.blocks.estimators import probes
from hauberk.blocks.hyperplane import reach_hyperplane
from hauberk.blocks.subspaces import Subspace
from hauberk.threat import Norm

__all__ = ["PlaneSearch"]

_PAST = 1e-3
"""How far past the boundary points aim, in shares of the margin at the example."""
_PROBE = 0.1
"""How far `correct` probes, in shares of the change."""
_CODE = 1e-2
"""Root mean square of the numbers it draws: small, so that a decoder is nearly linear there."""
_RIDGE = 1e-3
"""Of the system it solves, in shares of its diagonal: moves may be alike, where a wall cuts them off."""


class PlaneSearch:
    """The last point of each example, and the slopes of the margin as far as they are known.

    Args:
        found: whose examples; changes are measured in L2.
        margin: (live,) at the examples.

    Attributes:
        change, slope: (n, *shape); the slope is 0 until it is set.
        margin: (n,) at the last point that had an answer.
    """

    def __init__(self, found: Closest, margin: PerExample) -> None:
        self.found = found
        self.margin = torch.zeros_like(found.size)
        self.margin[found.rows] = margin.nan_to_num(0.0).to(self.margin)
        self.first = self.margin.clone()
        self.change, self.slope = torch.zeros_like(found.best), torch.zeros_like(found.best)

    def points(self) -> Batch:
        """(live, *shape) the last points."""
        return self.found.inside(self.found.x + self.change[self.found.rows])

    def move(self, seen: float | PerExample, along: int) -> None:
        """On to the boundary by the slopes; `along` points on the line follow. 1 + `along` queries for each live example.

        Args:
            seen: (live,) the share of the slopes that are known: the change makes up as much of what is missing.
            along: points on the line.
        """
        found, rows = self.found, self.found.rows
        gap = self._past() - self.margin[rows] + self._gain(self.change[rows])
        x, (low, high) = found.x, found.region.box
        self.change[rows] = reach_hyperplane(self.slope[rows], gap.clamp_min(0) * seen, low - x, high - x, Norm.L2)
        self._ask()
        for _ in range(along):
            found.compact()
            rows = found.rows
            if not len(rows):
                return
            change = self.change[rows]
            share = 1 - (self.margin[rows] - self._past()) / self._gain(change)
            self.change[rows] = like(share.nan_to_num(1.0).clamp(0.5, 2.0), change) * change
            self._ask()

    def correct(self, space: Subspace, streams: Streams, samples: int) -> None:
        """Ask at random changes that a space draws, and correct the slopes by what they miss of the answers, as little as does so: a block
        of Kaczmarz's method. On a plane every step brings them nearer, and there is no noise to be averaged away."""
        found, rows = self.found, self.found.rows
        x, z, shape = found.x, self.points(), tuple(found.x.shape[1:])
        codes = _CODE * streams.normal(rows, (samples, *space.shape(shape)), dtype=x.dtype)
        drawn = space.lift(codes.flatten(0, 1), shape).reshape(len(x), samples, *shape)
        reach = _PROBE * flat(self.change[rows]).norm(dim=1)[:, None] / drawn.flatten(2).norm(dim=2).clamp_min(1e-12)
        row = torch.arange(len(x), device=x.device).repeat_interleave(samples)
        tried = (z[:, None] + reach.reshape(len(x), samples, *(1,) * len(shape)) * drawn).flatten(0, 1)
        points = found.space.take(row).project(tried, x[row]).reshape(drawn.shape)
        answers = probes(found, points) - self.margin[rows][:, None]
        moves = (points - z[:, None]).flatten(2)
        missed = answers - (moves @ flat(self.slope[rows])[:, :, None])[:, :, 0]
        moves, missed = moves * ~missed.isnan()[:, :, None], missed.nan_to_num(0.0)
        products = moves @ moves.mT
        ridge = _RIDGE * products.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(x.dtype).tiny / _RIDGE)
        weights = torch.linalg.solve(products + ridge[:, None, None] * torch.eye(samples).to(products), missed)
        self.slope[rows] += (weights[:, None] @ moves).reshape(x.shape)

    def _past(self) -> PerExample:
        return _PAST * self.first[self.found.rows].abs()

    def _gain(self, change: Batch) -> PerExample:
        """(live,) of a change, by the slopes."""
        return (flat(self.slope[self.found.rows]) * flat(change)).sum(dim=1)

    def _ask(self) -> None:
        """One query at the last points; halfway back from one without an answer."""
        found, rows = self.found, self.found.rows
        z = self.points()
        margin = found.ask(z)
        lost = margin.isnan()
        self.change[rows] = torch.where(wide(lost, z), self.change[rows] / 2, z - found.x)
        self.margin[rows] = torch.where(lost, self.margin[rows], margin.to(self.margin))
