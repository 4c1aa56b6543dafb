"""The p-norms that measure a perturbation, p in {0, 1, 2, inf}, and what attacks and proofs need of each.

L0 counts changed numbers (features, not pixels): a colour pixel changed in three channels counts three.
"""

import enum
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, flat, like

if TYPE_CHECKING:
    from hauberk._rng import Streams

__all__ = ["Norm", "fill_l2"]


class Norm(enum.Enum):
    """A p-norm. `Norm.LINF`, `Norm.L2`, `Norm.L1`, `Norm.L0`; `Norm("linf")` parses the name."""

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"
    L0 = "l0"

    @property
    def p(self) -> float:
        """0, 1, 2 or inf."""
        return {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}[self.value]

    @property
    def dual(self) -> "Norm":
        """The norm q with 1/p + 1/q = 1. L0, no norm, takes L-inf: over l0-balls in a unit box, as over L1, <g, d> <= size(d) * max |g|."""
        return {"linf": Norm.L1, "l2": Norm.L2, "l1": Norm.LINF, "l0": Norm.LINF}[self.value]

    def size(self, delta: Batch) -> PerExample:
        """(B,) sizes of the perturbations, accumulated in float64, given back in delta's dtype."""
        d = flat(delta)
        if d.shape[1] == 0:
            return d.new_zeros(d.shape[0])
        match self:
            case Norm.LINF:
                return d.abs().amax(dim=1)
            case Norm.L2:
                return d.to(_double(d)).norm(dim=1).to(delta.dtype)
            case Norm.L1:
                return d.to(_double(d)).abs().sum(dim=1).to(delta.dtype)
            case Norm.L0:
                return (d != 0).sum(dim=1).to(delta.dtype)

    def steepest(self, gradient: Batch) -> Batch:
        """The perturbation of size 1 along which a linear function with this gradient rises most; 0 where the gradient is 0.

        L-inf: sign; L2: the unit vector; L1 and L0: all on the coordinate with the largest magnitude.
        """
        g = flat(gradient)
        match self:
            case Norm.LINF:
                return gradient.sign()
            case Norm.L2:
                scaled = g / g.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
                return (scaled / scaled.norm(dim=1, keepdim=True).clamp_min(1e-12)).reshape(gradient.shape)
            case Norm.L1 | Norm.L0:
                top = g.abs().argmax(dim=1, keepdim=True)
                out = torch.zeros_like(g).scatter_(1, top, g.gather(1, top).sign())
                return out.reshape(gradient.shape)

    def project(self, delta: Batch, radius: PerExample | float) -> Batch:
        """The nearest (in L2) perturbation of size <= radius; exact for every p."""
        far = torch.full_like(delta, math.inf)
        return self.project_between(delta, radius, -far, far)

    def project_between(self, delta: Batch, radius: PerExample | float, low: Batch, high: Batch) -> Batch:
        """The nearest (in L2) perturbation of size <= radius with low <= delta <= high; exact for every p.

        Args:
            delta: (B, *shape).
            radius: one number, or (B,).
            low, high: (B, *shape), low <= 0 <= high; infinite where unbounded.

        L-inf: two clamps. L2: clamp(delta / (1 + m)) with the multiplier m found by sorting the points where a
        coordinate meets its bound. L1: clamp(|delta| - m) likewise (Duchi et al. 2008 for the ball; with a box Croce and
        Hein 2021, "Mind the box", arXiv:2103.01208, Prop. 2.1). L0: keep the coordinates whose change saves most.
        """
        clipped = torch.minimum(torch.maximum(delta, low), high)
        r = like(radius, delta)
        if self is Norm.LINF:
            return torch.minimum(torch.maximum(clipped, -r), r)
        need = self.size(clipped) > (radius if not isinstance(radius, Tensor) else radius.to(delta).reshape(-1))
        if not bool(need.any()):
            return clipped
        out = clipped.clone()
        sub_radius = (
            r.reshape(-1)[need] if r.numel() == len(delta) and r.ndim > 0 else r.reshape(1).expand(int(need.sum()))
        )
        d, lo, hi = flat(delta[need]), flat(low[need]), flat(high[need])
        solve = {Norm.L2: _project_l2, Norm.L1: _project_l1, Norm.L0: _project_l0}[self]
        out[need] = solve(d, sub_radius, lo, hi).reshape(-1, *delta.shape[1:]).to(delta.dtype)
        return out

    def sample(self, streams: "Streams", rows: Tensor, like_x: Batch, radius: PerExample | float) -> Batch:
        """(B, *shape) perturbations uniform in the ball of this radius (L0: a uniform k-subset, each coordinate uniform in [-1, 1]).

        L-inf: independent uniforms. L2: a Gaussian direction times U^(1/D). L1: exponential spacings with random signs.
        """
        shape, dtype = tuple(like_x.shape[1:]), like_x.dtype
        dims = math.prod(shape)
        r = like(radius, like_x)
        match self:
            case Norm.LINF:
                return (streams.uniform(rows, shape, dtype=dtype) * 2 - 1) * r
            case Norm.L2:
                direction = self.steepest(streams.normal(rows, shape, dtype=dtype))
                u = streams.uniform(rows, (), dtype=torch.float64) ** (1 / max(dims, 1))
                return direction * like(u.to(dtype), like_x) * r
            case Norm.L1:
                spacings = streams.exponential(rows, (dims + 1,), dtype=torch.float64)
                share = (spacings[:, :dims] / spacings.sum(dim=1, keepdim=True)).to(dtype).reshape(-1, *shape)
                return share * streams.signs(rows, shape, dtype=dtype) * r
            case Norm.L0:
                order = streams.uniform(rows, (dims,), dtype=torch.float64).argsort(dim=1).argsort(dim=1)
                chosen = (order.to(dtype) < r.reshape(-1, 1)).reshape(-1, *shape)
                return chosen * (streams.uniform(rows, shape, dtype=dtype) * 2 - 1)

    def __str__(self) -> str:
        return self.value


