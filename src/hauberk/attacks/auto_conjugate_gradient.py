"""The automatic conjugate gradient attack (ACG): Auto-PGD's steps along conjugate directions, which visit more varied points.

    y = g_(t-1) - g_t;  beta = max(-<g_t, y> / <s_(t-1), y>, 0)                  (Hestenes and Stiefel; g_t = grad loss(z_t))
    s_t = g_t + beta * s_(t-1);  z_(t+1) = project(z_t + eta * steepest(s_t))      (eta_0 = 2 eps, s_0 = g_0)
    at checkpoints, those of Auto-PGD: halve eta and go back to the best point, with the direction that led there

Source: Yamamura, Sato, Tateiwa, Hata, Mitsutake, Oe, Ishikura, Fujisawa 2022, "Diversified adversarial attacks based on
conjugate gradient method", arXiv:2206.09628; beta >= 0, the first point and the state that returns to the best point as in the
authors' code.
**Differs from the paper:** an example leaves once it is broken; beta is 0 where the gradient has not changed beyond rounding,
as on a piece where the model is linear (the formula divides rounding by rounding there); directions are scaled to a largest
entry of 1, which beta makes up for exactly; with losses other than `margin` gradients count up to a factor, since their scale
is lost where a model is sure; L2 besides L-inf; a last forward judges the last point, and no gradient is taken there.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, double, flat, like, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import AdaptiveClimb, Frontier, Loss, checkpoints, loss_named, start_named
from hauberk.threat import Access, Ball, Differentiable, Goal, Norm, Region

__all__ = ["AutoConjugateGradient", "auto_conjugate_gradient"]

_ROUNDING = 64
"""A gradient has not changed where no entry did by more than this many units of rounding of its largest one."""


@dataclass(frozen=True)
class AutoConjugateGradient:
    """ACG. Cost: at most `restarts` * (`steps` + 1) forwards and `restarts` * `steps` backwards an example.

    Args:
        steps: steps of each run.
        loss: `margin`, `ce`, `dlr` or `probability`.
        restarts: runs, the first from the middle of the region, the others from random points of it, on examples that are not
            broken yet.
        rho: share of rising steps below which the step size is halved.
        early_stop: leave an example once it is broken.
    """

    steps: int = 100
    loss: str = "margin"
    restarts: int = 1
    rho: float = 0.75
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "rho")
        loss_named(self.loss)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        for run in range(self.restarts):
            frontier.restart()
            if not len(frontier):
                break
            if run:
                z = start_named("uniform")(frontier.x, frontier.rows, frontier.region, streams)
            else:
                z = _middle(frontier.region, frontier.x)
            self._climb(frontier, loss_named(self.loss), z)
        return frontier.best

    def _climb(self, frontier: Frontier, loss: Loss, z: Batch) -> None:
        ball = frontier.region
        assert isinstance(ball, Ball)
        radius = torch.as_tensor(ball.radius, dtype=z.dtype, device=z.device).expand(len(z))
        state = AdaptiveClimb(z, *frontier.climb(z, loss), eta=2 * radius)
        # the gradient before, the direction of the last step, and both as they were when the best point was reached
        state.extra = [state.gradient] * 4
        state.compact(frontier)
        marks = checkpoints(self.steps)
        for step in range(self.steps):
            if not len(frontier):
                return
            gradient = state.gradient
            before, direction, best_before, best_direction = state.extra
            direction = conjugate(gradient, before, direction) if step else gradient
            region = frontier.region
            z = region.project(state.z + like(state.eta, state.z) * region.steepest(direction), frontier.x)
            if step == self.steps - 1:
                frontier.ask(z)
                frontier.compact()
                return
            better = wide(state.move(z, *frontier.climb(z, loss)), z)
            best_before = torch.where(better, gradient, best_before)
            best_direction = torch.where(better, direction, best_direction)
            state.extra = [gradient, direction, best_before, best_direction]
            state.compact(frontier)
            if step + 1 in marks:
                back = wide(state.check(self.rho, marks[step + 1]), state.z)
                before, direction, best_before, best_direction = state.extra
                before, direction = torch.where(back, best_before, before), torch.where(back, best_direction, direction)
                state.extra = [before, direction, best_before, best_direction]


def conjugate(gradient: Batch, before: Batch, direction: Batch) -> Batch:
    """The next direction, from the gradient here, the one at the point before and the direction from there to here.

    All are (B, *shape), and so is the result, each row scaled to a largest entry of 1.
    """
    g, s = (flat(part).to(double(part)) for part in (gradient, direction))
    y = flat(before).to(g) - g
    along = (s * y).sum(dim=1)
    least = _ROUNDING * torch.finfo(gradient.dtype).eps * torch.maximum(_largest(g), _largest(flat(before).to(g)))
    beta = -(g * y).sum(dim=1) / along
    beta = torch.where((_largest(y) > least) & beta.isfinite(), beta.clamp_min(0), torch.zeros_like(beta))
    new = g + beta[:, None] * s
    return (new / _largest(new).clamp_min(torch.finfo(gradient.dtype).tiny)[:, None]).to(gradient).reshape_as(gradient)


def _largest(rows: Batch) -> PerExample:
    return rows.abs().amax(dim=1)


def _middle(region: Region, x: Batch) -> Batch:
    """Halfway between two opposite ends of the region; the example itself where the box cuts nothing off."""
    ends = region.linear_max(torch.ones_like(x), x), region.linear_max(-torch.ones_like(x), x)
    return region.project((ends[0] + ends[1]) / 2, x)


auto_conjugate_gradient = friendly(AutoConjugateGradient)
