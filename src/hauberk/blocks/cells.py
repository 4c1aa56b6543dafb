"""Cells: what an attack of few changes changes at once, single values or whole pixels, and how many of them a radius allows.

L0 counts changed values, so a pixel of c channels costs c of the radius. With a radius in between, the last pixel changes in fewer
channels: those that `project` keeps.
"""

import math

import torch
from torch import Tensor

from hauberk._shapes import Batch, double
from hauberk.blocks.canvas import Canvas
from hauberk.errors import UnknownNameError
from hauberk.threat import Ball

__all__ = ["CELLS", "Cells"]

CELLS = ("values", "pixels")


class Cells:
    """A batch seen as (B, deep, count): `count` cells of `deep` values.

    Args:
        kind: "values", each a cell, or "pixels", all channels of a place a cell.
    """

    def __init__(self, x: Batch, kind: str) -> None:
        if kind not in CELLS:
            raise UnknownNameError.of("kind of cells", kind, CELLS)
        self.shape = x.shape[1:]
        self.canvas = Canvas(x)
        self.deep = self.canvas.channels if kind == "pixels" else 1
        self.count = math.prod(self.shape) // max(self.deep, 1)

    def split(self, x: Batch) -> Tensor:
        """(B, *shape) as (B, deep, count)."""
        return x.reshape(len(x), self.deep, self.count)

    def whole(self, cells: Tensor) -> Batch:
        """The inverse of `split`."""
        return cells.reshape(len(cells), *self.shape)

    def allowed(self, x: Batch, ball: Ball) -> tuple[Tensor, Tensor]:
        """(B,) int64 how many cells the radius lets each example change; (B, count) bool which the mask leaves something of."""
        radius = torch.as_tensor(ball.radius, dtype=double(x), device=x.device).expand(len(x))
        free = torch.ones_like(x, dtype=torch.bool) if ball.mask is None else ball.mask.to(x.device).expand_as(x)
        open_ = self.split(free).any(dim=1)
        most = torch.ceil(radius.floor().clamp_max(float(self.deep * self.count)) / self.deep).to(torch.int64)
        return most.minimum(open_.sum(dim=1)), open_

    def near(self, chosen: Tensor, reach: int) -> Tensor:
        """(B, count) bool: the cells at most `reach` rows and columns from a chosen one, in the same channel where cells are values."""
        picture = chosen.reshape(len(chosen), -1, self.canvas.height, self.canvas.width).to(torch.float32)
        sides = tuple(2 * min(reach, side) + 1 for side in (self.canvas.height, self.canvas.width))
        grown = torch.nn.functional.max_pool2d(picture, sides, stride=1, padding=tuple(side // 2 for side in sides))
        return grown.reshape(len(chosen), self.count) > 0
