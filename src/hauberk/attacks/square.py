"""Square: random search over square patches, with scores alone.

L-inf: from vertical stripes of +-eps, set a random square of each channel to +-eps around x, and keep it if the margin
grows. L2: move the budget of one random window into another, shaped as two opposed bumps. The squares shrink on a schedule: the
paper's, p_init halved nine times on the way to the last step, or "early", p_init / (1 + t / 10) at proposal t, which does not know
how many there will be. With few queries for each example the second needs fewer of them (`benchmarks/black_box.py`).

Source: Andriushchenko, Croce, Flammarion, Hein 2020, "Square Attack", arXiv:1912.00049; schedule of p from section 3.3.
**Differs from the paper:** every example draws its own squares and signs (reference code: one draw for the whole batch), so
the result does not depend on the batch; the last row and column of positions can be drawn; the objective is the margin of
whatever the goal is; vectors are pictures one row high.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Canvas, Frontier, improves
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Access, Ball, Goal, Norm, Region, Scored

__all__ = ["Square", "share_schedule", "square"]

_SHRINK = ("paper", "early")
_PACE = 10
"""Proposals after which an "early" square covers half of what the first did."""


@dataclass(frozen=True)
class Square:
    """Square attack. Cost: at most `restarts` * (`steps` + 1) queries an example.

    Args:
        steps: proposals after the first point.
        p_init: first share of the picture that a square covers, in (0, 1]; 0.2 goes well with "early".
        restarts: runs from fresh stripes, each of `steps` proposals, on examples that are not broken yet.
        early_stop: leave an example once it is broken.
        shrink: "paper" or "early", how the squares shrink.
    """

    steps: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    early_stop: bool = True
    shrink: str = "paper"

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "p_init")
        if self.p_init > 1:
            raise SettingError(f"square needs p_init in (0, 1], got p_init={self.p_init}")
        if self.shrink not in _SHRINK:
            raise UnknownNameError.of("way to shrink squares", self.shrink, _SHRINK)

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        first, propose = (_stripes, _square) if region.norm is Norm.LINF else (_bumps, _move_bump)
        for _ in range(self.restarts):
            frontier.restart()
            if not len(frontier):
                break
            z = first(Canvas(frontier.x), frontier, streams)
            margin = frontier.ask(z)
            z, margin = frontier.compact(z, margin)
            for step in range(self.steps):
                if not len(frontier):
                    break
                canvas = Canvas(frontier.x)
                factor = share_schedule(step, self.steps) if self.shrink == "paper" else 1 / (1 + step / _PACE)
                share = self.p_init * factor
                new = propose(canvas, z, share, frontier, streams)
                found = frontier.ask(new)
                better = improves(found, margin)
                z = torch.where(wide(better, z), new, z)
                margin = torch.where(better, found, margin)
                z, margin = frontier.compact(z, margin)
        return frontier.best


def share_schedule(step: int, steps: int) -> float:
    """The factor on p_init at this proposal: halved at 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000 of 10,000."""
    place = int(step / steps * 10_000)
    return 0.5 ** sum(place > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))


def _radius(frontier: Frontier) -> Tensor:
    region = frontier.region
    assert isinstance(region, Ball)
    return torch.as_tensor(region.radius, dtype=frontier.x.dtype, device=frontier.x.device).reshape(-1, 1, 1, 1)


def _stripes(canvas: Canvas, frontier: Frontier, streams: Streams) -> Batch:
    signs = streams.signs(frontier.rows, (canvas.channels, 1, canvas.width), dtype=frontier.x.dtype)
    return frontier.region.project(canvas.back(canvas.picture(frontier.x) + _radius(frontier) * signs), frontier.x)


def _square(canvas: Canvas, z: Batch, share: float, frontier: Frontier, streams: Streams) -> Batch:
    inside, _, _ = canvas.window(frontier.rows, streams, canvas.side(share))
    signs = streams.signs(frontier.rows, (canvas.channels, 1, 1), dtype=z.dtype)
    new = torch.where(inside, canvas.picture(frontier.x) + _radius(frontier) * signs, canvas.picture(z))
    return frontier.region.project(canvas.back(new), frontier.x)


def _bump(tall: int, wide: int, like_x: Tensor) -> Tensor:
    """(tall, wide): nested rectangles around the centre, the k-th adding 1 / k^2; unit length."""
    out = torch.zeros(tall, wide, dtype=like_x.dtype, device=like_x.device)
    middle_y, middle_x = tall // 2, wide // 2
    for k in range(max(middle_y, middle_x) + 1):
        out[max(middle_y - k, 0) : middle_y + k + 1, max(middle_x - k, 0) : middle_x + k + 1] += 1 / (k + 1) ** 2
    return out / out.norm()


def _pair(side: int, like_x: Tensor, *, flat_picture: bool = False) -> Tensor:
    """(side, side): a bump above a negative bump; unit length. (1, side) for vectors."""
    if flat_picture:
        left = _bump(1, max(side // 2, 1), like_x)
        right = -_bump(1, side - side // 2, like_x)
        out = torch.cat((left, right), dim=1)[:, :side]
    elif side == 1:
        out = torch.ones(1, 1, dtype=like_x.dtype, device=like_x.device)
    else:
        out = torch.cat((_bump(side // 2, side, like_x), -_bump(side - side // 2, side, like_x)))
    return out / out.norm()


def _bumps(canvas: Canvas, frontier: Frontier, streams: Streams) -> Batch:
    """A grid of bump pairs, a fifth of the picture a side, with random signs for each pair and channel."""
    x = canvas.picture(frontier.x)
    level = canvas.height == 1
    side = max((canvas.width if level else min(canvas.height, canvas.width)) // 5, 1)
    tile = _pair(side, x, flat_picture=level)
    down, across = canvas.height // tile.shape[0], canvas.width // tile.shape[1]
    signs = streams.signs(frontier.rows, (canvas.channels, down, across), dtype=x.dtype)
    laid = torch.einsum("bcij,yx->bciyjx", signs, tile)
    laid = laid.reshape(len(x), canvas.channels, down * tile.shape[0], across * tile.shape[1])
    delta = torch.zeros_like(x)
    top, left = (canvas.height - laid.shape[2]) // 2, (canvas.width - laid.shape[3]) // 2
    delta[:, :, top : top + laid.shape[2], left : left + laid.shape[3]] = laid
    return _stretch(canvas, delta, frontier)


def _stretch(canvas: Canvas, delta: Tensor, frontier: Frontier) -> Batch:
    """The change, scaled to the radius, then into the box."""
    length = flat(delta).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
    return frontier.region.project(
        canvas.back(canvas.picture(frontier.x) + delta / length * _radius(frontier)), frontier.x
    )


def _move_bump(canvas: Canvas, z: Batch, share: float, frontier: Frontier, streams: Streams) -> Batch:
    rows, x = frontier.rows, canvas.picture(frontier.x)
    level = canvas.height == 1
    side = min(canvas.side(share, 3) | 1, canvas.width if level else min(canvas.height, canvas.width))
    delta = canvas.picture(z) - x
    here, top, left = canvas.window(rows, streams, side)
    there, _, _ = canvas.window(rows, streams, side)
    # the bump pair, laid into the first window of each example, upright or on its side
    tile = _pair(side, delta, flat_picture=level)
    turned = tile if level else tile.T
    upright = streams.signs(rows, ()) > 0
    index_y = (torch.arange(canvas.height, device=z.device)[None] - top).clamp(0, tile.shape[0] - 1)
    index_x = (torch.arange(canvas.width, device=z.device)[None] - left).clamp(0, tile.shape[1] - 1)
    laid = torch.where(
        upright[:, None, None],
        tile[index_y[:, :, None], index_x[:, None, :]],
        turned[index_y[:, :, None], index_x[:, None, :]],
    )[:, None]
    signs = streams.signs(rows, (canvas.channels, 1, 1), dtype=z.dtype)
    inside = delta * here
    old = inside / flat(inside).reshape(len(z), canvas.channels, -1).norm(dim=2).clamp_min(1e-12)[:, :, None, None]
    new = (laid * signs + old) * here
    per_channel = new.reshape(len(z), canvas.channels, -1).norm(dim=2).clamp_min(1e-12)[:, :, None, None]
    spent = flat(delta).square().sum(dim=1).reshape(-1, 1, 1, 1)
    unused = (_radius(frontier) ** 2 - spent).clamp_min(0) / canvas.channels
    windows = (delta * (here | there)).reshape(len(z), canvas.channels, -1).square().sum(dim=2)[:, :, None, None]
    moved = torch.where(
        here, new / per_channel * (unused + windows).sqrt(), torch.where(there, torch.zeros_like(delta), delta)
    )
    return _stretch(canvas, moved, frontier)


square = friendly(Square)
