"""The picture axes of a batch, and random windows on them, for attacks that change a picture patch by patch."""

import math

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Rows

__all__ = ["Canvas"]


class Canvas:
    """The picture axes of a batch: channels, height, width. Vectors are pictures one row high; every axis before the last two
    is a channel."""

    def __init__(self, x: Batch) -> None:
        self.shape, self.device = x.shape[1:], x.device
        self.channels = math.prod(self.shape[:-2])
        self.height, self.width = (self.shape[-2], self.shape[-1]) if len(self.shape) >= 2 else (1, self.shape[-1])

    def picture(self, x: Batch) -> Tensor:
        """(B, *shape) as (B, channels, height, width)."""
        return x.reshape(len(x), self.channels, self.height, self.width)

    def back(self, picture: Tensor) -> Batch:
        """The inverse of `picture`."""
        return picture.reshape(len(picture), *self.shape)

    def side(self, share: float, least: int = 1) -> int:
        """The side of a square window that covers this share of the picture."""
        area = share * self.height * self.width
        return max(round(area if self.height == 1 else math.sqrt(area)), least)

    def sides(self, share: Tensor, least: int = 1) -> Tensor:
        """`side` for a share of each example: (B,) int64."""
        area = share * (self.height * self.width)
        return (area if self.height == 1 else area.sqrt()).round().to(torch.int64).clamp_min(least)

    def window(self, rows: Rows, streams: Streams, side: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1, height, width) bool, True in a random window of this side; its top row and left column, (B, 1) each.

        `side` is one number or (B,); where it is longer than an axis, the window spans that axis.
        """
        lengths = torch.as_tensor(side, device=self.device).expand(len(rows))[:, None]
        tall, wide = lengths.clamp_max(self.height), lengths.clamp_max(self.width)
        top = streams.integers(rows, self.height - tall[:, 0] + 1)[:, None]
        left = streams.integers(rows, self.width - wide[:, 0] + 1)[:, None]
        y = torch.arange(self.height, device=self.device)[None]
        x = torch.arange(self.width, device=self.device)[None]
        inside_y, inside_x = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
        return (inside_y[:, :, None] & inside_x[:, None, :])[:, None], top, left
