"""TRADES: cross-entropy of clean examples, and how far the answer moves within the region.

    min_w E l(f_w(x), y) + beta * max_{z in region(x)} KL(p_w(x) || p_w(z))

Source: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan 2019, "Theoretically principled trade-off between robustness and accuracy",
arXiv:1901.08573, eq. 5 and algorithm 1; beta = 1/lambda. The authors' settings: beta 6 on CIFAR-10, starts of normal noise of
deviation 0.001; MNIST at 0.3: beta 1 in their program, 40 steps of 0.01 (`--inner pgd:steps=40,step_size=0.01,start=gaussian`).

**Differs from the paper:** none in the loss; the inner maximiser is whatever `inner` says.

**Status:** holds within the norm and radius it was trained with (Croce, Hein 2020, arXiv:2003.01690, lower the authors' figure
on CIFAR-10 from 56.4 to 53.1 %).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._adversarial import Adversarial
from hauberk.train._losses import divergence
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Climb

__all__ = ["Trades"]


@dataclass(frozen=True, kw_only=True)
class Trades(Adversarial):
    """Cost: the inner maximiser's and one forward of the clean examples for it, two forwards and two backwards.

    Args:
        beta: weight of the divergence, > 0.
    """

    status: ClassVar[Status] = Status("holds", "Croce, Hein 2020, arXiv:2003.01690")

    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise SettingError(f"trades needs a finite beta > 0, got {self.beta}")

    def climb(self, net: nn.Module, x: Batch, y: Labels) -> Climb:
        with torch.no_grad():
            clean = net(x)
        return lambda z, rows: divergence(clean[rows], net(z))

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        clean, moved = net(x), net(z)
        apart = divergence(clean, moved).mean()
        return Losses(F.cross_entropy(clean, y) + self.beta * apart, moved, {"divergence": apart.item()})
