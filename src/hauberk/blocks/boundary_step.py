"""The step of an attack that walks along a decision boundary: as small a change as it can reach from where it stands.

    minimise |d|_p  subject to  <slope, d - here> = gap,  low <= d <= high,  |d - here|_2 <= radius

`here` is the change so far, d the next one. With a multiplier for the plane and one for the radius every coordinate is settled by
itself, d = clip(shrink_u(here - n * slope)), where `shrink` pulls towards 0 as the norm asks: scaled for L2, clamped for L-inf, soft
threshold for L1, hard threshold on |slope * d| for L0. <slope, d> falls in n, so that the plane is met by safeguarded Newton steps;
|d - here| rises in u, so that the radius is met by bisection.

Source: Brendel, Rauber, Kuemmerer, Ustyuzhaninov, Bethge 2019, "Accurate, reliable and fast robustness evaluation",
arXiv:1907.01003, section 3 and appendix, where each norm has a solver of its own and each example is solved by itself.
The prox of L0 has its threshold on |d|; where most changes reach the walls, and are of one size, it keeps all of them or none.
"""

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, flat
from hauberk.blocks.hyperplane import reach_hyperplane
from hauberk.threat import Norm
from hauberk.threat.norm import fill_l2

__all__ = ["boundary_step", "shrink"]

_OUTER, _INNER = 8, 8
"""Most shares that are tried, and most steps for the plane at each. The plane is linear only nearby: more is not worth it."""
_USED = 0.7
"""Of the radius: with a step of this length the search for the share ends."""
_NEAR = 0.02
"""Of the gap: how near the plane must be met."""


def shrink(change: Tensor, share: Tensor, norm: Norm, most: Tensor, slope: Tensor | None = None) -> Tensor:
    """(B, D) the changes pulled towards 0: not at all where `share` is 0, wholly where it is 1.

    Args:
        change: (B, D).
        share: (B, 1) in [0, 1].
        most: (B, 1) the largest of the changes, or of what they are worth, that a share of 1 is to wipe out.
        slope: (B, D) of the margin: in L0 a change counts as much as it is worth, so that of many at the walls, which are all of one
            size, the least useful go first. Without it, and in the other norms, as large as it is.
    """
    match norm:
        case Norm.L2:
            return change * (1 - share)
        case Norm.LINF:
            limit = most * (1 - share)
            return change.maximum(-limit).minimum(limit)
        case Norm.L1:
            return (change.abs() - most * share).clamp_min_(0).copysign(change)
        case Norm.L0:
            worth = (change if slope is None else change * slope).abs()
            return change.masked_fill(worth <= most * share, 0.0)


def boundary_step(
    here: Batch, slope: Batch, gap: PerExample, low: Batch, high: Batch, radius: PerExample, norm: Norm
) -> Batch:
    """(B, *shape) the next change from the example; where the plane is out of reach, the change nearest to it.

    Args:
        here: (B, *shape) the present change.
        slope: (B, *shape) how the margin rises.
        gap: (B,) how much it is to rise.
        low, high: (B, *shape), low <= 0 <= high, the box around the example.
        radius: (B,) of a step, in L2.
    """
    shape = here.shape
    here, slope, low, high = (flat(part) for part in (here, slope, low, high))
    r = radius[:, None]
    nearest = reach_hyperplane(slope, gap, low - here, high - here, Norm.L2)
    far = torch.linalg.vector_norm(nearest, dim=1, keepdim=True) >= r
    towards = torch.where(gap < 0, -1.0, 1.0).to(slope)[:, None] * slope
    room = torch.where(towards > 0, high - here, here - low) * (towards != 0)
    # as far towards the plane as box and radius let; where that is not reached, nothing else counts
    out_of_reach = here + fill_l2(towards.abs() * (room > 0), room, radius) * towards.sign()
    level = (slope * here).sum(dim=1) + gap
    best = reach_hyperplane(slope, level, low, high, norm)
    close = torch.linalg.vector_norm(best - here, dim=1, keepdim=True) <= r
    most = (here * slope if norm is Norm.L0 else here).abs().amax(dim=1, keepdim=True)
    d, n = here + nearest, torch.zeros_like(r)
    least, trial_u = torch.zeros_like(r), (r / torch.linalg.vector_norm(here, dim=1, keepdim=True)).clamp(0, 1)
    largest = torch.ones_like(r)
    settled = far | close
    for _ in range(_OUTER):
        if bool(settled.all()):
            break
        trial, met, n = _on_plane(here, slope, level[:, None], low, high, trial_u, norm, most, n, settled)
        length = torch.linalg.vector_norm(trial - here, dim=1, keepdim=True)
        small = met & (length <= r)
        fits = ~settled & small
        d = torch.where(fits, trial, d)
        least, largest = torch.where(small, trial_u, least), torch.where(small, largest, trial_u)
        settled = settled | (fits & ((length >= _USED * r) | (trial_u >= 1)))
        trial_u = torch.where(least > 0, (least * largest).sqrt(), largest / 8)
    d = torch.where(far, out_of_reach, torch.where(close, best, d))
    return d.maximum(low).minimum(high).reshape(shape)


def _on_plane(
    here: Tensor,
    slope: Tensor,
    level: Tensor,
    low: Tensor,
    high: Tensor,
    share: Tensor,
    norm: Norm,
    most: Tensor,
    n: Tensor,
    settled: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """clip(shrink(here - n * slope)), with the n for each row, (B, 1), where <slope, that> is `level`; whether it is, nearly."""
    lowest, highest = torch.full_like(n, -torch.inf), torch.full_like(n, torch.inf)
    squares = slope * slope
    near = _NEAR * (level - (slope * here).sum(dim=1, keepdim=True)).abs()
    limit = most * (1 - share)
    done, d = settled, here
    for _ in range(_INNER):
        moved = shrink(here - n * slope, share, norm, most, slope)
        inside = moved.maximum(low).minimum(high)
        d = torch.where(done, d, inside)
        excess = (slope * inside).sum(dim=1, keepdim=True) - level
        done = done | (excess.abs() <= near)
        if bool(done.all()):
            break
        lowest, highest = torch.where(excess > 0, n, lowest), torch.where(excess > 0, highest, n)
        free = (inside == moved) & (moved.abs() < limit if norm is Norm.LINF else moved != 0)
        rate = (squares * free).sum(dim=1, keepdim=True) * ((1 - share) if norm is Norm.L2 else 1.0)
        rate = torch.where(rate > 0, rate, squares.sum(dim=1, keepdim=True)).clamp_min(torch.finfo(n.dtype).tiny)
        newton = n + excess / rate
        halved = torch.where(lowest.isfinite() & highest.isfinite(), (lowest + highest) / 2, 2 * newton - n)
        n = torch.where(done, n, torch.where((newton > lowest) & (newton < highest), newton, halved))
    if norm is not Norm.L0:
        return d, done, n
    kept = d != 0  # the plane is met by what stays
    base = (here * kept).maximum(low).minimum(high)
    missing = (level - (slope * base).sum(dim=1, keepdim=True))[:, 0]
    d = base + reach_hyperplane(slope * kept, missing, low - base, high - base, Norm.L2)
    return d, ((slope * d).sum(dim=1, keepdim=True) - level).abs() <= near, n
