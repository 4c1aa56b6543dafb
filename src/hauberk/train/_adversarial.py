"""What the objectives of adversarial training share: perturb within a threat, then take a loss of clean and perturbed examples.

    objective(net, x, y) = loss(net, x, perturb(net, x, y), y)

The two verbs stand apart so that what sharpens an objective (adversarial weight perturbation) can go between them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.threat import Ball, ThreatModel
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Climb, Inner, InnerPGD

__all__ = ["Adversarial", "in_mode"]


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Base of the objectives that learn from perturbed examples; a subclass says `loss`, and `climb` where it is not cross-entropy.

    Args:
        threat: what the inner maximiser may do: a norm and one radius, such as `linf:0.3`.
        inner: the inner maximiser.
        bounds: the range of the input.
        mode: `eval` or `train`: what batch norm and dropout do while the inner maximiser works. In `eval` no running statistics move.

    Raises:
        ThreatError: the threat cannot be read.
        SettingError: a threat without exactly one radius, or no ball of a norm; an unknown mode.
    """

    status: ClassVar[Status]

    threat: ThreatModel | str = "linf:0.3"
    inner: Inner = field(default_factory=InnerPGD)
    bounds: tuple[float, float] = (0.0, 1.0)
    mode: str = "eval"

    def __post_init__(self) -> None:
        threat = ThreatModel.parse(self.threat)
        object.__setattr__(self, "threat", threat)
        if len(threat.radii) != 1 or threat.chart is not None:
            raise SettingError(
                f"adversarial training needs a norm and one radius, got {threat}; write for example linf:0.3"
            )
        if threat.goal != "untargeted" or threat.grid is not None:
            raise SettingError(
                f"adversarial training takes a threat without goal and grid, got {threat}; write {threat.norm}:{threat.radius:g}"
            )
        if self.mode not in ("eval", "train"):
            raise SettingError(f"the mode of the inner maximiser is eval or train, got {self.mode!r}")
        _ = self.ball  # bounds that are no range are refused here

    @property
    def ball(self) -> Ball:
        """The region around each example."""
        return ThreatModel.parse(self.threat).ball(self.bounds)

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        """(B, *shape) the perturbed examples, detached."""
        with in_mode(net, training=self.mode == "train"):
            return self.inner(self.climb(net, x, y), x, self.ball, streams=streams, at=at)

    def climb(self, net: nn.Module, x: Batch, y: Labels) -> Climb:
        """What the inner maximiser makes large: the cross-entropy."""
        return lambda z, rows: F.cross_entropy(net(z), y[rows], reduction="none")

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        """The loss of clean examples x and perturbed ones z."""
        raise NotImplementedError

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        return self.loss(net, x, self.perturb(net, x, y, streams=streams, at=at), y, at=at)


@contextmanager
def in_mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """Inside, the net is in training or in evaluation mode; afterwards each of its modules is as it was."""
    before: dict[Any, bool] = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was
