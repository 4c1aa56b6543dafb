"""Boundary slide: go to the decision boundary of one rival class after the other, and slide along it towards the example.

At z = x + d the rival k is reached on the plane <g, d'> = c, with g the gradient of f_k - f_y at z and c what that difference
lacks there, and a little more. Two changes that lie on this plane, inside the box:

    T = argmin |d'|_p                                    the smallest in the threat's norm
    N = d + (c - <g, d>) g / |g|_2^2                     the nearest to d
    d <- N + beta (T - N)                                beta in (0, 1], times `shrink` after a step that found nothing smaller

On a curved boundary a full step to T falls short of it again and again; since N and T are both on the plane, any share of the
way between them is so too, and the slide ends where g is the normal that optimality asks for. In L1, where T is a corner of the
problem and jumps, no value moves by more than beta widths of the box, T is the smallest change among those, and d <- T. The
first `approach` steps go a growing share of the way from d to T, in L1 to that of L2.

A rival has one smooth boundary, where the margin over all rivals has kinks at which a search comes to rest; so the likeliest
`rivals` are tried one after the other, each as long as its plane is not `cut` times further away than the best so far.

Source: our own. Sequential quadratic programming (Wilson 1963) on the planes of DeepFool (Moosavi-Dezfooli, Fawzi, Frossard 2016,
arXiv:1511.04599), with the projections onto plane and box of FAB (Croce and Hein 2020, arXiv:1907.02044) and the split into
normal and tangential steps of Byrd and Omojokun (Omojokun 1989).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Logits, PerExample, flat, like
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, rivals_of
from hauberk.blocks.hyperplane import reach_hyperplane
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region, Rival, Untargeted

__all__ = ["BoundarySlide", "boundary_slide"]

_BEYOND = 1e-3
"""By what share of its height over the example a plane is aimed beyond: a curved boundary always lies a little further."""
_DOUBT = 2.0**-17
"""Of the largest score: in float32 an example goes this much further, twice what `Closest` doubts."""
_SHORT = 2e-3
"""An example leaves a rival when its steps are this share of what they were at first."""


@dataclass(frozen=True)
class BoundarySlide:
    """The smallest change in L2, L-inf or L1. Cost: at most `rivals` * (`steps` + 1) forwards and `rivals` * `steps` backwards an
    example, about half of that for most; towards a target one rival.

    Args:
        steps: steps for each rival.
        rivals: how many wrong classes are tried, the likeliest at the example first.
        approach: steps in which the boundary is approached from the example.
        shrink: what a step that found nothing smaller does to the length of the next ones.
        cut: a rival is given up once its plane is further away than the best so far times this.
    """

    steps: int = 40
    rivals: int = 3
    approach: int = 3
    shrink: float = 0.85
    cut: float = 1.3

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "rivals", "approach", "shrink", "cut")
        if self.shrink >= 1 or self.cut < 1:
            raise SettingError(
                f"boundary_slide needs shrink < 1 and cut >= 1, got shrink={self.shrink} and cut={self.cut}"
            )

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        order = self._slide(found, None, 0)
        if order is not None:
            for place in range(1, min(self.rivals, order.shape[1])):
                found.restart()
                self._slide(found, order, place)
        return found.best

    def _slide(self, found: Closest, order: Tensor | None, place: int) -> Tensor | None:
        """Slide along the boundary of the rival in this place of the order, which the first look finds where it is not known."""
        z, norm = found.x, found.space.norm
        beta, known = z.new_ones(len(z)), z.new_full((len(z),), torch.inf)
        for step in range(self.steps):
            if not len(found):
                return order
            _, logits, vjp = found.look(z)
            if order is None and isinstance(found.goal, Untargeted):
                ranked = rivals_of(logits, found.goal, self.rivals + 1)
                order = ranked.new_zeros((len(found.size), ranked.shape[1]))
                order[found.rows] = ranked
            plane = _Plane.at(found, z, logits, vjp, _wanted(found, order, place))
            sliding = step >= self.approach
            size = norm.size(z - found.x)
            smaller = plane.crossed & (size < known * (1 - 1e-5))
            known = torch.where(smaller, size, known)
            if sliding:
                beta = torch.where(smaller, beta, beta * self.shrink)
                found.drop(beta < _SHORT)
            if sliding and norm is Norm.L1:
                target = aim = plane.smallest(norm, like(beta, z) * (found.space.box[1] - found.space.box[0]))
            else:
                target = plane.smallest(Norm.L2 if norm is Norm.L1 else norm)
                start = plane.nearest() if sliding else plane.d
                share = like(beta, z) if sliding else 1 / (self.approach - step)
                aim = start + share * (target - start)
            if step > self.approach:
                found.drop(norm.size(target) > self.cut * found.size[found.rows])
            z = found.region.project(found.x + aim, found.x)  # in the box; and in the radius, where there is one
            z = found.space.snap(z, found.x)
            z, beta, known = found.compact(z, beta, known)
        if len(found):
            found.ask(z)
        return order


@dataclass(frozen=True, eq=False)
class _Plane:
    """A rival's boundary as z sees it: the changes d' with <gradient, d'> = total, between low and high.

    Attributes:
        d: the change at z.
        crossed: (B,) z lies beyond the boundary itself.
    """

    d: Batch
    gradient: Batch
    total: PerExample
    crossed: Tensor
    low: Batch
    high: Batch

    @classmethod
    def at(cls, found: Closest, z: Batch, logits: Logits, vjp: Callable[[Logits], Batch], wanted: Goal) -> "_Plane":
        margin, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), wanted)
        gradient, d = vjp(slope), z - found.x
        total = flat(gradient * d).sum(dim=1) - margin
        doubt = 0.0 if z.dtype == torch.float64 else _DOUBT * logits.abs().amax(dim=1).nan_to_num(0.0)
        total = total + total.abs() * _BEYOND + doubt
        low, high = found.space.box
        return cls(d, gradient, total, margin > 0, low - found.x, high - found.x)

    def smallest(self, norm: Norm, near: Tensor | None = None) -> Batch:
        """The smallest change on the plane and inside the box; with `near`, of those that differ no more than this from d."""
        if near is None:
            return reach_hyperplane(self.gradient, self.total, self.low, self.high, norm)
        low, high = self.low.maximum(self.d - near), self.high.minimum(self.d + near)
        base = torch.zeros_like(self.d).maximum(low).minimum(high)  # the smallest of these, wherever the plane is
        missing = (self.total - flat(self.gradient * base).sum(dim=1)).clamp_min(0)
        return base + reach_hyperplane(self.gradient, missing, low - base, high - base, norm)

    def nearest(self) -> Batch:
        """The change on the plane nearest to d, cut off at the box."""
        missing = self.total - flat(self.gradient * self.d).sum(dim=1)
        along = missing / flat(self.gradient).square().sum(dim=1).clamp_min(torch.finfo(self.d.dtype).tiny)
        return (self.d + like(along.clamp(-1e6, 1e6), self.d) * self.gradient).maximum(self.low).minimum(self.high)


def _wanted(found: Closest, order: Tensor | None, place: int) -> Goal:
    return found.goal if order is None else Rival(order[found.rows, place], cast(Untargeted, found.goal).classes)


boundary_slide = friendly(BoundarySlide)
