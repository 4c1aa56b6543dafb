"""Sparse swap: add the values that help most, take back those that help least, and swap them while the goal is in reach.

With g the gradient of f_k - f_y at z for a rival class k, d = z - x, and `size` the count of the best success so far:

    to add      i outside the support, moved to the wall that g points to, the largest |g_i| * room_i first
    to remove   i in the support, put back to x, the smallest g_i d_i first
    no success yet       add half of what closes the gap if the boundary is linear, one at least
    below it, short      add up to size - 1 values; there, remove one and add one
    success              remove what half of the margin pays for, and `removed` more, so that the next success is smaller

What was removed is not added again for `tenure` steps: without that memory the search would undo its last step for ever.
The likeliest `rivals` are tried in turn, the later ones with one value less than the best from the start on; each until
`patience` steps found nothing.

Source: our own. The saliency of JSMA (Papernot et al. 2016, arXiv:1511.07528) weighed by the room that is left, as in linear
problems (the largest |g_i| * room_i are optimal there), in a tabu search (Glover 1989).
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, rivals_of
from hauberk.threat import Access, Differentiable, Goal, Norm, Region, Rival, Untargeted

__all__ = ["SparseSwap", "sparse_swap"]

_AT_ONCE = 64
"""At most half of so many values, or of a fiftieth of all, are added in one step."""


@dataclass(frozen=True)
class SparseSwap:
    """The fewest changed values. Cost: at most `rivals` * (`steps` + 1) forwards and `rivals` * `steps` backwards an example, towards
    a target one rival; about 30 for each rival where ten values are enough.

    Args:
        steps: steps for each rival.
        rivals: how many wrong classes are tried, the likeliest at the example first.
        patience: steps without a smaller success after which a rival is given up.
        tenure: steps for which a removed value stays removed.
        removed: how many values a success gives up beyond those it does not need.
    """

    steps: int = 100
    rivals: int = 3
    patience: int = 20
    tenure: int = 5
    removed: int = 2

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "rivals", "patience", "tenure", "removed")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        order = self._search(found, None, 0)
        if order is not None:
            for place in range(1, min(self.rivals, order.shape[1])):
                found.restart()
                self._search(found, order, place)
        return found.best

    def _search(self, found: Closest, order: Tensor | None, place: int) -> Tensor | None:
        """Search towards the rival in this place of the order, which the first look finds where it is not known."""
        z = found.x
        free_from = flat(torch.zeros_like(z))  # the step from which on a value may be added
        waited, known = z.new_zeros(len(z)), found.size[found.rows]
        for step in range(self.steps):
            if not len(found):
                return order
            _, logits, vjp = found.look(z)
            if order is None and isinstance(found.goal, Untargeted):
                ranked = rivals_of(logits, found.goal, self.rivals + 1)
                order = ranked.new_zeros((len(found.size), ranked.shape[1]))
                order[found.rows] = ranked
            wanted = found.goal
            if order is not None:
                wanted = Rival(order[found.rows, place], cast(Untargeted, found.goal).classes)
            margin, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), wanted)
            size = found.size[found.rows]
            waited = torch.where((size < known) | size.isinf(), 0.0, waited + 1)
            known = size
            found.drop(waited >= self.patience)
            z, free_from = self._swap(found, z, flat(vjp(slope)), margin, step, free_from)
            z, free_from, waited, known = found.compact(z, free_from, waited, known)
        if len(found):
            found.ask(z)
        return order

    def _swap(
        self, found: Closest, z: Batch, g: Tensor, margin: PerExample, step: int, free_from: Tensor
    ) -> tuple[Batch, Tensor]:
        """The next point, and from which step on each value may be added."""
        (low, high), x, values = found.space.box, flat(found.x), flat(z)
        support = values != x
        count, worth = support.sum(dim=1), torch.where(support, g * (values - x), torch.inf)
        most = torch.as_tensor(found.region.radius, dtype=z.dtype, device=z.device).minimum(found.size[found.rows] - 1)
        reached = margin > 0
        cheapest = worth.topk(int(count.max()), dim=1, largest=False).values
        paid = (cheapest.cumsum(dim=1) < margin[:, None] / 2).sum(dim=1)
        over = (count - most + 1).clamp_min(0).nan_to_num(neginf=0.0).to(count)  # room for one to be added
        leaving = torch.where(reached, paid + self.removed, over).minimum(count)
        leave = _first(-worth, leaving)
        lost = torch.where(leave, worth, 0.0).sum(dim=1)
        room = torch.where(g > 0, high - values, values - low)
        open_ = ~leave & (free_from <= step) & ~(support & (worth <= 0))
        gain = torch.where(open_, g.abs() * room, 0.0)
        missing = (lost - margin).clamp_min(0)
        ahead = gain.topk(min(max(_AT_ONCE, gain.shape[1] // 50), gain.shape[1]), dim=1).values
        needed = ((ahead.cumsum(dim=1) - ahead) < missing[:, None]).sum(dim=1)
        first = ((needed + 1) // 2).clamp_min(1)
        adding = torch.where(found.size[found.rows].isinf(), first, torch.ones_like(first))
        adding = adding.minimum((most - (count - leaving)).clamp(0, gain.shape[1]).to(adding))
        add = _first(gain, adding) & (gain > 0)
        moved = torch.where(leave, x, torch.where(add, torch.where(g > 0, high, low), values))
        return moved.reshape(z.shape), torch.where(leave, float(step + 1 + self.tenure), free_from)


def _first(score: Tensor, count: Tensor) -> Tensor:
    """(B, D) True at the `count` largest scores of each row."""
    most = int(count.max()) if len(count) else 0
    places = score.topk(most, dim=1).indices
    kept = torch.arange(most, device=score.device)[None] < count[:, None]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, places, kept)


sparse_swap = friendly(SparseSwap)
