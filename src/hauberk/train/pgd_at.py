"""Adversarial training: the cross-entropy at the worst point that projected gradient ascent finds.

    min_w E max_{z in region(x)} l(f_w(z), y)

Source: Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv:1706.06083, eq. 2.1 and section 3.

**Differs from the paper:** the inner ascent runs in evaluation mode unless told otherwise; any norm.

**Status:** holds within the norm and radius it was trained with (the one defense whose claim stood when Athalye, Carlini, Wagner
2018, arXiv:1802.00420, tested nine adaptively; AutoAttack, arXiv:2003.01690, has the figures).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from hauberk._shapes import Batch, Labels
from hauberk.train._adversarial import Adversarial
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["PGDAT"]


@dataclass(frozen=True, kw_only=True)
class PGDAT(Adversarial):
    """Cross-entropy of the perturbed examples. Cost: the inner maximiser's, one forward and one backward."""

    status: ClassVar[Status] = Status("holds", "Athalye, Carlini, Wagner 2018, arXiv:1802.00420")

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        logits = net(z)
        return Losses(F.cross_entropy(logits, y), logits)
