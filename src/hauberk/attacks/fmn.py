"""FMN, the fast minimum-norm attack: climb the margin in a ball whose radius looks for the boundary.

With m the goal's margin, g its gradient, q dual to p, and `best` the smallest success so far:

    eps <- min(eps * (1 - gamma_t), best)            where x + d reached the goal
    eps <- eps * (1 + gamma_t)                       where it did not, but an earlier point did
    eps <- (|d|_p + |m| / |g|_q) * (1 + gamma_t)     where none did yet: a little beyond where the boundary seems to be
    d <- project(d + alpha_t * g / |g|_2)            onto the ball of radius eps and the box

alpha_t and gamma_t fall along a cosine. In L0 eps counts: it moves by gamma_t * eps and by 1 at least.

Source: Pintor, Roli, Brendel, Biggio 2021, "Fast minimum-norm adversarial attacks through adaptive norm constraints",
arXiv:2102.12827, algorithm 1; constants of the authors' code (alpha to a hundredth, gamma from 0.05 to 0.001).
**Differs from the paper:** goes a little beyond the boundary that it estimates: without the factor 1 + gamma_t it may come nearer
for ever without crossing (the public code we measured broke 22 of 100 examples in L2); starts at the example, where the paper can
also start at a given adversarial point; projects onto ball and box together, where the paper clips after the ball; `patience`
(None: never) lets an example go when so many steps in a row found nothing smaller; steps are measured in widths of the box, which
the paper takes as 1; where the gradient vanishes before any success, eps grows by gamma_t from 1e-3 instead of without end.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest, Patience, loss_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Ball, Differentiable, Goal, Norm, Region

__all__ = ["FMN", "fmn"]


@dataclass(frozen=True)
class FMN:
    """The smallest change in any norm. Cost: at most `steps` + 1 forwards and `steps` backwards an example.

    Args:
        steps: steps of the climb.
        step_size: the first step, in widths of the box; where None 1, in L-inf 10, as the authors have it.
        gamma: by what share the radius grows or shrinks at first.
        patience: steps without a smaller success after which an example leaves; None spends every step.
    """

    steps: int = 1000
    step_size: float | None = None
    gamma: float = 0.05
    patience: int | None = None

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size", "gamma", "patience")
        if self.gamma >= 1:
            raise SettingError(f"fmn needs gamma in (0, 1), got gamma={self.gamma}; with 1 the radius would fall to 0")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found = Closest(victim, x, goal, ball)
        patience = Patience(found, self.patience)
        norm, (low, high) = ball.norm, ball.box
        step_size = self.step_size if self.step_size is not None else (10.0 if norm is Norm.LINF else 1.0)
        z = found.x
        eps = z.new_full((len(z),), 1.0 if norm is Norm.L0 else torch.inf)
        for step in range(self.steps):
            if not len(found):
                return found.best
            margin, gradient = found.climb(z, loss_named("margin"))
            patience.check()
            z, eps, margin, gradient = found.compact(z, eps, margin, gradient)
            if not len(found):
                return found.best
            fall = (1 + math.cos(math.pi * step / self.steps)) / 2
            gamma = 1e-3 + (self.gamma - 1e-3) * fall
            size, best = norm.size(z - found.x), found.size[found.rows]
            if norm is Norm.L0:
                eps = _count(eps, margin > 0, best, gamma)
            else:
                ahead = size + margin.abs() / norm.dual.size(gradient)
                ahead = torch.where(best.isfinite(), eps, torch.where(ahead.isfinite(), ahead, size.clamp_min(1e-3)))
                eps = torch.where(margin > 0, (eps * (1 - gamma)).minimum(best), ahead * (1 + gamma))
            eps = eps.minimum(norm.size(torch.maximum(found.x - low, high - found.x)))
            length = step_size * (0.01 + 0.99 * fall) * (high - low)
            z = Ball(norm, eps, ball.box, found.space.mask).project(z + length * Norm.L2.steepest(gradient), found.x)
        if len(found):
            found.ask(z)
        return found.best


def _count(eps: Tensor, reached: Tensor, best: PerExample, gamma: float) -> Tensor:
    less = torch.minimum(eps - 1, (eps * (1 - gamma)).floor()).minimum(best)
    more = torch.maximum(eps + 1, (eps * (1 + gamma)).floor())
    return torch.where(reached, less, more).clamp_min(0)


fmn = friendly(FMN)
