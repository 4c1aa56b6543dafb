"""SimBA: add or take away one direction of an orthonormal basis at a time, and keep what helps, with scores alone.

    for q in the basis, in an order of each example's own, none twice before all have had their turn
        z <- project(z + s q) where the margin grows there, else project(z - s q) where it grows there

The basis is the pixels, or the DCT-II of each channel; low frequencies hurt most, so `order="low"` begins with those. Directions are
orthonormal, so k of them make an L2 change of at most s sqrt(k). In L-inf the largest value of q is 1.

Source: Guo, Gardner, You, Wilson, Weinberger 2019, "Simple Black-box Adversarial Attacks", arXiv:1905.07121, algorithm 1.
**Differs from the paper:** what is allowed is a ball, and points are projected into it (paper: no limit but that of queries; its
code clips to an L-inf ball); s is a share of the radius where none is given (paper: 0.2); the objective is the goal's margin
(paper: the probability of the true class or of the target); after the last direction a new order is drawn; in the order "low" the
frequencies of the lowest eighth of both axes come first, in random order, then those of the next eighth, ... (paper: the lowest
1/8 alone on ImageNet; its code also has other orders); in L-inf s is in units of the largest value of q.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Rows, flat, like, wide
from hauberk.attacks._attack import ball_of, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Canvas, Frontier, improves
from hauberk.blocks.subspaces import LowFrequencies
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["SimBA", "simba"]

_BASES = ("pixels", "dct")
_ORDERS = ("random", "low")
_BANDS = 8
"""In the order "low", bands of frequencies of an eighth of each axis."""


@dataclass(frozen=True)
class SimBA:
    """SimBA. Cost: at most `steps` + 1 queries an example; one or two for each direction.

    Args:
        steps: points that are tried after the example itself.
        basis: "pixels", single values, or "dct", frequencies of a channel.
        order: "random", or "low": low frequencies first, for "dct".
        step_size: s, in units of the input; None for a tenth of the radius in L2, the radius in L-inf.
        early_stop: leave an example once it is broken.
    """

    steps: int = 5000
    basis: str = "pixels"
    order: str = "random"
    step_size: float | None = None
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size")
        for what, given, known in (("basis", self.basis, _BASES), ("order", self.order, _ORDERS)):
            if given not in known:
                raise UnknownNameError.of(f"{what} of simba", given, known)
        if self.order == "low" and self.basis != "dct":
            raise SettingError(
                'simba knows low frequencies in the basis "dct" only, got order="low" with basis="pixels"'
            )

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        if not len(frontier) or not x[0].numel():
            return frontier.best
        size = like(step_of(region, self.step_size, 1.0 if region.norm is Norm.LINF else 0.1), x)
        size = wide(size.reshape(-1).expand(len(x))[frontier.rows], x)
        z, margin = frontier.x, frontier.ask(frontier.x)
        order = self._order(z, frontier.rows, streams)
        place = torch.zeros_like(frontier.rows)
        plus = torch.ones_like(place, dtype=torch.bool)
        size, z, margin, order, place, plus = frontier.compact(size, z, margin, order, place, plus)
        for _ in range(self.steps):
            if not len(frontier):
                break
            q = self._direction(order.gather(1, place[:, None])[:, 0], z, region.norm)
            moved = torch.where(wide(plus, z), z + size * q, z - size * q)
            tried = frontier.region.project(moved, frontier.x)
            found = frontier.ask(tried)
            better = improves(found, margin)
            z = torch.where(wide(better, z), tried, z)
            margin = torch.where(better, found, margin)
            place, plus = torch.where(better | ~plus, place + 1, place), better | ~plus
            size, z, margin, order, place, plus = frontier.compact(size, z, margin, order, place, plus)
            done = place == order.shape[1]
            if bool(done.any()):
                order[done] = self._order(z[done], frontier.rows[done], streams)
                place = torch.where(done, 0, place)
        return frontier.best

    def _order(self, x: Batch, rows: Rows, streams: Streams) -> Tensor:
        """(B, D) a permutation of the basis for each example."""
        count = flat(x).shape[1]
        key = streams.uniform(rows, (count,), dtype=torch.float64)
        if self.order == "low":
            canvas = Canvas(x)
            down = torch.arange(canvas.height, device=x.device)[:, None] * _BANDS // canvas.height
            across = torch.arange(canvas.width, device=x.device)[None] * _BANDS // canvas.width
            key = key + torch.maximum(down, across).expand(canvas.channels, -1, -1).reshape(1, count)
        return key.argsort(dim=1)

    def _direction(self, which: Tensor, like_z: Batch, norm: Norm) -> Batch:
        """(B, *shape) this vector of the basis for each row."""
        one = torch.zeros_like(flat(like_z)).scatter_(1, which[:, None], 1.0).reshape(like_z.shape)
        if self.basis == "pixels":
            return one
        q = LowFrequencies(max(like_z.shape[-2:])).lift(one, tuple(like_z.shape[1:]))
        return q / like(flat(q).abs().amax(dim=1), q) if norm is Norm.LINF else q


simba = friendly(SimBA)
