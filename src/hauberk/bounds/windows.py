"""Linear functions of a plane of channels that look at a small window of it only: what convolutions leave on the way backward.

A row of the batch is one linear function. Its window begins at stride * place + offset in the plane; places form a grid, and rows
say at which one they are. A window may reach past the plane, where everything is 0. So going back through a convolution costs
as much as the window is large and not as much as the plane is (the patches of auto_LiRPA, Xu et al. 2020, arXiv:2002.12920).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from hauberk._shapes import Rows
from hauberk.layered.ops import Conv, Shape

__all__ = ["Windows"]


@dataclass(frozen=True, eq=False)
class Windows:
    """Coefficients (N, C, h, w) of windows of a plane.

    Attributes:
        a: the coefficients.
        where: (N,) positions in the grid, row by row.
        grid: rows and columns of the grid.
        stride, offset: of the windows' top left corners in the plane, downward and rightward.
        plane: (C, H, W).
    """

    a: Tensor
    where: Tensor
    grid: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    plane: Shape

    @classmethod
    def units(cls, index: Tensor, sign: Tensor, plane: Shape) -> Self:
        """sign[n] times the value at flat position index[n] of the plane."""
        channels, height, width = plane
        a = sign.new_zeros(len(index), channels, 1, 1)
        a[torch.arange(len(index), device=index.device), index // (height * width), 0, 0] = sign
        return cls(a, index % (height * width), (height, width), (1, 1), (0, 0), plane)

    @property
    def size(self) -> tuple[int, int]:
        return self.a.shape[2], self.a.shape[3]

    @property
    def small(self) -> bool:
        """Whether a window is smaller than the plane, so that it pays to keep it one."""
        return self.size[0] * self.size[1] < self.plane[1] * self.plane[2]

    def of(self, planes: Tensor, rows: Rows | None) -> Tensor:
        """(N, C, h, w): the windows of planes (B, C, H, W), row n's of planes[rows[n]], or planes[n]; 0 outside."""
        (top, left), (down, right), (height, width) = self.offset, self.stride, self.size
        bottom = down * (self.grid[0] - 1) + top + height - planes.shape[2]
        end = right * (self.grid[1] - 1) + left + width - planes.shape[3]
        padded = F.pad(planes, (-left, end, -top, bottom))
        cut = padded.unfold(2, height, down).unfold(3, width, right)  # (B, C, rows, columns, h, w)
        table = cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, planes.shape[1], height, width)
        which = self.where
        if len(planes) > 1:
            rows = torch.arange(len(planes), device=planes.device) if rows is None else rows
            which = rows * (self.grid[0] * self.grid[1]) + which
        return table.index_select(0, which)

    def inside(self) -> Tensor:
        """(N, 1, h, w): 1 within the plane, 0 outside."""
        return self.of(self.a.new_ones(1, 1, *self.plane[1:]), self.where)

    def cropped(self) -> Self:
        """The same with coefficients of 0 where the window reaches past the plane."""
        (top, left), (down, right), (height, width) = self.offset, self.stride, self.size
        within = (
            top >= 0
            and left >= 0
            and down * (self.grid[0] - 1) + top + height <= self.plane[1]
            and right * (self.grid[1] - 1) + left + width <= self.plane[2]
        )
        return self if within else replace(self, a=self.a * self.inside())

    def back_through(self, op: Conv, plane: Shape) -> Self:
        """The same functions of what the convolution reads."""
        a = F.conv_transpose2d(self.a, op.weight, None, op.stride, 0, 0, op.groups, op.dilation)
        moved = [
            (stride * step, offset * step - pad)
            for stride, offset, step, pad in zip(self.stride, self.offset, op.stride, op.padding, strict=True)
        ]
        return type(self)(
            a, self.where, self.grid, (moved[0][0], moved[1][0]), (moved[0][1], moved[1][1]), plane
        ).cropped()

    def plus(self, other: "Windows") -> Self | None:
        """The sum, where both lie on one grid."""
        if (self.grid, self.stride) != (other.grid, other.stride):
            return None
        start = [min(pair) for pair in zip(self.offset, other.offset, strict=True)]
        stop = [max(a + m, b + n) for a, m, b, n in zip(self.offset, self.size, other.offset, other.size, strict=True)]
        parts = [_placed(windows, start, stop) for windows in (self, other)]
        return replace(self, a=parts[0] + parts[1], offset=(start[0], start[1]))

    def dense(self) -> Tensor:
        """(N, C, H, W): the same with all coefficients, most of them 0."""
        channels, rows, columns = self.plane
        (height, width), n = self.size, len(self.a)
        top = self.stride[0] * (self.where // self.grid[1]) + self.offset[0]
        left = self.stride[1] * (self.where % self.grid[1]) + self.offset[1]
        down = top[:, None] + torch.arange(height, device=self.a.device)
        right = left[:, None] + torch.arange(width, device=self.a.device)
        # the plane gets a margin of one, where all that lies outside it is thrown away
        down = torch.where((down >= 0) & (down < rows), down, rows)
        right = torch.where((right >= 0) & (right < columns), right, columns)
        place = (down[:, :, None] * (columns + 1) + right[:, None, :]).reshape(n, 1, -1).expand(-1, channels, -1)
        whole = self.a.new_zeros(n, channels, (rows + 1) * (columns + 1))
        whole = whole.scatter_add(2, place, self.a.flatten(2))
        return whole.reshape(n, channels, rows + 1, columns + 1)[:, :, :rows, :columns]


def _placed(windows: Windows, start: Sequence[int], stop: Sequence[int]) -> Tensor:
    (top, left), (height, width) = windows.offset, windows.size
    return F.pad(windows.a, (left - start[1], stop[1] - left - width, top - start[0], stop[0] - top - height))
