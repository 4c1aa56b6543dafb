"""Sparse swap: add the values that help most, take back those that help least, and swap them while the goal is in reach.

With g the gradient of f_k - f_y at z for a rival class k, d = z - x, and `size` the count of the best success so far:

    to add      i outside the support, moved to the wall that g points to, the largest |g_i| * room_i first
    to remove   i in the support, put back to x, the smallest g_i d_i first
    success              remove what half of the margin pays for, and `removed` more
    short, below size    add what closes half of the gap if the boundary is linear, in swaps one; up to size - 1 values
    short, at size - 1   remove one and add one

What was removed is not added again for `tenure` steps: without that memory the search would undo its last step for ever.
The likeliest `rivals` are tried in turn, the later ones with one value less than the best from the start on; each until
`patience` steps of swaps found nothing. From the best point so far at most `exchanges` of one value for another follow, each the
best of several that are asked (`blocks/exchange.py`): where one or two values are enough, slopes seldom name them. Where the
gradients at the example mislead, every search from there goes astray: `far` more begin at random points that reach the goal, uniform
noise and block corners in turn, and `kicks` more at the best point so far with many of its values thrown to the walls; these only
remove until they are below size. So does a search from a point the caller knows (`starts`), the first of all.

Source: our own. The saliency of JSMA (Papernot et al. 2016, arXiv:1511.07528) weighed by the room that is left, as in linear
problems (the largest |g_i| * room_i are optimal there), in a tabu search (Glover 1989).
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, rivals_of
from hauberk.blocks.exchange import exchange, first_of
from hauberk.blocks.far import FAR, far_start
from hauberk.threat import Access, Differentiable, Goal, Norm, Region, Rival, Untargeted

__all__ = ["SparseSwap", "sparse_swap"]

_AT_ONCE = 64
"""At most half of so many values, or of a fiftieth of all, are added in one step."""


@dataclass(frozen=True)
class SparseSwap:
    """The fewest changed values. Cost: at most (`rivals` + `far` + `kicks`) * (`steps` + 1) forwards and about as many backwards an
    example, 18 forwards more for each far start or kick; towards a target one rival. About 30 for each where ten values are enough. An
    exchange costs one backward and 1 + `candidates` / k forwards where k values are wanted. `starts` cost one search more.

    Args:
        steps: steps of each search.
        rivals: how many wrong classes are tried, the likeliest at the example first.
        far: searches from random points that reach the goal.
        exchanges: before the far searches, at most so many exchanges of one value of the best point so far for one of many that are
            asked.
        candidates: how many each exchange asks, divided by how many changed values are wanted.
        kicks: after these, searches from the best point so far, up to half of its values thrown to the walls of the box.
        patience: steps, or exchanges, without a smaller success after which a search ends.
        tenure: steps for which a removed value stays removed, and exchanges for which one that came stays.
        removed: how many values a success gives up beyond those it does not need.
    """

    steps: int = 100
    rivals: int = 3
    far: int = 1
    kicks: int = 2
    exchanges: int = 0
    candidates: int = 60
    patience: int = 10
    tenure: int = 5
    removed: int = 2

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "rivals", "candidates", "patience", "tenure", "removed")
        not_negative(self, "far", "kicks", "exchanges")

    def __call__(
        self,
        victim: Differentiable,
        x: Batch,
        goal: Goal,
        region: Region,
        *,
        streams: Streams,
        starts: Batch | None = None,
    ) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        if starts is not None:
            self._search(found, found.inside(starts[found.rows]), None, -1)
            found.restart()
        order = self._search(found, found.x, None, 0)
        if order is not None:
            for place in range(1, min(self.rivals, order.shape[1])):
                found.restart()
                self._search(found, found.x, order, place)
        exchange(found, moves=self.exchanges, candidates=self.candidates, patience=self.patience, tenure=self.tenure)
        for start in range(self.far + self.kicks):
            found.restart()
            draw = FAR["salt"] if start >= self.far else FAR[("noise", "blocks")[start % 2]]
            self._search(found, far_start(found, streams, draw), None, -1)
        return found.best

    def _search(self, found: Closest, z: Batch, order: Tensor | None, place: int) -> Tensor | None:
        """Search towards the rival in this place of the order, which the first look finds where it is not known, or, where the
        place is -1, towards any."""
        free_from = flat(torch.zeros_like(z))  # the step from which on a value may be added
        waited, known = z.new_zeros(len(z)), found.size[found.rows]
        won = z.new_zeros(len(z), dtype=torch.bool)
        for step in range(self.steps):
            if not len(found):
                return order
            _, logits, vjp = found.look(z)
            if order is None and place == 0 and isinstance(found.goal, Untargeted):
                ranked = rivals_of(logits, found.goal, self.rivals + 1)
                order = ranked.new_zeros((len(found.size), ranked.shape[1]))
                order[found.rows] = ranked
            wanted = found.goal
            if order is not None:
                wanted = Rival(order[found.rows, place], cast(Untargeted, found.goal).classes)
            margin, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), wanted)
            size = found.size[found.rows]
            most = torch.as_tensor(found.region.radius, dtype=z.dtype, device=z.device).minimum(size - 1)
            count = Norm.L0.size(z - found.x)
            won = won | (margin > 0)
            waiting = (size >= known) & size.isfinite() & (count <= most + self.removed) & (won | (count >= most))
            waited, known = torch.where(waiting, waited + 1, torch.where(size < known, 0.0, waited)), size
            found.drop(waited >= self.patience)
            z, free_from = self._swap(found, z, flat(vjp(slope)), margin, most, won, step, free_from)
            z, free_from, waited, known, won = found.compact(z, free_from, waited, known, won)
        if len(found):
            found.ask(z)
        return order

    def _swap(
        self,
        found: Closest,
        z: Batch,
        g: Tensor,
        margin: PerExample,
        most: PerExample,
        won: Tensor,
        step: int,
        free_from: Tensor,
    ) -> tuple[Batch, Tensor]:
        """The next point, and from which step on each value may be added."""
        (low, high), x, values = found.space.box, flat(found.x), flat(z)
        support = values != x
        count, worth = support.sum(dim=1), torch.where(support, g * (values - x), torch.inf)
        cheapest = worth.topk(int(count.max()), dim=1, largest=False).values
        paid = (cheapest.cumsum(dim=1) < margin[:, None] / 2).sum(dim=1)
        leaving = torch.where(margin > 0, paid + self.removed, (count == most).to(count)).minimum(count)
        leave = first_of(-worth, leaving)
        lost = torch.where(leave, worth, 0.0).sum(dim=1)
        room = torch.where(g > 0, high - values, values - low)
        open_ = ~leave & (free_from <= step) & ~(support & (worth <= 0))
        gain = torch.where(open_, g.abs() * room, 0.0)
        missing = (lost - margin).clamp_min(0)
        ahead = gain.topk(min(max(_AT_ONCE, gain.shape[1] // 50), gain.shape[1]), dim=1).values
        needed = ((ahead.cumsum(dim=1) - ahead) < missing[:, None]).sum(dim=1)
        half = ((needed + 1) // 2).clamp_min(1)
        space = torch.where(count > most, torch.inf, most - (count - leaving)).clamp(0, gain.shape[1])
        adding = torch.where(won & (count <= most), torch.ones_like(half), half).minimum(space.to(half))
        adding = torch.where((margin > 0) & (count > most), torch.zeros_like(adding), adding)
        add = first_of(gain, adding) & (gain > 0)
        moved = torch.where(leave, x, torch.where(add, torch.where(g > 0, high, low), values))
        return moved.reshape(z.shape), torch.where(leave, float(step + 1 + self.tenure), free_from)


sparse_swap = friendly(SparseSwap)
