"""RayS: look for the sign vector along which the boundary is nearest in L-inf, block by block; nothing is random.

    d <- 1, ..., 1;   r <- the width of the box
    for each of 1, 2, 4, ... blocks of the values, one after the other:
        d' = d with the signs of this block turned
        where x + r d' reaches the goal:   d <- d',   r <- the boundary along d', by bisection

A direction that is no better than the best costs a single query. After blocks of one value it begins again with two.

Source: Chen, Gu 2020, "RayS: a ray searching method for hard-label adversarial attack", arXiv:2006.12792, algorithms 1 and 3.
**Differs from the paper:** the first direction is asked, too; points are clipped to the box before they are asked (as in the authors'
code); the smallest blocks are gone through again and again, from coarse to fine, until the steps are spent. There is no `noise` to
choose: nothing is drawn, and the coarse blocks that come first are its small space.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.label_search import radius_along
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["RayS", "ray_s"]


@dataclass(frozen=True)
class RayS:
    """The smallest L-inf change from labels alone. Cost: at most `steps` + 1 queries and some ten for each direction that is
    better, which few are.

    Args:
        steps: directions that are tried.
        tolerance: where bisection ends, in shares of the radius.
    """

    steps: int = 10_000
    tolerance: float = 1e-3

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "tolerance")

    def __call__(self, victim: Labelled, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        found.ask(found.x)
        found.compact()
        width = found.space.box[1] - found.space.box[0]
        signs, best = torch.ones_like(found.x), found.x.new_full((len(found),), torch.inf)
        place = torch.arange(max(flat(signs).shape[1], 1), device=x.device)
        blocks, block = 1, 0
        for _ in range(self.steps + 1):
            if not len(found):
                break
            turned = torch.where(place * blocks // len(place) == block, -1.0, 1.0).to(signs)
            trial = signs * turned[: flat(signs).shape[1]].reshape(1, *signs.shape[1:])
            known = best.clamp_max(width)
            radius = radius_along(found, trial, known, most=known, tolerance=self.tolerance, growth=0.05)
            better = radius < best
            signs, best = torch.where(wide(better, signs), trial, signs), torch.where(better, radius, best)
            signs, best = found.compact(signs, best)
            block += 1
            if block == blocks:
                blocks, block = (2 * blocks if blocks < len(place) else 2), 0
        return found.best


ray_s = friendly(RayS)
