"""Input-gradient regularisation, or double backpropagation: a penalty on how steeply the loss rises with the input.

    weight * E |grad_x l(f(x), y)|_q ^ power

To first order, the loss rises within a p-ball by the radius times the dual norm of this gradient: `l1` (power 1) speaks to an
L-infinity threat, `l2` to an L2 threat.

Source: Ross, Doshi-Velez 2018, "Improving the adversarial robustness and interpretability of deep neural networks by
regularizing their input gradients", arXiv:1711.09404 (the squared L2 norm), after Drucker, LeCun 1992, "Improving
generalization performance using double backpropagation" (half of it). The tie of norm and threat: Simon-Gabriel et al. 2019,
arXiv:1802.01421.

**Differs from the paper:** the mean over examples, not their sum; other norms and powers.

**Status:** partial; it speaks of small radii only, where the loss is straight (Moosavi-Dezfooli et al. 2019, arXiv:1811.09716, on why
the curvature matters too). Finlay, Oberman 2019, arXiv:1905.11468, find a variant of it competitive with adversarial training; no test
by others that know it is known to us.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, flat
from hauberk.errors import SettingError
from hauberk.train._adversarial import in_mode
from hauberk.train._input_gradients import loss_gradients
from hauberk.train._objective import Moment
from hauberk.train._status import Status

__all__ = ["GradientPenalty"]


@dataclass(frozen=True, kw_only=True)
class GradientPenalty:
    """A regulariser. Cost: one forward, one backward and one backward through it.

    Args:
        weight: > 0.
        norm: of the gradient: `l1`, `l2` or `linf`.
        power: 1 or 2.
        mode: `train` or `eval`: what batch norm and dropout do here.

    Raises:
        SettingError: a setting out of range.
    """

    status: ClassVar[Status] = Status("partial", "Moosavi-Dezfooli et al. 2019, arXiv:1811.09716")

    weight: float = 0.1
    norm: str = "l2"
    power: int = 2
    mode: str = "train"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise SettingError(f"the gradient penalty needs a finite weight > 0, got {self.weight}")
        if self.norm not in ("l1", "l2", "linf"):
            raise SettingError(f"the gradient penalty's norm is l1, l2 or linf, got {self.norm!r}")
        if self.power not in (1, 2):
            raise SettingError(f"the gradient penalty's power is 1 or 2, got {self.power}")
        if self.mode not in ("eval", "train"):
            raise SettingError(f"the mode of the gradient penalty is eval or train, got {self.mode!r}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Tensor:
        with in_mode(net, training=self.mode == "train"):
            gradients = flat(loss_gradients(net, x, y, attached=True))
        if self.norm == "l2" and self.power == 2:  # a square root would have no derivative at 0
            size = gradients.square().sum(dim=1)
        else:
            order = {"l1": 1.0, "l2": 2.0, "linf": math.inf}[self.norm]
            size = torch.linalg.vector_norm(gradients, order, dim=1) ** self.power
        return self.weight * size.mean()
