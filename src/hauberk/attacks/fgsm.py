"""The fast gradient method: one step to where the linearised loss is largest.

    z = argmax over the region of <grad loss(x), z>          (L-inf: x + eps * sign(grad), clipped)

Source: Goodfellow, Shlens, Szegedy 2015, "Explaining and harnessing adversarial examples", arXiv:1412.6572; the random
start is that of Tramer et al. 2018, arXiv:1705.07204, and Wong, Rice, Kolter 2020, arXiv:2001.03994.
Normalised L2 and L1 steps: the fast gradient method of Miyato, Dai, Goodfellow 2017, arXiv:1605.07725, z = x + eps * g / |g|_p.
Towards a class, least likely ("step l.l.") or random ("step rnd."): Kurakin, Goodfellow, Bengio 2017, "Adversarial machine
learning at scale", arXiv:1611.01236.
**Differs from the papers:** for every norm, with the box: for L2, L1 and L0 the linear maximiser inside the box takes the
place of a normalised step that is clipped afterwards, so it is never weaker on a linear model; `step="normalised"` makes the
step as the papers do. The class to leave is never the target, also where the model takes it for the least likely.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, like
from hauberk.attacks._attack import finite
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, aimed, loss_named, pick_named, start_named
from hauberk.errors import UnknownNameError
from hauberk.threat import Access, Ball, Differentiable, Goal, Norm, Region

__all__ = ["FGSM", "fgsm"]


@dataclass(frozen=True)
class FGSM:
    """One gradient step of the size of the radius. Cost: 2 forwards and 1 backward an example.

    Args:
        loss: `ce`, `margin`, `dlr` or `probability`.
        start: `clean`, or `uniform` and `blocks` to take the gradient at a random point of the region.
        target: `none` to leave the true class, `least-likely` or `random` to climb to that class; least likely where the gradient
            is taken. A goal that names a class to reach is climbed to whatever stands here.
        step: `linear`, to where the linearised loss is largest in the region, or `normalised`: radius * gradient / |gradient|_p,
            then clipped. In L-inf they are the same; L0 has no normalised step and keeps the other.
    """

    loss: str = "ce"
    start: str = "clean"
    target: str = "none"
    step: str = "linear"

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __post_init__(self) -> None:
        loss_named(self.loss)
        start_named(self.start)
        if self.target != "none":
            pick_named(self.target)
        if self.step not in _STEPS:
            raise UnknownNameError.of("step", self.step, _STEPS)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        finite(self, region)
        frontier = Frontier(victim, x, goal, region)
        if len(frontier):
            z = start_named(self.start)(frontier.x, frontier.rows, frontier.region, streams)
            loss = loss_named(self.loss)
            if self.target != "none":
                loss = aimed(frontier, loss, pick_named(self.target), streams)
            _, gradient = frontier.climb(z, loss)
            (gradient,) = frontier.compact(gradient)
            if len(frontier):
                frontier.ask(_STEPS[self.step](frontier.region, gradient, frontier.x))
        return frontier.best


def _linear(region: Region, gradient: Batch, x: Batch) -> Batch:
    return region.linear_max(gradient, x)


def _normalised(region: Region, gradient: Batch, x: Batch) -> Batch:
    if isinstance(region, Ball) and region.norm is Norm.L0:
        return region.linear_max(gradient, x)
    if isinstance(region, Ball) and region.norm is Norm.L1:  # whose steepest direction is one coordinate
        free = gradient if region.mask is None else gradient * region.mask.to(gradient.device)
        direction = free / like(flat(free.abs()).sum(dim=1).clamp_min(torch.finfo(free.dtype).tiny), free)
    else:
        direction = region.steepest(gradient)
    return region.project(x + like(region.reach, x) * direction, x)


_STEPS = {"linear": _linear, "normalised": _normalised}


fgsm = friendly(FGSM)
