"""Adversarial logit pairing: learn clean and perturbed examples alike, and hold the scores of each pair together.

With z the worst point that cross-entropy finds in the region of x, and K classes:

    min_w E [ (l(f(x), y) + l(f(z), y)) / 2 + weight * |f(x) - f(z)|_2^2 / K ]

Source: Kannan, Kurakin, Goodfellow 2018, "Adversarial logit pairing", arXiv:1803.06373; the mean over the classes is that of
the authors' program, whose weight on ImageNet is 0.5.

**Differs from the paper:** the inner maximiser leaves the true class; on ImageNet the authors climb to a least likely or
random one.

**Status:** broken as a defense of its own: on ImageNet, Engstrom, Ilyas, Athalye 2018 (arXiv:1807.10272) brought the authors'
net from 27.9 % to 0.6 % under targeted PGD of more steps; Mosbach et al. 2018 (arXiv:1810.12042) find some robustness beside
adversarial training, much less than was claimed.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._adversarial import Adversarial
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["ALP"]


@dataclass(frozen=True, kw_only=True)
class ALP(Adversarial):
    """Cost: the inner maximiser's, two forwards and two backwards.

    Args:
        weight: of the pairing, >= 0; at 0 it is adversarial training on half clean, half perturbed examples.

    Raises:
        SettingError: a weight that is no number >= 0.
    """

    status: ClassVar[Status] = Status("broken", "Engstrom, Ilyas, Athalye 2018, arXiv:1807.10272")

    weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise SettingError(f"alp needs a finite weight >= 0, got {self.weight}")

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        clean, moved = net(x), net(z)
        apart = F.mse_loss(clean, moved)
        learnt = (F.cross_entropy(clean, y) + F.cross_entropy(moved, y)) / 2
        return Losses(learnt + self.weight * apart, moved, {"pairing": apart.item()})
