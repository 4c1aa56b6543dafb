"""The smallest change, inside a box, that takes a linear function to a wanted value: one step of every linearising attack.

    minimise |d|_p  subject to  <slope, d> = gap,  low <= d <= high

With e = |d| and s = |slope|, each coordinate moves in the direction that helps, at most as far as its `room`:

    L-inf: e = min(t, room)      L2: e = min(t * s, room)      t where <s, e> = gap
    L1: whole rooms, the largest s first      L0: whole rooms, the largest s * room first

<s, e> is concave and piecewise linear in t, so that Newton's steps from t = 0 never pass the solution and reach it after
finitely many: no sorting. Croce and Hein 2020, arXiv:1907.02044, section 3.1 and appendix A, solve the same problems by sorting.

A grid takes such a change off its plane: `grid_beyond` rounds it so that it stays there.
"""

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, flat
from hauberk.threat import Norm

__all__ = ["grid_beyond", "reach_hyperplane"]


def reach_hyperplane(slope: Batch, gap: PerExample, low: Batch, high: Batch, norm: Norm) -> Batch:
    """(B, *shape) the smallest change d with <slope, d> = gap and low <= d <= high; exact but for rounding.

    Where the box ends before the hyperplane, the corner nearest to it; where the slope is 0, no change.

    Args:
        slope: (B, *shape).
        gap: (B,) of any sign.
        low, high: (B, *shape), low <= 0 <= high.
    """
    towards = torch.where(gap < 0, -1.0, 1.0).to(slope)[:, None] * flat(slope)
    room = torch.where(towards > 0, flat(high), -flat(low)) * (towards != 0)
    steep = towards.abs()
    largest = steep.amax(dim=1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    steep, missing = steep / largest, gap.abs()[:, None] / largest
    if norm is Norm.LINF:
        size = _fill(steep, (steep > 0).to(steep), room, missing)
    elif norm is Norm.L2:
        size = _fill(steep, steep, room, missing)
    else:
        order = (steep if norm is Norm.L1 else steep * room).argsort(dim=1, descending=True, stable=True)
        room = room.gather(1, order)
        gain = steep.gather(1, order) * room
        before = gain.cumsum(dim=1) - gain
        share = ((missing - before) / gain.clamp_min(torch.finfo(gain.dtype).tiny)).clamp(0, 1)
        size = torch.zeros_like(steep).scatter_(1, order, share * room)
    return size.mul_(towards.sign()).reshape(slope.shape)


def grid_beyond(d: Batch, slope: Batch, step: float, norm: Norm) -> Batch:
    """(B, *shape) whole steps, none further than one step from d, with <slope, them> >= <slope, d>, and of a small size.

    Every value goes to the side that the slope likes less, and then to the other side where that costs least size for what it
    gains, until the plane is reached again (a knapsack, filled greedily). What lies on the grid stays.

    Args:
        d: (B, *shape) any change.
        slope: (B, *shape).
        step: of the grid, on which 0 lies.
    """
    places, g = flat(d) / step, flat(slope)
    nearest = places.round()
    on = (places - nearest).abs() < 1e-3
    low = torch.where(on, nearest, places.floor())
    worse = torch.where(on | (g > 0), low, low + 1)
    better = torch.where(on | (g <= 0), low, low + 1)
    gain = g * (better - worse)
    missing = (g * torch.where(on, nearest, places)).sum(dim=1) - (g * worse).sum(dim=1)
    if norm is Norm.LINF:  # free up to the largest; beyond that the first costs as much as all
        cost = (better.abs() - worse.abs().amax(dim=1, keepdim=True)).clamp_min(0)
    elif norm is Norm.L2:
        cost = better.square() - worse.square()
    elif norm is Norm.L1:
        cost = better.abs() - worse.abs()
    else:
        cost = (better != 0).to(g) - (worse != 0).to(g)
    worth = torch.where(cost > 0, gain / cost.clamp_min(1e-3), torch.inf).masked_fill(gain <= 0, -torch.inf)
    order = worth.argsort(dim=1, descending=True, stable=True)
    gained = gain.gather(1, order)
    before = gained.cumsum(dim=1) - gained
    taken = torch.zeros_like(on).scatter_(1, order, before < missing[:, None] * (1 - 1e-6)) & (gain > 0)
    taken |= (cost <= 0) & (gain > 0)
    return torch.where(taken, better, worse).mul_(step).reshape(d.shape)


def _fill(steep: Tensor, rate: Tensor, room: Tensor, missing: Tensor) -> Tensor:
    """min(t * rate, room), with the one t for each row where <steep, that> is `missing`; `room` where there is none."""
    most = torch.finfo(steep.dtype).max
    worth, full = steep * rate, room <= 0
    while True:
        free = worth.masked_fill(full, 0.0).sum(dim=1, keepdim=True)
        rest = missing - (steep * room * full).sum(dim=1, keepdim=True)
        t = torch.where(free > 0, (rest / free).clamp(0, most), most)
        size = t * rate
        more = (size >= room) & ~full
        if not bool(more.any()):
            return size.minimum(room)
        full |= more
