"""Brendel-Bethge attack: begin beyond the decision boundary, and walk along it towards the example.

    z_(t+1) = the point nearest to the example x in the norm, inside the box and within r_t of z_t in L2, where the
              linearised margin is down to a tenth of what it is at z_t (or, before the boundary, a tenth past it)
    the slope of that margin: g_t = `momentum` g_(t-1) + (1 - `momentum`) grad margin(z_t)
    r_t = `lr` |z_0 - x|_2, halved `decays` times in the course of the steps

z_0: steps onto the linearised boundary, each a little longer than the last, until it is crossed; after a restart uniform noise.
Then bisection along the path that shrinks the change as the norm asks.

Source: Brendel, Rauber, Kuemmerer, Ustyuzhaninov, Bethge 2019, "Accurate, reliable and fast robustness evaluation",
arXiv:1907.01003, section 3; overshoot, momentum and decays as in the authors' later code.
**Differs from the paper:** the first start follows the gradient (paper: noise or an image of another class; on our nets that ends
further away, and an image of another example would make examples depend on each other); r is in units of the first change (authors'
code: of the number of inputs), so that it fits any data; each step is solved for all examples at once, approximately: the linear
model is not worth more; in L0 the values that are worth the least are put back first, not the least changed, which are often all
of one size; an example without a start walks towards the boundary first; on a grid each miss in a row after the first aims half a
step of it further beyond; from a point whose scores are not finite it goes half the way back; 200 steps and a second start
(authors' code: 1000 steps from one), which on our nets ends nearer.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, shortest_step
from hauberk.blocks.boundary_step import boundary_step, shrink
from hauberk.blocks.hyperplane import reach_hyperplane
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["BrendelBethge", "brendel_bethge"]

_CROSSINGS, _DRAWS, _BISECTIONS = 20, 10, 10
"""Most steps across the boundary, most draws of noise, and bisections between a start and the example."""
_SURE, _SURE_SINGLE = 1e-9, 2.0**-17
"""Of the largest score, in float64 and float32: the least margin that a step aims at. On the boundary itself rounding decides."""


@dataclass(frozen=True)
class BrendelBethge:
    """Brendel-Bethge attack, for the smallest change or within a radius.

    Cost: at most `restarts` * (`steps` + 31) forwards and `restarts` * `steps` + 20 backwards an example.

    Args:
        steps: steps along the boundary of each run.
        restarts: runs; the first starts along the gradient, the others from noise.
        lr: radius of the first steps in units of the start's change, both in L2.
        decays: how often that radius is halved, in equal intervals.
        momentum: share of the slopes of earlier points in the slope that is followed, in [0, 1).
        overshoot: 1 aims at the boundary, more beyond it, in [1, 2).
    """

    steps: int = 200
    restarts: int = 2
    lr: float = 1.0
    decays: int = 20
    momentum: float = 0.8
    overshoot: float = 1.1

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "lr")
        not_negative(self, "decays", "momentum", "overshoot")
        if self.momentum >= 1 or not 1 <= self.overshoot < 2:
            raise SettingError(
                f"brendel_bethge needs momentum in [0, 1) and overshoot in [1, 2), "
                f"got momentum={self.momentum}, overshoot={self.overshoot}"
            )

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        for restart in range(self.restarts):
            found.restart()
            if not len(found):
                break
            starts, beyond = _from_noise(found, streams) if restart else _along_the_gradient(found)
            _nearer(found, starts, beyond)
            found.restart()
            if restart:
                found.drop(~beyond[found.rows])
                found.compact()
            self._walk(found, starts[found.rows])
        return found.best

    def _walk(self, found: Closest, z: Batch) -> None:
        norm, (low, high) = found.space.norm, found.space.box
        radius = self.lr * Norm.L2.size(z - found.x)
        halved = 0
        normal, sane = torch.zeros_like(z), z
        misses = torch.zeros_like(radius)  # in a row
        for step in range(self.steps):
            if not len(found):
                return
            asked = found.space.snap(z, found.x)
            margin, logits, vjp = found.look(z)
            misses = torch.where(margin > 0, 0.0, misses + 1)
            logits = logits.nan_to_num(0.0, 0.0, 0.0)
            value, cotangent = margin_slope(logits, found.goal)
            slope = vjp(cotangent)
            lost = wide(margin.isnan(), z)
            normal = slope if step == 0 else self.momentum * normal + (1 - self.momentum) * slope
            due = step * (self.decays + 1) // self.steps
            radius, halved = radius * 0.5 ** (due - halved), due
            least = logits.abs().amax(dim=1) * (_SURE if logits.dtype == torch.float64 else _SURE_SINGLE)
            z, asked, sane, lost, radius, normal, value, least, misses = found.compact(
                z, asked, sane, lost, radius, normal, value, least, misses
            )
            if not len(found):
                return
            gap = ((self.overshoot - 1) * value.abs()).maximum(least).to(z) - value.to(z)
            if found.space.grid is not None:  # it takes points back: where one misses again, aim further beyond
                gap = gap + (misses - 1).clamp_min(0) * shortest_step(found.space) * norm.dual.size(normal)
            x = found.x
            new = found.inside(x + boundary_step(asked - x, normal, gap, low - x, high - x, radius, norm))
            new, sane = torch.where(lost, (sane + z) / 2, new), torch.where(lost, sane, z)
            found.drop(flat(new == z).all(dim=1))  # no slope, nowhere to go
            z, sane, radius, normal, misses = found.compact(new, sane, radius, normal, misses)
        if len(found):
            found.ask(z)
            found.compact()


def _along_the_gradient(found: Closest) -> tuple[Batch, Tensor]:
    """Steps onto the linearised boundary until it is crossed: (n, *shape) the last points, and (n,) where it is."""
    starts, beyond = found.best.clone(), torch.zeros_like(found.size, dtype=torch.bool)
    norm, (low, high) = found.space.norm, found.space.box
    z = found.x
    for step in range(_CROSSINGS):
        if not len(found):
            break
        margin, logits, vjp = found.look(z)
        starts[found.rows], beyond[found.rows] = z, margin > 0
        value, cotangent = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), found.goal)
        slope = vjp(cotangent)
        found.drop((margin > 0) | (flat(slope) == 0).all(dim=1))
        z, slope, value = found.compact(z, slope, value)
        if len(found):
            change = reach_hyperplane(slope, -value.to(z), low - z, high - z, Norm.L1 if norm is Norm.L0 else norm)
            z = found.inside(z + (1.1 + 0.1 * step) * change)
    return starts, beyond


def _from_noise(found: Closest, streams: Streams) -> tuple[Batch, Tensor]:
    """Uniform noise in place of the examples: (n, *shape) the last draws, and (n,) whether they reach the goal."""
    starts, beyond = found.best.clone(), torch.zeros_like(found.size, dtype=torch.bool)
    low, high = found.space.box
    for _ in range(_DRAWS):
        if not len(found):
            break
        noise = streams.uniform(found.rows, found.x.shape[1:], dtype=found.x.dtype)
        z = found.inside(low + (high - low) * noise)
        margin = found.ask(z)
        starts[found.rows], beyond[found.rows] = z, margin > 0
        found.drop(margin > 0)
        found.compact()
    return starts, beyond


def _nearer(found: Closest, starts: Batch, beyond: Tensor) -> None:
    """Bisect between the starts that reach the goal and their examples, in place."""
    found.restart()
    found.drop(~beyond[found.rows])
    found.compact()
    if not len(found):
        return
    norm, change = found.space.norm, flat(starts[found.rows] - found.x)
    most = change.abs().amax(dim=1, keepdim=True)
    share, width = torch.zeros_like(most), torch.ones_like(most)
    for _ in range(_BISECTIONS):
        if not len(found):
            return
        width = width / 2
        z = found.inside(found.x + shrink(change, share + width, norm, most).reshape(found.x.shape))
        reached = found.ask(z) > 0
        share = torch.where(reached[:, None], share + width, share)
        starts[found.rows[reached]] = z[reached]
        change, most, share, width = found.compact(change, most, share, width)


brendel_bethge = friendly(BrendelBethge)
