"""Maxout: a layer whose units answer the largest of several linear functions of their input.

    h_i(x) = max_{j <= pieces} (x^T W_ij + b_ij)

It is its own nonlinearity. A unit is convex in its input and has a slope everywhere but on the seams.

Source: Goodfellow, Warde-Farley, Mirza, Courville, Bengio 2013, "Maxout networks", arXiv:1302.4389, eq. 1. The authors train
with dropout and a limit on the norm of each unit's weights; on MNIST 5 pieces.

**Differs from the paper:** a convolution takes the maximum over its own pieces at each place (theirs also pools over places,
for which there is `nn.MaxPool2d`); dropout and limits are left to the net and the recipe.

**Status:** none; no defense: Goodfellow, Shlens, Szegedy 2015, arXiv:1412.6572, take a maxout net on MNIST to an error of
89.4 % with one signed step of 0.25.
"""

from typing import ClassVar

from torch import Tensor, nn

from hauberk.errors import SettingError
from hauberk.train._status import Status

__all__ = ["Maxout", "MaxoutConv2d"]


class Maxout(nn.Module):
    """A layer each unit of which is the largest of `pieces` linear functions: (..., features) -> (..., units).

    Args:
        features: length of the input's last axis.
        units: of the answer's.
        pieces: >= 1.

    Raises:
        SettingError: no piece.
    """

    status: ClassVar[Status] = Status("none")

    def __init__(self, features: int, units: int, pieces: int = 5) -> None:
        super().__init__()
        self.pieces = _checked(pieces)
        self.linear = nn.Linear(features, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(-1, (-1, self.pieces)).amax(dim=-1)


class MaxoutConv2d(nn.Module):
    """A layer each channel of which is, at each place, the largest of `pieces` convolutions: (B, C, H, W) -> (B, C', H', W').

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as `nn.Conv2d` has them.
        pieces: >= 1.

    Raises:
        SettingError: no piece.
    """

    status: ClassVar[Status] = Status("none")

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, pieces: int = 2, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.pieces = _checked(pieces)
        self.conv = nn.Conv2d(in_channels, out_channels * pieces, kernel_size, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).unflatten(1, (-1, self.pieces)).amax(dim=2)


def _checked(pieces: int) -> int:
    if pieces < 1:
        raise SettingError(f"a maxout layer needs pieces >= 1, got {pieces}")
    return pieces
