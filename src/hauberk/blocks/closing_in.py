"""Closing in: from a point that is seen as wanted, shrink the cube around the example step by step and stay in sight of the goal.

    e       half the side of the cube around x that z lies in;  d the next step of it
    z'    = the cube of e - d, from z + eta sign(g);    eta halved until z' is in sight
    if it is: z <- z', e <- e - d;    if none of these is: d <- d / 2

Source: Ilyas, Engstrom, Athalye, Lin 2018, "Black-box Adversarial Attacks with Limited Queries and Information", arXiv:1804.08598,
algorithm 2. **Differs:** where even a half of the least step is out of sight the example stays where it is for this step, and the next
step is longer again after one that was in sight (paper: the steps only shrink).
"""

from collections.abc import Callable

import torch

from hauberk._shapes import Batch, PerExample, like, wide
from hauberk.blocks.closest import Closest
from hauberk.blocks.label_search import reached
from hauberk.blocks.losses import Loss
from hauberk.threat import Norm

__all__ = ["close_in"]

_HALVINGS = 6
"""Of a step along the gradient."""
_GROWTH = 1.5


def close_in(
    found: Closest,
    z: Batch,
    estimate: Callable[[Batch], Batch],
    *,
    steps: int,
    eta: float,
    sight: Loss | None,
    momentum: float,
    least: PerExample | None = None,
) -> None:
    """Shrink the cubes of the live examples; what is found is in `found`.

    Args:
        z: (live, *shape) points in sight.
        estimate: the gradient to climb at such points.
        eta: the first length of a step, as a share of the half side.
        sight: what must stay above 0; the goal's margin where None.
        least: (live,) half sides at which a cube stays, and only the climb goes on; 0 where None.
    """
    half = Norm.LINF.size(z - found.x)
    step, mean = half / 10, torch.zeros_like(z)
    floor = torch.zeros_like(half) if least is None else least.to(half)
    for _ in range(steps):
        if not len(found):
            return
        g = estimate(z)
        z, g, mean, half, step, floor = found.compact(z, g, mean, half, step, floor)
        if not len(found):
            return
        mean = momentum * mean + (1 - momentum) * g
        target = torch.maximum(half - step, floor)
        waiting, landed, length = torch.ones(len(z), dtype=torch.bool, device=z.device), z, eta * half
        for _ in range(_HALVINGS):
            there = _cube(found, z + like(length, z) * mean.sign(), target)
            seen = reached(found, there, waiting, sight)
            landed = torch.where(wide(seen, z), there, landed)
            waiting, length = waiting & ~seen, length / 2
            if not bool(waiting.any()):
                break
        half = torch.where(waiting, half, torch.maximum(Norm.LINF.size(landed - found.x), floor))
        step = torch.where(waiting, step / 2, torch.minimum(step * _GROWTH, half / 4))
        z, mean, half, step, floor = found.compact(landed, mean, half, step, floor)


def _cube(found: Closest, z: Batch, half: PerExample) -> Batch:
    most = like(half, z)
    return found.inside(found.x + (z - found.x).clamp(-most, most))
