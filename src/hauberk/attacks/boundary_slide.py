"""Boundary slide: go to the decision boundary of one rival class after the other, and slide along it towards the example.

At z = x + d the rival k is reached on the plane <g, d'> = c, with g the gradient of f_k - f_y at z and c what that difference
lacks there, and a little more: twice what the last plane was wrong by, a thousandth of c at most. The next change is the smallest
one beyond the plane and near d:

    d <- argmin |d'|_p   subject to  <g, d'> >= c,  x + d' in the box,  |d' - d|_inf <= beta

    beta <- shrink * beta         after a step that found nothing smaller; at first `trust` widths of the box
    beta <= 2 * |d|_inf           of the first change of this slide, and of its smallest (L2: of the root mean square instead)

On a curved boundary the steps fall short of it, or leave the part of it where the plane holds, until beta is small enough; in
L1 and L-inf, where the unrestricted solution is a corner that jumps, they settle for the same reason. The first `approach` steps go
a growing share of the way from d to the smallest change of all on the plane (in L1 to that of L2).

A rival has one smooth boundary, where the margin over all rivals has kinks at which a search comes to rest; so the likeliest
`rivals` are tried one after the other, each as long as its plane is not `cut` times further away than the best so far. Where the
gradients at the example mislead, every slide from there goes astray: `far` more begin at random points that reach the goal, uniform
noise and block corners in turn, drawn towards the example until they almost do not.

On a grid the walk goes on between its points. At each step the grid point beside the next one is asked, its values rounded so that
it stays beyond the plane (`grid_beyond`), which is lifted by what the last such point fell short of its promise.

Source: our own. Sequential linear programming with a trust region (Griffith and Stewart 1961) on the planes of DeepFool
(Moosavi-Dezfooli, Fawzi, Frossard 2016, arXiv:1511.04599); starting far away and walking along the boundary is the idea of Brendel
et al. 2019, arXiv:1907.01003, whose trust region is a ball.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Logits, PerExample, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, rivals_of
from hauberk.blocks.far import FAR, far_start
from hauberk.blocks.hyperplane import grid_beyond, reach_hyperplane
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region, Rival, Untargeted

__all__ = ["BoundarySlide", "boundary_slide"]

_BEYOND = (2e-6, 1e-3)
"""By what share of its height over the example a plane is aimed beyond, at least and at first, which is also at most."""
_WRONG = 2
"""And by how many times the share by which the last plane was wrong: a curved boundary lies a little further, a flat one does not."""
_AHEAD = 2
"""No value goes further in one step than this many times the largest (in L2: their root mean square) of the change at hand."""
_NEWTON = 8
_GRACE = 12
"""Steps that a slide from far away has before it is compared with the best."""
_SHORT = 2e-3
"""An example leaves a rival when its steps are this share of what they were at first."""


@dataclass(frozen=True)
class BoundarySlide:
    """The smallest change in L2, L-inf or L1. Cost: at most `rivals` * (`steps` + 1) + `far` * (`steps` + 19) forwards and
    (`rivals` + `far`) * `steps` backwards an example, about half of that for most; towards a target one rival. On a grid twice the
    forwards.

    Args:
        steps: steps of each slide.
        rivals: how many wrong classes are tried, the likeliest at the example first.
        far: slides from random points that reach the goal.
        approach: steps in which the boundary is approached from the example.
        trust: how far a value may go in the first step of a slide, in widths of the box.
        shrink: what a step that found nothing smaller does to the length of the next ones.
        cut: a rival is given up once its plane is further away than the best so far times this.
    """

    steps: int = 40
    rivals: int = 3
    far: int = 1
    approach: int = 3
    trust: float = 0.2
    shrink: float = 0.85
    cut: float = 1.3

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "rivals", "approach", "trust", "shrink", "cut")
        not_negative(self, "far")
        if self.shrink >= 1 or self.cut < 1:
            raise SettingError(
                f"boundary_slide needs shrink < 1 and cut >= 1, got shrink={self.shrink} and cut={self.cut}"
            )

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        order = self._from_example(found, None, 0)
        if order is not None:
            for place in range(1, min(self.rivals, order.shape[1])):
                found.restart()
                self._from_example(found, order, place)
        for start in range(self.far):
            found.restart()
            z = far_start(found, streams, FAR[("noise", "blocks")[start % 2]])
            self._slide(found, z, lambda: found.goal, begin=0)
        return found.best

    def _from_example(self, found: Closest, order: Tensor | None, place: int) -> Tensor | None:
        """Approach the boundary of the rival in this place of the order, which the first look finds if not known, and slide."""
        z = found.x
        for step in range(min(self.approach, self.steps)):
            if not len(found):
                return order
            _, logits, vjp = found.look(z, snap=False)
            if order is None and isinstance(found.goal, Untargeted):
                ranked = rivals_of(logits, found.goal, self.rivals + 1)
                order = ranked.new_zeros((len(found.size), ranked.shape[1]))
                order[found.rows] = ranked
            plane = _Plane.at(found, z, logits, vjp, _wanted(found, order, place))
            target = plane.smallest(Norm.L2 if found.space.norm is Norm.L1 else found.space.norm)
            z = _point(found, plane.d + (target - plane.d) / (self.approach - step))
            (z,) = found.compact(z)
        self._slide(found, z, lambda: _wanted(found, order, place), begin=self.approach)
        return order

    def _slide(self, found: Closest, z: Batch, wanted: Callable[[], Goal], begin: int) -> None:
        norm, grace = found.space.norm, 1 if begin else _GRACE
        width = found.space.box[1] - found.space.box[0]
        beta, known = _ahead(z - found.x, width, norm).clamp_max(self.trust), z.new_full((len(z),), torch.inf)
        foreseen = z.new_full((len(z),), torch.nan)  # the margin, by the last plane
        first = beta
        lift = torch.zeros_like(beta)  # on a grid, what points beside z lost of the margin that was foreseen
        for step in range(self.steps - begin):
            if not len(found):
                return
            _, logits, vjp = found.look(z, snap=False)
            plane = _Plane.at(found, z, logits, vjp, wanted(), foreseen)
            size = norm.size(plane.d)
            smaller = plane.crossed & (size < known * (1 - 1e-5))
            known = torch.where(smaller, size, known)
            first = torch.where(smaller, first.minimum(_ahead(plane.d, width, norm)), first)
            beta = torch.where(smaller, beta.minimum(first), beta * self.shrink)
            target = plane.smallest_near(norm, beta * width)
            hopeless = norm.size(target) > self.cut * found.size[found.rows]
            found.drop((beta < first * _SHORT) | (hopeless & (step >= grace)))
            z = _point(found, target)
            beside = z if found.space.grid is None else plane.on_grid(found, beta * width, lift)
            state = (z, plane.margin(z - found.x), beta, first, known, lift, beside, plane.margin(beside - found.x))
            z, foreseen, beta, first, known, lift, beside, promised = found.compact(*state)
            if found.space.grid is not None and len(found):
                lift = _lifted(found, beside, promised, lift)
                z, foreseen, beta, first, known, lift = found.compact(z, foreseen, beta, first, known, lift)
        if len(found):
            found.ask(_allowed(found, z))


@dataclass(frozen=True, eq=False)
class _Plane:
    """A rival's boundary as z sees it: the changes d' with <gradient, d'> = height, between low and high.

    Attributes:
        d: the change at z.
        total: (B,) what is aimed at: the height and a little more.
        crossed: (B,) z lies beyond the boundary itself.
    """

    d: Batch
    gradient: Batch
    height: PerExample
    total: PerExample
    crossed: Tensor
    low: Batch
    high: Batch

    @classmethod
    def at(
        cls,
        found: Closest,
        z: Batch,
        logits: Logits,
        vjp: Callable[[Logits], Batch],
        wanted: Goal,
        foreseen: PerExample | None = None,
    ) -> "_Plane":
        margin, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), wanted)
        gradient, d = vjp(slope), z - found.x
        height = flat(gradient * d).sum(dim=1) - margin
        least, most = _BEYOND
        beyond = height.abs() * most
        if foreseen is not None:
            wrong = (_WRONG * (margin - foreseen).abs()).maximum(height.abs() * least)
            beyond = torch.where(foreseen.isfinite(), wrong.minimum(beyond), beyond)
        total = height + beyond + 2 * found.doubt(logits)
        low, high = found.space.box
        return cls(d, gradient, height, total, margin > 0, low - found.x, high - found.x)

    def margin(self, d: Batch) -> PerExample:
        """(B,) what the margin of this change is if the boundary is flat."""
        return flat(self.gradient * d).sum(dim=1) - self.height

    def smallest(self, norm: Norm) -> Batch:
        """The smallest change on the plane and inside the box."""
        return reach_hyperplane(self.gradient, self.total, self.low, self.high, norm)

    def smallest_near(self, norm: Norm, near: PerExample) -> Batch:
        """The smallest change on the plane and inside the box of those no value of which differs by more than `near` from d."""
        reach = like(near, self.d)
        return smallest_within(
            self.gradient, self.total, self.low.maximum(self.d - reach), self.high.minimum(self.d + reach), norm
        )

    def on_grid(self, found: Closest, near: PerExample, lift: PerExample) -> Batch:
        """A point of the grid beside the smallest change near d, whose margin is as much larger as `lift` says."""
        space = found.space
        step = (space.box[1] - space.box[0]) / (space.grid or 1)
        target = replace(self, total=self.total + lift).smallest_near(space.norm, near)
        d = grid_beyond(target, self.gradient, step, space.norm)
        if space.norm is Norm.LINF:  # a larger change than the best would be of no use
            most = like((found.size[found.rows] - step).clamp_min(0), d)
            d = d.minimum(most).maximum(-most)
        return _point(found, d)


def _lifted(found: Closest, beside: Batch, promised: PerExample, lift: PerExample) -> PerExample:
    """Ask there; by how much to raise the next."""
    useless = found.space.size(beside, found.x) >= found.size[found.rows]
    margin = found.ask(beside)
    short = lift + (promised - margin.nan_to_num(0.0)).clamp_min(0)
    return torch.where((margin > 0) | useless, lift / 2, short)


def smallest_within(slope: Batch, total: PerExample, low: Batch, high: Batch, norm: Norm) -> Batch:
    """The smallest d in the norm with <slope, d> >= total and low <= d <= high; 0 need not lie between these.

    In L1 that is the d nearest to 0 between the bounds, and from there as `reach_hyperplane` has it; in L2 and L-inf
    clamp(t * rate), rate the slope or its sign, at the one t where the plane is reached: Newton's steps on that piecewise linear,
    rising function, by bisection where one would leave the bracket. Where the bounds end before the plane, the corner nearest to it.
    """
    if norm is Norm.L1:
        base = torch.zeros_like(slope).maximum(low).minimum(high)
        missing = (total - flat(slope * base).sum(dim=1)).clamp_min(0)
        return base + reach_hyperplane(slope, missing, low - base, high - base, norm)
    tiny = torch.finfo(slope.dtype).tiny
    rate = slope.sign() if norm is Norm.LINF else slope / like(flat(slope.abs()).amax(dim=1).clamp_min(tiny), slope)
    g, r, low_, high_ = flat(slope), flat(rate), flat(low), flat(high)
    ends = torch.where(r > 0, high_, -low_) / r.abs().clamp_min(1e-6)
    least, most = torch.zeros_like(total), ends.masked_fill(r == 0, 0.0).amax(dim=1).clamp_min(0)
    t = (
        (flat(low + high) * r).sum(dim=1) / 2 / r.square().sum(dim=1).clamp_min(tiny)
    )  # where the bounds have their middle
    for _ in range(_NEWTON):
        t = torch.where((t > least) & (t < most), t, (least + most) / 2)
        free = t[:, None] * r
        d = free.maximum(low_).minimum(high_)
        over = (g * d).sum(dim=1) - total
        least, most = torch.where(over < 0, t, least), torch.where(over < 0, most, t)
        rises = (g * r * (d == free)).sum(dim=1)
        t = torch.where(rises > 0, t - over / rises.clamp_min(tiny), (least + most) / 2)
    return (most[:, None] * r).maximum(low_).minimum(high_).reshape(slope.shape)


def _ahead(d: Batch, width: float, norm: Norm) -> PerExample:
    """How far a value may go, in widths of the box: a plane is of no use many lengths of the change away."""
    size = flat(d).square().mean(dim=1).sqrt() if norm is Norm.L2 else flat(d).abs().amax(dim=1)
    return _AHEAD / width * size


def _point(found: Closest, d: Batch) -> Batch:
    """The example with this change, in the box and, but in L1, in the radius where there is one.

    An L1 projection takes most from the values that change least, the very ones that come last on the way to a corner; without it
    the walk ends within the radius, too, where the boundary does.
    """
    z = found.x + d
    return found.inside(z) if found.space.norm is Norm.L1 else found.region.project(z, found.x)


def _allowed(found: Closest, z: Batch) -> Batch:
    """The point in the radius where there is one; an L1 projection onto radius 0 would leave a rounding error."""
    radius = torch.as_tensor(found.region.radius, dtype=z.dtype, device=z.device).expand(len(z))
    return torch.where(wide(radius > 0, z), found.region.project(z, found.x), found.x)


def _wanted(found: Closest, order: Tensor | None, place: int) -> Goal:
    return found.goal if order is None else Rival(order[found.rows, place], cast(Untargeted, found.goal).classes)


boundary_slide = friendly(BoundarySlide)
