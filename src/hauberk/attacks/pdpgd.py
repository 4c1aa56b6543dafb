"""PDPGD: the smallest change and its Lagrange multiplier at once, by proximal gradient steps on one and sign steps on the other.

With y = -margin, above 0 until the goal is reached, the Lagrangian is  w_0 |d|_p + w_1 softplus(y),  w = softmax(0, lambda):

    lambda <- lambda + theta_t * sign(y)                       w: its softmax, averaged over steps with decay 0.9
    d <- box(Adam(d, grad softplus(y), eta_t))                 the smooth part, with Adam's metric h = its denominator / its largest
    d <- argmin_v  w_0 / w_1 * eta_t / h_max * |v|_p + 1/2 |v - d|^2_h        the other part, by at most five inner steps
         v <- prox(v - h (v - d))

with prox the soft threshold in L1, the shrunk vector in L2 and, in L-inf, what an L1 projection leaves. In L0 the count is
replaced by sum |d_i|^(2/3), whose prox is known in closed form and sets values to 0 (Xu, Chang, Xu, Zhang 2012).

Source: Matyasko and Chau 2021, "PDPGD: primal-dual proximal gradient descent adversarial attack", arXiv:2106.01538; constants of
the authors' code; the inner steps are those of Yun, Lozano, Yang 2020, arXiv:1910.10094.
**Differs from the paper:** starts at the example (paper: also at random); the inner steps of an example end by its own change;
`patience` (None: never) lets an example go when so many steps in a row found nothing smaller; any goal; changes are measured in
widths of the box, which the paper takes as 1; values, not groups of values, in L0.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, double, flat, like, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest, Patience
from hauberk.blocks.boundaries import margin_slope
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["PDPGD", "pdpgd", "prox"]

_INNER = 5
_SETTLED = 1e-2
"""Inner steps of an example end when they change it by less than this share."""


@dataclass(frozen=True)
class PDPGD:
    """The smallest change in any norm. Cost: at most `steps` + 1 forwards and `steps` backwards an example.

    Args:
        steps: steps of the descent.
        step_size: the first step of Adam, in widths of the box; it falls geometrically to a hundredth.
        dual_step: the first step of lambda; it falls linearly to a tenth.
        ratio: the first w_0 / w_1: how little the size counts at first.
        patience: steps without a smaller success after which an example leaves; None spends every step.
    """

    steps: int = 500
    step_size: float = 0.1
    dual_step: float = 0.1
    ratio: float = 0.01
    patience: int | None = None

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size", "dual_step", "ratio", "patience")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found = Closest(victim, x, goal, ball)
        patience = Patience(found, self.patience)
        width, most = ball.box[1] - ball.box[0], math.log(1e6)
        d = torch.zeros_like(found.x)  # in widths of the box
        mean, square = torch.zeros_like(d), torch.zeros_like(d)
        dual = d.new_full((len(d),), -math.log(self.ratio))
        weight = dual.sigmoid()  # w_1
        for step in range(self.steps):
            if not len(found):
                return found.best
            margin, logits, vjp = found.look(found.x + d * width)
            _, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), found.goal)
            pull = torch.sigmoid(-margin.nan_to_num(0.0))
            gradient = vjp(slope * -pull[:, None].to(slope)) * width
            patience.check()
            d, mean, square, dual, weight, margin, gradient = found.compact(
                d, mean, square, dual, weight, margin, gradient
            )
            if not len(found):
                return found.best
            mean.lerp_(gradient, 0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            metric = (square / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
            eta = self.step_size * 0.01 ** (step / self.steps)
            moved = _inside(found, d.addcdiv(mean, metric, value=-eta / (1 - 0.9 ** (step + 1))), width)
            largest = flat(metric).amax(dim=1)
            d = _proximal(found, moved, metric / like(largest, d), (1 - weight) / weight * eta / largest, width)
            left = (self.steps - 1 - step) / max(self.steps - 1, 1)
            theta = self.dual_step * (0.1 + 0.9 * left)
            dual = (dual - theta * margin.nan_to_num(0.0).sign().to(dual)).clamp(-most, most)
            weight = torch.lerp(weight, dual.sigmoid(), 0.1)
        if len(found):
            found.ask(found.x + d * width)
        return found.best


def _inside(found: Closest, d: Batch, width: float) -> Batch:
    return (found.inside(found.x + d * width) - found.x) / width


def _proximal(found: Closest, moved: Batch, metric: Batch, strength: PerExample, width: float) -> Batch:
    """The inner steps: the prox of `strength` times the size, in the metric, around what Adam gave."""
    norm, v = found.space.norm, moved
    active = torch.ones_like(strength, dtype=torch.bool)
    for _ in range(_INNER):
        new = _inside(found, prox(v - metric * (v - moved), strength, norm), width)
        new = torch.where(wide(active, v), new, v)
        change = Norm.L2.size(new - v) / Norm.L2.size(new).clamp_min(torch.finfo(v.dtype).tiny)
        v, active = new, active & (change > _SETTLED)
        if not bool(active.any()):
            break
    return v


def prox(v: Batch, strength: PerExample, norm: Norm) -> Batch:
    """argmin over u of  strength * |u|_p + 1/2 |u - v|_2^2,  for each example; in L0 of  strength * sum |u_i|^(2/3) + ... ."""
    s = like(strength, v)
    if norm is Norm.L1:
        return (v.abs() - s).clamp_min(0).copysign(v)
    if norm is Norm.L2:
        return v * (1 - s / like(Norm.L2.size(v), v).clamp_min(torch.finfo(v.dtype).tiny)).clamp_min(0)
    if norm is Norm.LINF:
        positive_s = s.clamp_min(torch.finfo(v.dtype).tiny)
        return v - positive_s * Norm.L1.project(v / positive_s, 1.0)
    return _prox_two_thirds(v, 2 * s)


def _prox_two_thirds(v: Batch, s: Tensor) -> Batch:
    """argmin over u of  s |u|^(2/3) + (u - v)^2, value by value."""
    kind = v.dtype
    v, s = v.to(double(v)), s.to(double(v)).clamp_min(1e-30).expand_as(v)  # s^-1.5 leaves the range of float32
    size = v.abs()
    keeps = size > 2 / 3 * (3 * s**3) ** 0.25
    angle = torch.acosh((27 / 16 * v.square() * s**-1.5).clamp_min(1.0))
    a = 2 / math.sqrt(3) * s**0.25 * torch.cosh(angle / 3).sqrt()
    root = (a + (2 * size / a - a.square()).clamp_min(0).sqrt()) / 2
    return torch.where(keeps, root**3, torch.zeros_like(v)).copysign(v).to(kind)


pdpgd = friendly(PDPGD)
