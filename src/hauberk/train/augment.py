"""Augmentation of the training examples: each draws from its own stream, so it is the same however batches are cut and resumed.

The settings are those of He et al. 2015 (arXiv:1512.03385) for CIFAR, which adversarial training took over (crops with 4 pixels of
padding, flips), and DeVries, Taylor 2017, "Improved regularization of convolutional neural networks with cutout", arXiv:1708.04552.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from hauberk._rng import Streams
from hauberk._shapes import Batch, wide
from hauberk.errors import DataError, SettingError

__all__ = ["Augmentation", "Cutout", "Flip", "RandomCrop"]


class Augmentation(Protocol):
    """A frozen dataclass of settings that changes each example of a batch by its own draws."""

    def __call__(self, x: Batch, *, streams: Streams) -> Batch:
        """(B, *shape) changed examples; x is left as it is."""
        ...


@dataclass(frozen=True)
class RandomCrop:
    """Pad each picture with `fill` on all sides and cut its own size out of that, at a place drawn evenly.

    Args:
        padding: pixels, >= 1.
        fill: the value that comes in from outside.

    Raises:
        SettingError: no padding.
    """

    padding: int = 4
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise SettingError(f"a random crop needs padding >= 1, got {self.padding}")

    def __call__(self, x: Batch, *, streams: Streams) -> Batch:
        height, width = _sizes(x, "a random crop")
        rows = torch.arange(len(x), device=x.device)
        corner = streams.integers(rows, 2 * self.padding + 1, (2,)).to(x.device)
        padded = F.pad(x, (self.padding,) * 4, value=self.fill)
        down = corner[:, 0, None] + torch.arange(height, device=x.device)
        right = corner[:, 1, None] + torch.arange(width, device=x.device)
        cut = padded.movedim(1, -1)[rows[:, None, None], down[:, :, None], right[:, None, :]]
        return cut.movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class Flip:
    """Turn each picture left to right with a chance of one half."""

    def __call__(self, x: Batch, *, streams: Streams) -> Batch:
        _sizes(x, "a flip")
        turned = streams.signs(torch.arange(len(x), device=x.device), ()).to(x.device) > 0
        return torch.where(wide(turned, x), x.flip(-1), x)


@dataclass(frozen=True)
class Cutout:
    """Set a square of each picture to `fill`; its middle is drawn evenly, so that parts of it may lie outside.

    Args:
        size: of a side, in pixels, >= 1.
        fill: the value inside.

    Raises:
        SettingError: no size.
    """

    size: int = 8
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingError(f"a cutout needs size >= 1, got {self.size}")

    def __call__(self, x: Batch, *, streams: Streams) -> Batch:
        inside = None
        for axis, length in zip((-2, -1), _sizes(x, "a cutout"), strict=True):
            rows = torch.arange(len(x), device=x.device)
            first = streams.integers(rows, length).to(x.device)[:, None] - self.size // 2
            places = torch.arange(length, device=x.device)
            span = (places >= first) & (places < first + self.size)
            part = span[:, None, :, None] if axis == -2 else span[:, None, None, :]
            inside = part if inside is None else inside & part
        assert inside is not None
        return torch.where(inside, torch.as_tensor(self.fill, dtype=x.dtype, device=x.device), x)


def _sizes(x: Batch, what: str) -> tuple[int, int]:
    if x.ndim != 4:
        raise DataError(f"{what} needs pictures of shape (channels, height, width), got {tuple(x.shape[1:])}")
    return x.shape[-2], x.shape[-1]