def _double(x: Tensor) -> torch.dtype:
    """float64 where the device has it (Apple's does not)."""
    return x.dtype if x.device.type == "mps" else torch.float64


def _sorted_root(breaks: Tensor, slope_change: Tensor, at_first: Tensor, target: Tensor) -> Tensor:
    """The m where a non-increasing piecewise linear function falls to `target`.

    The function is `at_first` up to the smallest break, its slope changes by `slope_change` at each break, and it ends
    at or below target. Returns (B, 1).
    """
    t, order = breaks.sort(dim=1)
    slope = slope_change.gather(1, order).cumsum(dim=1)
    drops = slope[:, :-1] * (t[:, 1:] - t[:, :-1])
    value = torch.cat((at_first, at_first + drops.cumsum(dim=1)), dim=1)
    k = ((value > target).sum(dim=1, keepdim=True) - 1).clamp_min(0)
    s = slope.gather(1, k)
    return t.gather(1, k) + torch.where(s < 0, (target - value.gather(1, k)) / s.clamp_max(-1e-30), torch.zeros_like(s))


def _project_l1(delta: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    kind = _double(delta)
    d = delta.to(kind)
    size = d.abs()
    cap = torch.where(d >= 0, high.to(kind), -low.to(kind)).clamp_min(0).minimum(size)  # a cap above |d| never binds
    breaks = torch.cat((size - cap, size), dim=1)
    change = torch.cat((-torch.ones_like(d), torch.ones_like(d)), dim=1)
    m = _sorted_root(breaks, change, cap.sum(dim=1, keepdim=True), radius.to(kind)[:, None]).clamp_min(0)
    return d.sign() * (size - m).clamp_min(0).minimum(cap)


def _project_l2(delta: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    kind = _double(delta)
    d = delta.to(kind)
    size = d.abs()
    cap = torch.where(d >= 0, high.to(kind), -low.to(kind)).clamp_min(0).minimum(size)
    return d.sign() * fill_l2(size, cap, radius)


def fill_l2(size: Tensor, cap: Tensor, radius: Tensor) -> Tensor:
    """(B, D) min(s * size, cap), with the one s >= 0 for each row that gives it this L2 size; `cap` if that is not larger.

    Args:
        size: (B, D) >= 0, in float64 where the device has it.
        cap: (B, D) >= 0, and 0 where `size` is.
        radius: (B,) >= 0, may be inf.
    """
    # The coordinate with ratio t = cap / size is capped at s > t, so the squared result is, between two ratios,
    # s^2 * sum(free size^2) + sum(capped cap^2); s is solved where that crosses radius^2.
    least = 1e-300 if size.dtype == torch.float64 else 1e-38
    t, order = torch.where(size > 0, cap / size.clamp_min(least), torch.zeros_like(size)).sort(dim=1)
    sq, cap2 = (size**2).gather(1, order), (cap**2).gather(1, order)
    none = torch.zeros_like(t[:, :1])
    capped = torch.cat((none, cap2.cumsum(dim=1)), dim=1)  # [:, k]: the first k coordinates are capped
    free = torch.cat((sq.flip(1).cumsum(dim=1).flip(1), none), dim=1)  # summed from the end: a difference would cancel
    r2 = radius.to(size.dtype)[:, None] ** 2
    k = (t**2 * free[:, :-1] + capped[:, :-1] < r2).sum(dim=1, keepdim=True)  # s lies in [t[k - 1], t[k]]
    room = (r2 - capped.gather(1, k)).clamp_min(0)
    s = (room / free.gather(1, k).clamp_min(least)).sqrt().clamp_max(torch.finfo(size.dtype).max)
    return (size * s).minimum(cap)


def _project_l0(delta: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    clipped = torch.minimum(torch.maximum(delta, low), high)
    saved = delta**2 - (delta - clipped) ** 2
    order = saved.argsort(dim=1, descending=True, stable=True)
    keep = torch.zeros_like(delta, dtype=torch.bool)
    first = torch.arange(delta.shape[1], device=delta.device)[None] < radius[:, None]
    keep.scatter_(1, order, first)
    return clipped * keep
