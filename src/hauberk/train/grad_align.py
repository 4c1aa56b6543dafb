"""GradAlign: keep the input gradient at the example and at a random point nearby parallel, so that one step stays a good step.

    weight * E [ 1 - cos( g(x), g(x + d) ) ],    g(x) = grad_x l(f(x), y),    d uniform in the ball of the radius

A net that collapses in fast adversarial training bends between x and x + d until the two gradients are orthogonal.

Source: Andriushchenko, Flammarion 2020, "Understanding and improving fast adversarial training", arXiv:2007.02617. The authors'
weights: 0.2 on CIFAR-10 at 8/255, larger for larger radii; with FGSM that starts at the example and steps 1 radius.

**Differs from the paper:** nothing in the value. As in the authors' program, x + d is not clipped to the range of the input,
and the weights learn through g(x + d) alone unless `both` is set; examples without gradient count 0 here and are left out of
the mean there.

**Status:** partial; it prevents the collapse of fast adversarial training and is no defense without it (the paper; de Jorge
et al. 2022, arXiv:2202.01181, reach the same by more noise).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.threat import ThreatModel
from hauberk.train._adversarial import in_mode
from hauberk.train._input_gradients import cosine, loss_gradients
from hauberk.train._objective import Moment
from hauberk.train._status import Status

__all__ = ["GradAlign"]


@dataclass(frozen=True, kw_only=True)
class GradAlign:
    """A regulariser. Cost: two forwards, two backwards and one backward through a backward (two with `both`).

    Args:
        weight: > 0.
        threat: norm and radius of the ball that d is drawn from.
        both: let the weights learn through g(x) too.
        mode: `train` or `eval`: what batch norm and dropout do here.

    Raises:
        ThreatError: the threat cannot be read.
        SettingError: a weight that is not a positive number; a threat without exactly one radius; an unknown mode.
    """

    status: ClassVar[Status] = Status("partial", "Andriushchenko, Flammarion 2020, arXiv:2007.02617")

    weight: float = 0.2
    threat: ThreatModel | str = "linf:0.3"
    both: bool = False
    mode: str = "train"

    def __post_init__(self) -> None:
        threat = ThreatModel.parse(self.threat)
        object.__setattr__(self, "threat", threat)
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise SettingError(f"gradient alignment needs a finite weight > 0, got {self.weight}")
        if len(threat.radii) != 1 or threat.chart is not None:
            raise SettingError(
                f"gradient alignment needs a norm and one radius, got {threat}; write for example linf:0.3"
            )
        if self.mode not in ("eval", "train"):
            raise SettingError(f"the mode of gradient alignment is eval or train, got {self.mode!r}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Tensor:
        threat = ThreatModel.parse(self.threat)
        d = threat.norm.sample(streams, torch.arange(len(x)), x, threat.radius)
        with in_mode(net, training=self.mode == "train"):
            here = loss_gradients(net, x, y, attached=self.both)
            there = loss_gradients(net, x + d, y, attached=True)
        return self.weight * (1 - cosine(here, there)).mean()
