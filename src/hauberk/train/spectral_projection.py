"""Spectral projection: after each step, a layer that lengthens too much is scaled back.

    W <- W / max(1, sigma / limit),    sigma >= the spectral norm of the layer

For a linear layer sigma is the largest singular value of W, for a convolution that of the unfolded kernel times the square
root of the number of windows that an input value lies in.

Source: Gouk, Frank, Pfahringer, Cree 2018, "Regularisation of neural networks by enforcing Lipschitz continuity",
arXiv:1804.04368, with p = 2.

**Differs from the paper:** the norm of a convolution is bounded from above through its unfolded kernel (the authors estimate
it from below by power iteration on the layer), and is exact for the matrix; so the limit holds after every step, and a
convolution may stay under it by a factor of at most the square root of its kernel's size. Batch norm is left alone (the
authors limit it too), and may undo the bound.

**Status:** partial; the product of the limits bounds how fast any score changes, which certifies little at useful accuracy
(Huster, Chiang, Chadha 2018, arXiv:1807.09705).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hauberk.errors import SettingError
from hauberk.train._layers import change_matrices
from hauberk.train._status import Status

__all__ = ["SpectralProjection"]


@dataclass(frozen=True)
class SpectralProjection:
    """A constraint: every linear and convolutional layer has a spectral norm of at most `limit`. Cost: a singular value each.

    Args:
        limit: > 0.

    Raises:
        SettingError: a limit that is not a positive number.
        ModelError: when called: a layer of which no norm is known, see `hauberk.train._layers`.
    """

    status: ClassVar[Status] = Status("partial", "Huster, Chiang, Chadha 2018, arXiv:1807.09705")

    limit: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise SettingError(f"the spectral norm is projected to a finite limit > 0, got {self.limit}")

    def __call__(self, net: nn.Module) -> None:
        change_matrices(net, self._scale)

    def _scale(self, matrix: Tensor, overlap: float) -> Tensor:
        norms = torch.linalg.matrix_norm(matrix, ord=2)  # of each group; the layer's is the largest
        return matrix / (norms * overlap / self.limit).clamp_min(1.0)[:, None, None]
