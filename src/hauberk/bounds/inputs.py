"""Which inputs a bound speaks of: a box for each example, and in L2 and L1 the ball in it."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, Rows, flat, like
from hauberk.bounds.windows import Windows
from hauberk.errors import ThreatError
from hauberk.threat import Ball, Norm, Region

__all__ = ["Inputs", "slack_of"]


def slack_of(dtype: torch.dtype) -> float:
    """What a bound is widened by, relative to the sum of the magnitudes it is made of: eight times the unit of rounding."""
    return 8 * torch.finfo(dtype).eps


@dataclass(frozen=True, eq=False)
class Inputs:
    """The points low <= x <= high that are, where `radius` is given, also within it of `center` in the norm.

    Attributes:
        low, high: (B, *shape).
        norm: L-inf where the box is all.
        center: (B, *shape), for L2 and L1.
        radius: (B,), for L2 and L1.
    """

    low: Batch
    high: Batch
    norm: Norm = Norm.LINF
    center: Batch | None = None
    radius: PerExample | None = None

    @classmethod
    def of(cls, region: Region, x: Batch) -> Self:
        """What the region allows around the examples, a little wider where it has slack for rounding.

        Raises:
            ThreatError: a region that is no ball of L-inf, L2 or L1, or one without radius.
        """
        if not isinstance(region, Ball) or region.norm is Norm.L0:
            got = str(region.norm) if isinstance(region, Ball) else type(region).__name__
            raise ThreatError(f"bounds are known for balls of linf, l2 and l1, got {got}; write for example linf:0.1")
        if not region.finite:
            raise ThreatError(
                "bounds need a finite radius, got radius=inf; write one into the threat, for example linf:0.1"
            )
        low, high = region.box
        reach = torch.as_tensor(region.radius, dtype=x.dtype, device=x.device).expand(len(x))
        reach = reach * (1 + 1e-5) + 2**-22 * max(abs(low), abs(high))  # the slack of `Ball.contains`
        around = like(reach, x)
        if region.mask is not None:
            around = around * region.mask.to(x.device)
        box = (x - around).clamp_min(low), (x + around).clamp_max(high)
        if region.norm is Norm.LINF:
            return cls(*box)
        return cls(*box, region.norm, x, reach)

    def __len__(self) -> int:
        return len(self.low)

    @property
    def dtype(self) -> torch.dtype:
        return self.low.dtype

    def take(self, rows: Rows | slice) -> Self:
        """Those of the examples `rows`."""
        return type(self)(
            self.low[rows],
            self.high[rows],
            self.norm,
            None if self.center is None else self.center[rows],
            None if self.radius is None else self.radius[rows],
        )

    def to(self, dtype: torch.dtype) -> Self:
        """The same in another dtype."""
        return type(self)(
            self.low.to(dtype),
            self.high.to(dtype),
            self.norm,
            None if self.center is None else self.center.to(dtype),
            None if self.radius is None else self.radius.to(dtype),
        )

    @property
    def magnitude(self) -> PerExample:
        """(B,) the largest absolute value of any input."""
        return flat(torch.maximum(self.low.abs(), self.high.abs())).amax(dim=1)

    @property
    def ball(self) -> bool:
        """More than a box."""
        return self.center is not None

    def minimum_of(self, functions: Tensor | Windows, rows: Rows | None) -> PerExample:
        """(N,) at most min a . x over the inputs of example rows[n], or n, for a of (N, *shape) or windows; rounding included.

        L-inf: exact. L2 and L1: by weak duality for the ball and the box together, at a multiplier near the best one.
        """
        if isinstance(functions, Windows):
            a = flat(functions.a)
            low, high = (flat(functions.of(side, rows)) for side in (self.low, self.high))
        else:
            a = flat(functions)
            low, high = (_owned(flat(side), rows) for side in (self.low, self.high))
        up = a.clamp_min(0)
        least = _dot(up, low) + _dot(a - up, high)
        if self.radius is not None and self.center is not None:
            at = functions.of(self.center, rows) if isinstance(functions, Windows) else _owned(flat(self.center), rows)
            at, radius = flat(at), _owned(self.radius, rows)
            room = torch.where(a > 0, at - low, high - at).clamp_min(0)
            most = _most_l2(a.abs(), room, radius) if self.norm is Norm.L2 else _most_l1(a.abs(), room, radius)
            least = torch.maximum(least, _dot(a, at) - most)
        return least - slack_of(a.dtype) * a.abs().sum(dim=1) * _owned(self.magnitude, rows)

    def minimiser(self, functions: Tensor | Windows) -> Batch:
        """(B, *shape) an input of each example where its function, row n for example n, is least or, in a ball, about least."""
        a = functions.dense() if isinstance(functions, Windows) else functions
        if self.center is None or self.radius is None:
            return torch.where(a > 0, self.low, self.high)
        step = like(self.radius, a) * self.norm.steepest(-a)
        return (self.center + step).clamp(self.low, self.high)


def _dot(a: Tensor, x: Tensor) -> Tensor:
    """(N,) a[n] . x[n], or a[n] . x[0] where there is but one."""
    return a @ x[0] if len(x) == 1 else (a * x).sum(dim=1)


def _owned(values: Tensor, rows: Rows | None) -> Tensor:
    return values if rows is None or len(values) == 1 else values.index_select(0, rows)


def _most_l2(slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """(N,) at least the largest slope . d for 0 <= d <= room of length at most the radius.

    For every m > 0 it is at most  sum max_d (slope d - m d^2 / 2) + m radius^2 / 2,  d in its room: weak duality. The best m makes
    d = min(room, slope / m) as long as the radius; a few steps of its fixed point come near enough.
    """
    tiny = torch.finfo(slope.dtype).tiny
    with torch.no_grad():
        reach = radius.clamp_min(tiny)
        m = (slope * (room > 0)).norm(dim=1) / reach
        for _ in range(6):
            length = torch.minimum(room, slope / m.clamp_min(tiny)[:, None]).norm(dim=1)
            m = m * (length / reach).clamp(1e-3, 1)
        m = m.clamp_min(1e-30)
    d = torch.minimum(room, slope.detach() / m[:, None])
    return (slope * d - m[:, None] * d * d / 2).sum(dim=1) + m * radius * radius / 2


def _most_l1(slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """(N,) the largest slope . d for 0 <= d <= room whose sum is at most the radius: sum room max(slope - m, 0) + m radius, with m the
    slope at which the radius is spent; any m >= 0 is an upper bound."""
    with torch.no_grad():
        order = (slope * (room > 0)).argsort(dim=1, descending=True)
        spent = room.gather(1, order).cumsum(dim=1)
        place = (spent < radius[:, None]).sum(dim=1, keepdim=True).clamp_max(slope.shape[1] - 1)
        m = torch.where(spent[:, -1:] <= radius[:, None], 0.0, slope.gather(1, order.gather(1, place)))[:, 0]
    return (room * (slope - m[:, None]).clamp_min(0)).sum(dim=1) + m * radius
