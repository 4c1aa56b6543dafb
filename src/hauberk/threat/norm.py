"""The p-norms that measure a perturbation, p in {0, 1, 2, inf}, and what attacks and proofs need of each.

L0 counts changed numbers (features, not pixels): a colour pixel changed in three channels counts three.
"""

import enum
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, double, flat, like

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
                return d.to(double(d)).norm(dim=1).to(delta.dtype)
            case Norm.L1:
                return d.to(double(d)).abs().sum(dim=1).to(delta.dtype)
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

        L-inf: two clamps. L2: clamp(s * delta), see `fill_l2`. L1: clamp(|delta| - m), with m found by active sets for the
        ball alone (Michelot 1986) and, where that leaves the bounds, by sorting the points where a coordinate meets one
        (Croce and Hein 2021, "Mind the box", arXiv:2103.01208, Prop. 2.1). L0: keep the coordinates whose change saves most.
        """
        clipped = torch.minimum(torch.maximum(delta, low), high)
        r = like(radius, delta)
        if self is Norm.LINF:
            return torch.minimum(torch.maximum(clipped, -r), r)
        need = self.size(clipped) > r.reshape(-1)
        if not bool(need.any()):
            return clipped
        pick = _pick(need)
        d, cap = flat(delta[pick]), flat(clipped[pick]).abs()  # a coordinate keeps its sign and at most this size
        keep = {Norm.L2: _keep_l2, Norm.L1: _keep_l1, Norm.L0: _keep_l0}[self]
        kept = keep(d.abs(), cap, r.reshape(-1).expand(len(delta))[pick])
        clipped[pick] = kept.copysign_(d).reshape(-1, *delta.shape[1:])
        return clipped

    def sample(
        self,
        streams: "Streams",
        rows: Tensor,
        like_x: Batch,
        radius: PerExample | float,
        mask: Tensor | None = None,
    ) -> Batch:
        """(B, *shape) perturbations uniform in the ball of this radius (L0: a uniform k-subset, each coordinate uniform in [-1, 1]).

        L-inf: independent uniforms. L2: a Gaussian direction times U^(1/D). L1: exponential spacings with random signs.

        Args:
            mask: (1 or B, *shape) bool; the ball is that of the coordinates where it is True, the others stay 0.
        """
        shape, dtype = tuple(like_x.shape[1:]), like_x.dtype
        dims = math.prod(shape)
        r = like(radius, like_x)
        free = torch.ones_like(like_x, dtype=torch.bool) if mask is None else mask.to(like_x.device).expand_as(like_x)
        match self:
            case Norm.LINF:
                return (streams.uniform(rows, shape, dtype=dtype) * 2 - 1) * r * free
            case Norm.L2:
                direction = self.steepest(streams.normal(rows, shape, dtype=dtype) * free)
                u = streams.uniform(rows, (), dtype=torch.float64)
                return direction * like(u ** (1 / flat(free).sum(dim=1).clamp_min(1).to(u)), like_x) * r
            case Norm.L1:
                spacings = streams.exponential(rows, (dims + 1,), dtype=torch.float64)
                spacings[:, :dims] *= flat(free).to(spacings)
                share = (spacings[:, :dims] / spacings.sum(dim=1, keepdim=True)).to(like_x).reshape(-1, *shape)
                return share * streams.signs(rows, shape, dtype=dtype) * r
            case Norm.L0:
                keys = streams.uniform(rows, (dims,), dtype=torch.float64)
                order = (keys - flat(free).to(keys)).argsort(dim=1).argsort(dim=1)  # what is free comes first
                chosen = (order.to(like_x) < r.reshape(-1, 1)).reshape(-1, *shape) & free
                return chosen * (streams.uniform(rows, shape, dtype=dtype) * 2 - 1)

    def __str__(self) -> str:
        return self.value


def _pick(rows: Tensor) -> Tensor | slice:
    """An index of these rows that copies nothing where it is all of them."""
    return slice(None) if bool(rows.all()) else rows


def _keep_l2(size: Tensor, cap: Tensor, radius: Tensor) -> Tensor:
    # what cannot move at all, as saturated pixels, is left out: more rows then need no more than a scale
    useful = size.masked_fill(cap == 0, 0.0)
    plain = useful * (radius / Norm.L2.size(useful))[:, None]
    beside = (plain > cap).any(dim=1)
    if bool(beside.any()):
        pick = _pick(beside)
        plain[pick] = fill_l2(size[pick], cap[pick], radius[pick])
    return plain


def _keep_l1(size: Tensor, cap: Tensor, radius: Tensor) -> Tensor:
    """clamp(size - m, 0, cap), with the one m >= 0 for each row that gives it this L1 size."""
    # Were there no bounds, m would follow from sums; where clamping then loses (gains), all that is capped (0) stays so.
    whole, most, left = size.to(double(size)), cap.to(double(size)), radius.to(double(size))[:, None]
    rest, caps, moved, free = whole.clone(), most.clone(), torch.empty_like(whole), most > 0
    m = torch.zeros_like(left)
    rest.masked_fill_(~free, 0.0)
    while True:  # in `rest` and `caps`, what is settled is 0
        count = free.sum(dim=1, keepdim=True)
        m = torch.where(count > 0, (rest.sum(dim=1, keepdim=True) - left) / count, m)
        torch.sub(rest, m, out=moved)
        high, low = free & (moved > caps), free & (moved < 0)
        gap = left - torch.minimum(moved.clamp_min_(0), caps, out=moved).sum(dim=1, keepdim=True)
        high, low = high & (gap > 0), low & (gap < 0)
        settled = high | low
        if not bool(settled.any()):
            return (whole - m).clamp_min_(0).minimum(most).to(size.dtype)
        left = left - torch.mul(caps, high, out=moved).sum(dim=1, keepdim=True)
        rest.masked_fill_(settled, 0.0)
        caps.masked_fill_(settled, 0.0)
        free &= ~settled


def _keep_l0(size: Tensor, cap: Tensor, radius: Tensor) -> Tensor:
    saved = size**2 - (size - cap) ** 2
    order = saved.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(size.shape[1], device=size.device)[None] < radius[:, None]
    return cap * torch.zeros_like(size, dtype=torch.bool).scatter_(1, order, first)


def fill_l2(size: Tensor, cap: Tensor, radius: Tensor) -> Tensor:
    """(B, D) min(s * size, cap), with the one s >= 0 for each row that gives it this L2 size; `cap` if that is not larger.

    Args:
        size: (B, D) >= 0.
        cap: (B, D) >= 0, and 0 where `size` is.
        radius: (B,) >= 0, may be inf.
    """
    # What s * size carries past its cap is capped, and the rest shares what is left of the radius: s rises each time, so
    # whatever was capped stays so, and where none is added s is exact. A few rounds are the rule.
    kind, most = double(size), torch.finfo(size.dtype).max
    s, room = torch.zeros_like(size[:, :1]), radius.to(kind)[:, None] ** 2
    rest, filled = size.clone(), torch.empty_like(size)
    while True:
        length = torch.linalg.vector_norm(rest, dim=1, keepdim=True, dtype=kind)
        share = room.clamp_min(0).sqrt() / length.clamp_min(torch.finfo(kind).tiny)
        s = s.maximum(share.clamp_max(most).to(s))
        more = torch.mul(rest, s, out=filled) > cap
        if not bool(more.any()):
            return torch.mul(size, s, out=filled).minimum(cap)
        room = room - torch.linalg.vector_norm(torch.mul(cap, more, out=filled), dim=1, keepdim=True, dtype=kind) ** 2
        rest.masked_fill_(more, 0.0)
