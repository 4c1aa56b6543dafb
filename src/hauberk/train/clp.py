"""Clean logit pairing: noisy examples, and a penalty on how far apart the scores of two random examples are.

With x_i the examples of a batch of 2m with normal noise on them, l the cross-entropy and K classes:

    min_w  mean_i l(f(x_i), y_i) + weight * mean_{i < m} |f(x_i) - f(x_{i+m})|_2^2 / K

Source: Kannan, Kurakin, Goodfellow 2018, "Adversarial logit pairing", arXiv:1803.06373.

**Differs from the paper:** the mean over the classes, as in the authors' program; what is left over of an odd batch is learnt
but not paired; noisy examples are not clipped to the range of the input.

Pairs are made within a batch, so unlike other objectives this one is not a mean over examples.

**Status:** broken: it shrinks the scores until gradients vanish, and PGD with many steps and restarts takes it (Mosbach,
Andriushchenko, Trost, Hein, Klakow 2018, "Logit pairing methods can fool gradient-based attacks", arXiv:1810.12042).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["CLP"]


@dataclass(frozen=True, kw_only=True)
class CLP:
    """Cost: one forward and one backward.

    Args:
        weight: of the pairing, >= 0.
        noise: standard deviation of the normal noise, in the units of the input, >= 0.

    Raises:
        SettingError: a weight or a noise that is no number >= 0.
    """

    status: ClassVar[Status] = Status("broken", "Mosbach et al. 2018, arXiv:1810.12042")

    weight: float = 0.5
    noise: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("weight", self.weight), ("noise", self.noise)):
            if not (math.isfinite(value) and value >= 0):
                raise SettingError(f"clp needs a finite {name} >= 0, got {value}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        if self.noise:
            x = x + self.noise * streams.normal(torch.arange(len(x)), x.shape[1:], dtype=x.dtype).to(x)
        logits = net(x)
        pairs = len(x) // 2
        apart = (logits[:pairs] - logits[pairs : 2 * pairs]).square().sum() / max(1, pairs * logits.shape[1])
        return Losses(F.cross_entropy(logits, y) + self.weight * apart, logits, {"pairing": apart.item()})
