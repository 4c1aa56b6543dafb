"""Label smoothing: cross-entropy against targets that give a share of the mass away.

    min_w E  -sum_k q_k log p_k(x),    q = (1 - alpha) * onehot(y) + alpha * s(x)

    standard      s uniform over all classes                        (SLS)
    adversarial   s all on the class of the lowest score            (ALS)
    boltzmann     s_k proportional to exp(-z_k / temperature)       (BALS)
    second-best   s all on the best class other than y              (SBALS)

z are the scores at x; they are constants in s: no gradient goes through the target. BALS is ALS at temperature 0 and SLS at
infinity.

Source: Szegedy et al. 2016, "Rethinking the Inception architecture", arXiv:1512.00567, section 7 (standard); Goibert,
Dohmatob 2019, "Adversarial robustness via label-smoothing", arXiv:1906.11567 (the others).

**Differs from the paper:** none known.

**Status:** broken: it flattens the loss where attacks look for a slope, and examples made on a net trained without it carry
over (Fu et al. 2020, "Label smoothing and adversarial robustness", arXiv:2009.08233).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Logits
from hauberk.errors import SettingError
from hauberk.train._losses import soft_cross_entropy
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["LabelSmoothing"]


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing:
    """Cost: one forward and one backward.

    Args:
        alpha: the share of the mass that is given away, in [0, 1).
        kind: `standard`, `adversarial`, `boltzmann` or `second-best`.
        temperature: of `boltzmann`, > 0.

    Raises:
        SettingError: a setting out of range, or an unknown kind.
    """

    status: ClassVar[Status] = Status("broken", "Fu et al. 2020, arXiv:2009.08233")

    alpha: float = 0.1
    kind: str = "standard"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise SettingError(f"label smoothing needs alpha in [0, 1), got {self.alpha}")
        if self.kind not in ("standard", "adversarial", "boltzmann", "second-best"):
            raise SettingError(
                f"the kind of label smoothing is standard, adversarial, boltzmann or second-best, got {self.kind!r}"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SettingError(f"label smoothing needs a finite temperature > 0, got {self.temperature}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        logits = net(x)
        return Losses(soft_cross_entropy(logits, self.targets(logits, y)).mean(), logits)

    def targets(self, logits: Logits, y: Labels) -> Tensor:
        """(B, classes) the target distributions q, detached."""
        scores = logits.detach()
        classes = scores.shape[1]
        if self.kind == "standard":
            spread = torch.full_like(scores, 1 / classes)
        elif self.kind == "boltzmann":
            spread = (-scores / self.temperature).softmax(dim=1)
        else:
            if self.kind == "adversarial":
                chosen = scores.argmin(dim=1)
            else:
                chosen = scores.scatter(1, y[:, None], -torch.inf).argmax(dim=1)
            spread = F.one_hot(chosen, classes).to(scores)
        return (1 - self.alpha) * F.one_hot(y, classes).to(scores) + self.alpha * spread
