"""Stages: one objective for the first part of a training, another for the rest.

    loss_k = first loss while k < at * steps, second loss from then on

The classical use is adversarial training followed by fine-tuning on clean examples, which buys back clean accuracy and pays
with robustness (compared in Xie et al. 2019, arXiv:1911.09665).

Each objective sees a training of its own: its steps and epochs are counted from 0 to those of its stage, so that a radius that
grows or a threshold that falls arrives where it should; the second does not see what the first remembered; the learning rate is
the recipe's.

**Status:** none; that of the last objective at best. Fine-tuning on clean examples undoes part of what was learnt before.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._objective import Around, Losses, Moment, Objective, finish, prepare, visits
from hauberk.train._status import Status

__all__ = ["Stages"]

_BEGUN = "stages.second"
"""In memory: the second stage has begun, and what the first remembered is gone."""


@dataclass(frozen=True, kw_only=True)
class Stages(Around):
    """Cost: that of the objective of the moment. The net is prepared for both from the beginning, and finished by both.

    Args:
        objective: of the first stage.
        then: of the second; None: the cross-entropy of clean examples.
        at: the share of the training at which the objective changes, 0 < at < 1.

    Raises:
        SettingError: a share out of range, or objectives that see a batch differently often.
    """

    status: ClassVar[Status] = Status("none")

    objective: Objective
    then: Objective | None = None
    at: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise SettingError(f"the objective changes at a share of the training between 0 and 1, got at={self.at}")
        first, second = self.visits, visits(self.then)
        if self.then is not None and first != second:
            raise SettingError(
                f"both stages must see each batch equally often, got {first} and {second} visits; give them the same number"
            )

    def prepare(self, net: nn.Module) -> nn.Module:
        """The net that both objectives need, made of this one."""
        return prepare(self.then, prepare(self.objective, net))

    def finish(self, net: nn.Module) -> nn.Module:
        """The net without what either objective added."""
        return finish(self.objective, finish(self.then, net))

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        bound = math.ceil(self.at * at.steps)
        if at.step < bound:
            moment = replace(at, steps=bound, epochs=max(1, math.ceil(self.at * at.epochs)))
            return self.objective(net, x, y, streams=streams, at=moment)
        if _BEGUN not in at.memory:
            at.memory.clear()
            at.memory[_BEGUN] = torch.ones((), dtype=torch.bool)
        past = math.floor(self.at * at.epochs)
        moment = replace(
            at, step=at.step - bound, steps=at.steps - bound, epoch=at.epoch - past, epochs=at.epochs - past
        )
        if self.then is None:
            logits = net(x)
            return Losses(F.cross_entropy(logits, y), logits)
        return self.then(net, x, y, streams=streams, at=moment)
