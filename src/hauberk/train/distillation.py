"""Defensive distillation: a student learns the probabilities of a teacher, both at a high temperature.

    p_T(z) = softmax(z / T)

    teacher    min E  -log p_T(t(x))_y                        `Distillation(temperature=T)`
    student    min E  -sum_k p_T(t(x))_k log p_T(f(x))_k      `Distillation(temperature=T, teacher=Teacher(net))`

Both are the same architecture. The student is used at temperature 1, where its scores are about T times as far apart as those
of an ordinary net: the softmax saturates, and gradients of the cross-entropy vanish in float32.

Source: Papernot, McDaniel, Wu, Jha, Swami 2016, "Distillation as a defense to adversarial perturbations against deep neural
networks", arXiv:1511.04508, which compares temperatures from 1 to 100.

**Differs from the paper:** none known. The gradient is not multiplied by T^2, as distillation for compression does.

**Status:** broken by Carlini, Wagner 2016, arXiv:1607.04311, who divide the scores by T before the softmax, and by their attacks
on scores (arXiv:1608.04644), with 100 % success. It is here to be broken and to test what reads gradients.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._losses import soft_cross_entropy
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train._teacher import Teacher

__all__ = ["Distillation"]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Cost: one forward and one backward, and one forward of the teacher, which the trainer's counts leave out.

    Args:
        temperature: T, > 0.
        teacher: whose probabilities are learnt; None: the labels are, as the teacher itself does.

    Raises:
        SettingError: a temperature that is not a positive number; a teacher that is a bare net.
    """

    status: ClassVar[Status] = Status("broken", "Carlini, Wagner 2016, arXiv:1607.04311")

    temperature: float = 20.0
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SettingError(f"distillation needs a finite temperature > 0, got {self.temperature}")
        if isinstance(self.teacher, nn.Module):
            raise SettingError(
                f"distillation needs a Teacher, got {type(self.teacher).__name__}; write teacher=Teacher(net)"
            )

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        logits = net(x)
        warm = logits / self.temperature
        if self.teacher is None:
            return Losses(F.cross_entropy(warm, y), logits)
        targets = (self.teacher(x) / self.temperature).softmax(dim=1)
        return Losses(soft_cross_entropy(warm, targets).mean(), logits)
