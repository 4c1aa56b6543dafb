"""Natural training: the mean cross-entropy of the clean examples. Cost: one forward and one backward per example.

**Status:** none; it is no defense, and small changes of the input turn its answers (Szegedy et al. 2013, arXiv:1312.6199).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["Natural"]


@dataclass(frozen=True)
class Natural:
    """Cross-entropy on the clean examples; draws nothing."""

    status: ClassVar[Status] = Status("none")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        logits = net(x)
        return Losses(F.cross_entropy(logits, y), logits)
