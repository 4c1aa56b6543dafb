"""Free adversarial training: one backward moves the weights and the perturbation, and each batch is seen m times in a row.

    for each batch, m times:
        loss = mean l(f(clip(x + d)), y);  g_w, g_d = its gradients, from one backward
        w <- w - rate * g_w;               d <- clip_radius(d + step * sign(g_d))

d is kept from visit to visit and handed on to the next batch, row by row. One epoch costs m forwards and m backwards an
example, so a training of N epochs elsewhere is one of N / m here.

Source: Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein 2019, "Adversarial training for free!",
arXiv:1904.12843, algorithm 1. The authors' settings: m = 8 (CIFAR-10, 8/255), m = 4 (ImageNet, 4/255); the step is the radius.

**Differs from the paper:** norms other than L-infinity step along their steepest direction and are projected; `start="uniform"`
draws d anew for each batch, which makes a training independent of how its batches were cut (with `carried`, row k of a
batch, or of a process's part of it, begins where row k of the one before ended; rows that a shorter batch did not have begin at 0).

**Status:** partial; it steps once between changes of the weights, and collapses at larger radii as one-step training does
(Andriushchenko, Flammarion 2020, arXiv:2007.02617).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.threat import Norm
from hauberk.train._adversarial import Adversarial
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Inner, InnerPGD

__all__ = ["Free"]


@dataclass(frozen=True, kw_only=True)
class Free(Adversarial):
    """Cost: one forward and one backward an example and step; `replays` steps a batch.

    The perturbation moves when the loss goes backwards, so `at.memory` is written then.

    Args:
        threat: a norm (not l0) and a radius.
        inner: not to be set: the perturbation moves with the weights.
        mode: not to be set: one pass serves both, in training mode.
        replays: m, how often a batch is seen in a row, >= 1.
        step: how far the perturbation moves, in radii, > 0.
        start: `carried` from the batch before (zero at first), or `uniform`, drawn for each batch.

    Raises:
        SettingError: a setting out of range; an unknown start; a batch that changed between its visits.
    """

    status: ClassVar[Status] = Status("partial", "Andriushchenko, Flammarion 2020, arXiv:2007.02617")

    inner: Inner = field(default_factory=InnerPGD, init=False, repr=False, compare=False)
    mode: str = field(default="train", init=False, repr=False, compare=False)
    replays: int = 8
    step: float = 1.0
    start: str = "carried"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ball.norm is Norm.L0:
            raise SettingError(f"free training needs a norm with lengths, got {self.threat}; use linf, l2 or l1")
        if self.replays < 1:
            raise SettingError(f"free training needs replays >= 1, got {self.replays}")
        if not (math.isfinite(self.step) and self.step > 0):
            raise SettingError(f"free training needs a finite step > 0 (in radii), got {self.step}")
        if self.start not in ("carried", "uniform"):
            raise SettingError(f"the start of free training is carried or uniform, got {self.start!r}")

    @property
    def visits(self) -> int:
        """How often each batch is seen in a row."""
        return self.replays

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        delta = self._delta(x, streams, at)
        at.memory["free.delta"], at.memory["free.ids"] = delta, streams.ids.clone()
        return (x + delta).clamp_(*self.bounds)

    def _delta(self, x: Batch, streams: Streams, at: Moment) -> Batch:
        kept, ids = at.memory.get("free.delta"), at.memory.get("free.ids")
        if at.visit and kept is not None and ids is not None:
            if not torch.equal(ids, streams.ids):
                raise SettingError(
                    f"free training needs the same batch at each of its {self.replays} visits, got other examples; "
                    "let the trainer repeat it, or clear at.memory"
                )
            return kept
        if self.start == "uniform":
            rows = torch.arange(len(x), device=x.device)
            return self.ball.norm.sample(streams, rows, x, self.ball.radius)
        delta = torch.zeros_like(x)
        if kept is not None and kept.shape[1:] == x.shape[1:]:
            count = min(len(kept), len(x))
            delta[:count] = kept[:count].to(delta)
        return delta

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        leaf = z.detach().requires_grad_()
        logits = net(leaf)
        memory, delta = at.memory, at.memory["free.delta"]
        passed = ((x + delta) == z).to(z)  # where the range of the input cuts, the loss does not depend on d

        def move(gradient: Tensor) -> None:
            along = self.ball.norm.steepest(gradient.nan_to_num(0.0, 0.0, 0.0) * passed)
            radius = self.ball.radius
            memory["free.delta"] = self.ball.norm.project(delta + self.step * radius * along, radius).detach()

        leaf.register_hook(move)
        return Losses(F.cross_entropy(logits, y), logits)
