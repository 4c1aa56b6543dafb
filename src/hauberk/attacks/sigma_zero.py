"""Sigma-zero: the fewest changed values, by gradient descent on a smooth count under a threshold that adapts.

With changes d in widths of the box, m the goal's margin and D the number of values:

    g_t = grad of  relu(-m(x + d)) + 1/D * sum d_i^2 / (d_i^2 + sigma),  divided by its largest entry
    d <- box(Adam(d, g_t, eta_t))                     eta_t: a cosine from `step_size` to a tenth of it
    tau <- tau + threshold_rate * eta_t  where x + d reached the goal, tau - threshold_rate * eta_t  where it did not
    d_i <- 0  where |d_i| < tau

Source: Cina, Villani, Pintor, Schönherr, Biggio, Pelillo 2025, "sigma-zero: gradient-based optimization of l0-norm adversarial
examples", arXiv:2402.01879; constants of section 4 there.
**Differs from the paper:** with `patience` an example leaves when so many steps in a row found nothing smaller (by default none
does: the last steps, with small steps and a high threshold, often still find something); any goal; changes are measured in
widths of the box, which the paper takes as 1. With a finite radius every tenth step asks once more, at the changes cut to the
radius, and an example leaves at its first success inside.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, like, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest, Patience, loss_named
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["SigmaZero", "sigma_zero"]

_CUT_EVERY = 10


@dataclass(frozen=True)
class SigmaZero:
    """The fewest changed values. Cost: at most `steps` + 1 forwards and `steps` backwards an example; a tenth more forwards
    with a finite radius.

    Args:
        steps: steps of gradient descent.
        step_size: of the first step of Adam, in widths of the box.
        sigma: how soft the count is: a change of sqrt(sigma) widths counts one half.
        threshold: below this change, in widths of the box, a value is put back; it adapts.
        threshold_rate: how much of each step size the threshold moves.
        patience: steps without a smaller success after which an example leaves; None spends every step.
    """

    steps: int = 1000
    step_size: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    threshold_rate: float = 0.01
    patience: int | None = None

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size", "sigma", "threshold", "threshold_rate", "patience")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found = Closest(victim, x, goal, ball)
        width = ball.box[1] - ball.box[0]
        d = torch.zeros_like(found.x)
        mean, square = torch.zeros_like(d), torch.zeros_like(d)
        tau = d.new_full((len(d),), self.threshold)
        patience = Patience(found, self.patience)
        eta = self.step_size
        for step in range(self.steps):
            if not len(found):
                return found.best
            margin, gradient = found.climb(found.x + d * width, loss_named("margin"))
            patience.check()
            d, mean, square, tau, gradient, reached = found.compact(d, mean, square, tau, gradient, margin > 0)
            slope = self._slope(d, gradient * -width, reached)
            # Adam, beta 0.9 and 0.999
            mean.lerp_(slope, 0.1)
            square.mul_(0.999).addcmul_(slope, slope, value=0.001)
            scale = (square / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
            d = d.addcdiv(mean, scale, value=-eta / (1 - 0.9 ** (step + 1)))
            d = (found.inside(found.x + d * width) - found.x) / width
            eta = self.step_size * (0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps)))
            change = self.threshold_rate * eta
            tau = torch.where(reached, tau + change, tau - change).clamp_(0, 1)
            d = d.masked_fill_(d.abs() < wide(tau, d), 0.0)
            if ball.finite and (step + 1) % _CUT_EVERY == 0 and len(found):
                found.ask(found.region.project(found.x + d * width, found.x))
                d, mean, square, tau = found.compact(d, mean, square, tau)
        if len(found):
            found.ask(found.x + d * width)
        return found.best

    def _slope(self, d: Batch, uphill: Batch, reached: Tensor) -> Batch:
        """The gradient of the loss, divided by its largest entry; `uphill` is that of minus the margin."""
        soft = d.square().add_(self.sigma)
        count = d * (2 * self.sigma / max(math.prod(d.shape[1:]), 1)) / soft.square_()
        slope = count.add_(uphill * wide(~reached, d))
        return slope / like(flat(slope.abs()).amax(dim=1).clamp_min(1e-12), d)


sigma_zero = friendly(SigmaZero)
