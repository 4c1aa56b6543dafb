"""Constraints: what the weights are brought back to after each step, in place.

`ClipWeights` stands here; `Parseval`, `SpectralProjection` and `Prune` have files of their own.

**Status:** partial; small weights bound a layer's Lipschitz constant, loosely, and that says little of the margin (Huster,
Chiang, Chadha 2018, arXiv:1807.09705).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import nn

from hauberk.errors import SettingError
from hauberk.train._status import Status

__all__ = ["ClipWeights", "Constraint"]


class Constraint(Protocol):
    """A frozen dataclass of settings that changes a net's weights in place, after each step of the optimiser.

    It draws nothing and keeps nothing, so that a resumed training repeats it.
    """

    def __call__(self, net: nn.Module) -> None: ...


@dataclass(frozen=True)
class ClipWeights:
    """Clip each weight to [-limit, limit]: a layer of m outputs and n inputs then has a spectral norm of at most limit * sqrt(m n).

    Args:
        limit: > 0.
        biases: clip vectors (biases, scales of norms) too.

    Raises:
        SettingError: a limit that is not a positive number.
    """

    status: ClassVar[Status] = Status("partial", "Huster, Chiang, Chadha 2018, arXiv:1807.09705")

    limit: float = 0.1
    biases: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise SettingError(f"weights are clipped to a finite limit > 0, got {self.limit}")

    def __call__(self, net: nn.Module) -> None:
        with torch.no_grad():
            for value in net.parameters():
                if self.biases or value.ndim > 1:
                    value.clamp_(-self.limit, self.limit)
