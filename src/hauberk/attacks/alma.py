"""ALMA: an augmented Lagrangian that is minimised and updated at once, one gradient step each.

With y = -(DLR of the scores), above 0 until the goal is reached, minimise dist(d) + P(y, rho, mu), where the penalty is

    P(y) = mu y + mu rho y^2 + rho^2 y^3 / 6   for y >= 0,       mu y / (1 - rho y)   for y < 0

    mu <- 0.9 mu + 0.1 P'(y)                            after every step but the first
    rho <- 1.2 rho                                      every 10 steps where y fell by less than 5 % and no step succeeded yet
    d <- box(d - eta_t * v)                             RMSProp with momentum (both 0.9) on the gradient of the sum
    eta_t: the first step changes `dist` by `first`; from the first success on it falls geometrically to a hundredth

Source: Rony, Granger, Pedersoli, Ben Ayed 2021, "Augmented Lagrangian adversarial attacks", arXiv:2011.11857, algorithm 1 and
section 4.2; penalty P2 and constants of section 5 there.
**Differs from the paper:** `patience` (None: never) lets an example go when so many steps in a row found nothing smaller; L2 and
L1 only, not SSIM, LPIPS and CIEDE2000; any goal; with two classes, where the DLR is +-1 everywhere, for top-k goals, where it
rests at -1, and for predicates the margin over that at the example; changes are measured in widths of the box, which the paper
takes as 1; where the gradient at the example is 0 the first direction is drawn at random, as the authors' code does.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Logits, PerExample, flat, like
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest, Patience, loss_named
from hauberk.threat import Access, Differentiable, Goal, Norm, Region, Rival, Targeted, Untargeted

__all__ = ["ALMA", "alma"]

_TOLERANCE = 1e-4
"""Added to the difference of the scores, so that a success is one beyond rounding."""


@dataclass(frozen=True)
class ALMA:
    """The smallest change in L2 or L1. Cost: at most `steps` + 1 forwards and `steps` backwards an example.

    Args:
        steps: steps of the descent.
        first: how far the first step goes, in widths of the box; where None 0.1 in L2 and 0.5 in L1, as the authors have it.
        reduction: to what share the step falls after the first success.
        patience: steps without a smaller success after which an example leaves; None spends every step.
    """

    steps: int = 1000
    first: float | None = None
    reduction: float = 0.01
    patience: int | None = None

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.L1})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "first", "reduction", "patience")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found = Closest(victim, x, goal, ball)
        patience = Patience(found, self.patience)
        width, norm = ball.box[1] - ball.box[0], ball.norm
        d = torch.zeros_like(found.x)  # in widths of the box
        square, velocity = torch.ones_like(d), torch.zeros_like(d)
        mu, rho, eta, before = (d.new_ones(len(d)) for _ in range(4))
        scale: PerExample | None = None  # where there is no DLR, the margin at the example
        since = d.new_full((len(d),), torch.inf)  # the step of the first success
        for step in range(self.steps):
            if not len(found):
                return found.best
            _, logits, vjp = found.look(found.x + d * width)
            if step == 0 and not (isinstance(found.goal, Untargeted | Targeted | Rival) and logits.shape[1] > 2):
                scale = found.goal.margin(logits).abs().clamp_min(1e-12).nan_to_num(1.0)
            y, slope = _lack(logits, found.goal, scale)
            if step == 0:
                before = y
            elif (step + 1) % 10 == 0:
                rho = torch.where(since.isinf() & (y >= 0.95 * before), 1.2 * rho, rho)
                before = y
            push = _penalty_slope(y, rho, mu)
            if step:
                mu = torch.lerp(mu, push, 0.1).clamp_(1e-6, 1e12)
                push = _penalty_slope(y, rho, mu)
            since = torch.where((y < 0) & since.isinf(), float(step), since)
            gradient = vjp(slope * push[:, None].to(slope)) * width
            patience.check()
            kept = torch.arange(len(d), device=d.device)
            d, square, velocity, mu, rho, eta, before, since, gradient, kept = found.compact(
                d, square, velocity, mu, rho, eta, before, since, gradient, kept
            )
            scale = None if scale is None else scale[kept]
            if not len(found):
                return found.best
            if step:
                gradient = gradient + _slope_of_size(d, norm)
            else:
                gradient = _or_drawn(gradient, found, streams)
            square.mul_(0.9).addcmul_(gradient, gradient, value=0.1)
            velocity = velocity.mul_(0.9).addcdiv_(gradient, square.sqrt().add_(1e-8))
            if not step:
                eta = _first_step(velocity, found, width, norm, self.first or (0.1 if norm is Norm.L2 else 0.5))
            fall = self.reduction ** ((step - since).clamp_min(0) / (self.steps - since))
            d = (found.inside(found.x + (d - velocity * like(eta * fall, d)) * width) - found.x) / width
        if len(found):
            found.ask(found.x + d * width)
        return found.best


def _lack(logits: Logits, goal: Goal, scale: PerExample | None) -> tuple[PerExample, Logits]:
    """How much is missing, and its derivative by the scores: the DLR, or the margin over this scale."""
    loss = loss_named("dlr" if scale is None else "margin")
    with torch.enable_grad():
        leaf = logits.nan_to_num(0.0, 0.0, 0.0).requires_grad_()
        y = _TOLERANCE - loss(leaf, goal) / (1.0 if scale is None else scale)
        if not y.requires_grad:  # a predicate that does not depend on the scores smoothly
            return y, torch.zeros_like(leaf)
        (slope,) = torch.autograd.grad(y.sum(), leaf)
    return y.detach(), slope


def _penalty_slope(y: PerExample, rho: PerExample, mu: PerExample) -> PerExample:
    """The derivative of the penalty by y."""
    above = mu + 2 * mu * rho * y + rho.square() * y.square() / 2
    return torch.where(y >= 0, above, mu / (1 - rho * y.clamp_max(0)).square())


def _slope_of_size(d: Batch, norm: Norm) -> Batch:
    return d.sign() if norm is Norm.L1 else Norm.L2.steepest(d)


def _or_drawn(gradient: Batch, found: Closest, streams: Streams) -> Batch:
    """The gradient; where it is 0, a random direction."""
    still = flat(gradient == 0).all(dim=1)
    if bool(still.any()):
        drawn = streams.normal(found.rows[still], gradient.shape[1:], dtype=gradient.dtype)
        gradient[still] = Norm.L2.steepest(drawn)
    return gradient


def _first_step(velocity: Batch, found: Closest, width: float, norm: Norm, far: float) -> PerExample:
    """The factor on the velocity that changes the example by `far` widths, inside the box; found by bisection."""

    def short(eta: Tensor) -> Tensor:
        z = found.inside(found.x - velocity * like(eta, velocity) * width)
        return norm.size(z - found.x) < far * width

    high = far / norm.size(velocity).clamp_min(1e-12)
    low = torch.zeros_like(high)
    for _ in range(20):  # the box may end before
        high = torch.where(short(high), 2 * high, high)
    for _ in range(20):
        middle = (low + high) / 2
        missing = short(middle)
        low, high = torch.where(missing, middle, low), torch.where(missing, high, middle)
    return high


alma = friendly(ALMA)
