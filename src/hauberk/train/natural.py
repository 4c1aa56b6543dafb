"""Natural training: the mean cross-entropy of the clean examples. Cost: one forward and one backward per example."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.train._objective import Losses

__all__ = ["Natural"]


@dataclass(frozen=True)
class Natural:
    """Cross-entropy on the clean examples; draws nothing."""

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams) -> Losses:
        logits = net(x)
        return Losses(F.cross_entropy(logits, y), logits)
