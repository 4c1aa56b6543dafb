"""SignHunter: find the signs of the gradient by flipping halves, quarters, eighths, ... of them, with scores alone.

    z(s) = the point of the ball furthest along s,  s in {-1, +1}^D, all +1 at first
    for h = 0, 1, 2, ...: cut the values into 2^h chunks of equal length; for each chunk in turn
        flip s on the chunk; keep that where the margin of z(s) grows

A linear margin is the sum of what its chunks give, so that one pass down to chunks of one value finds the best signs of all, with
at most 2 D + log2 D + 1 queries; the early, long chunks find most of it. In L-inf these signs are the optimum.

Source: Al-Dujaili and O'Reilly 2020, "Sign Bits Are All You Need for Black-Box Attacks", arXiv:1902.08894, algorithms 1 and 2.
**Differs from the paper:** a pass that has reached single values is followed by another over the same signs, until one flips
nothing (paper: one pass); in L2 the step along s is as long as the ball and the box allow (paper: epsilon / sqrt(D) for each value,
then clipped); the objective is the goal's margin (paper: cross-entropy); flips that leave the margin as it was are taken back;
`start="random"` draws the first signs. As in the paper's code, the channels of one place are neighbours.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Canvas, Frontier, improves
from hauberk.blocks.leaving import leaving
from hauberk.errors import UnknownNameError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["SignHunter", "sign_hunter"]

_STARTS = ("ones", "random")


@dataclass(frozen=True)
class SignHunter:
    """SignHunter. Cost: at most `steps` + 1 queries an example.

    Args:
        steps: flips that are tried.
        start: "ones", the paper's, with which nothing is left to chance, or "random" signs.
        early_stop: leave an example once it is broken.
    """

    steps: int = 5000
    start: str = "ones"
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps")
        if self.start not in _STARTS:
            raise UnknownNameError.of("start of sign_hunter", self.start, _STARTS)

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        canvas = Canvas(x)
        signs = torch.ones_like(flat(frontier.x))  # of those that can pay
        if self.start == "random":
            signs = streams.signs(frontier.rows, (signs.shape[1],), dtype=x.dtype)
        count = signs.shape[1]
        if not len(frontier):
            return frontier.best
        margin = frontier.ask(_corner(canvas, frontier, region.box, signs))
        flipped = torch.zeros_like(margin, dtype=torch.bool)  # whether this pass has kept a flip
        signs, margin, flipped = frontier.compact(signs, margin, flipped)
        length, first = count, 0
        for _ in range(self.steps):
            if not len(frontier):
                break
            tried = signs.clone()
            tried[:, first : first + length] *= -1
            found = frontier.ask(_corner(canvas, frontier, region.box, tried))
            better = improves(found, margin)
            signs = torch.where(better[:, None], tried, signs)
            margin = torch.where(better, found, margin)
            flipped |= better
            signs, margin, flipped = frontier.compact(signs, margin, flipped)
            first += length
            if first < count:
                continue
            first, length = 0, count if length == 1 else (length + 1) // 2
            if length == count:  # a new pass, for those that the last one changed
                signs, margin, flipped = leaving(frontier, ~flipped, signs, margin, torch.zeros_like(flipped))
        return frontier.best


def _corner(canvas: Canvas, frontier: Frontier, box: tuple[float, float], signs: Tensor) -> Batch:
    """The point of the ball furthest along these signs, which run over the channels of a place before the next place."""
    laid = signs.reshape(len(signs), canvas.height, canvas.width, canvas.channels).movedim(3, 1)
    far = 2 * (box[1] - box[0])  # past every wall: `project` brings it to the ball, in L2 to its rim
    return frontier.region.project(frontier.x + far * canvas.back(laid.contiguous()), frontier.x)


sign_hunter = friendly(SignHunter)
