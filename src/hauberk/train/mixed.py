"""Mixed training: some examples of a batch are perturbed by one step of a length of their own, and weigh less than the clean ones.

With k of m examples perturbed, l the cross-entropy and z_i the perturbed example:

    loss = (sum_clean l(f(x_i), y_i) + weight * sum_perturbed l(f(z_i), y_i)) / (m - k + weight * k)
    z_i = x_i - e_i * sign(grad l(f(x_i), t_i)),    t_i the least likely class, or a random wrong one,
    z_i = x_i + e_i * sign(grad l(f(x_i), y_i))     to leave the true class
    e_i = radius * |N(0, 1/2)|, restricted to at most 1

All examples go through the net in one batch, so batch norm sees the mixture.

Source: Kurakin, Goodfellow, Bengio 2017, "Adversarial machine learning at scale", arXiv:1611.01236, algorithm 1: m = 32, k =
16, weight 0.3, lengths from a normal of deviation 8 restricted to [0, 16] in steps of 1/255, so half the radius of 16/255.
They advise against the true class: the net learns to read the label off the step ("label leaking").

**Differs from the paper:**

- who is perturbed is drawn for each example with probability `share` = k/m from its own stream, so that no batch mate decides
  it; k is then `share` * m on average, and it is this mean that stands in the denominator;
- an example whose step leads nowhere (no gradient) is the clean example and counts as one;
- other norms than L-infinity step along their own steepest direction;
- the random class is never the true one.

**Status:** broken: one step is learnt by heart, and several steps, or one from a random start, succeed (Tramèr, Kurakin,
Papernot, Goodfellow, Boneh, McDaniel 2018, "Ensemble adversarial training", arXiv:1705.07204; the paper itself finds no
robustness to iterated steps).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample, flat, wide
from hauberk.errors import SettingError
from hauberk.train._adversarial import Adversarial, in_mode
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Inner, InnerPGD

__all__ = ["Mixed"]


@dataclass(frozen=True, kw_only=True)
class Mixed(Adversarial):
    """Cost: two forwards and two backwards an example.

    Args:
        inner: not to be set: the inner maximiser is the one step.
        target: `least-likely`, `random` or `true`.
        share: the probability that an example is perturbed, in [0, 1].
        weight: of a perturbed example against a clean one, > 0.

    Raises:
        SettingError: a setting out of range, or an unknown target.
    """

    status: ClassVar[Status] = Status("broken", "Tramèr et al. 2018, arXiv:1705.07204")

    inner: Inner = field(default_factory=InnerPGD, init=False, repr=False, compare=False)
    target: str = "least-likely"
    share: float = 0.5
    weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in ("least-likely", "random", "true"):
            raise SettingError(f"the target of mixed training is least-likely, random or true, got {self.target!r}")
        if not 0 <= self.share <= 1:
            raise SettingError(f"mixed training needs a share between 0 and 1, got {self.share}")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise SettingError(f"mixed training needs a finite weight > 0, got {self.weight}")

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        """(B, *shape): one step for those that are drawn, the example itself for the others."""
        rows = torch.arange(len(x))
        drawn = streams.uniform(rows, ()).to(x.device) < self.share
        size = self._lengths(streams, rows).to(x)
        with in_mode(net, training=self.mode == "train"):
            leaf = x.detach().requires_grad_()
            logits = net(leaf)
            sought = self._sought(logits.detach(), y, streams, rows)
            sign = 1.0 if self.target == "true" else -1.0
            (gradient,) = torch.autograd.grad(sign * F.cross_entropy(logits, sought, reduction="sum"), leaf)
        ball = self.ball
        z = ball.project(ball.step(x, gradient, size), x)
        return torch.where(wide(drawn, x), z, x)

    def _lengths(self, streams: Streams, rows: Tensor) -> PerExample:
        """(B,) |N(0, 1/2)| restricted to at most 1, in radii: its distribution function, inverted at a uniform number."""
        u = streams.uniform(rows, (), dtype=torch.float64)
        return torch.erfinv(u * math.erf(math.sqrt(2))) / math.sqrt(2) * self.ball.radius

    def _sought(self, logits: Tensor, y: Labels, streams: Streams, rows: Tensor) -> Labels:
        if self.target == "true":
            return y
        if self.target == "least-likely":
            return logits.argmin(dim=1)
        other = streams.integers(rows, logits.shape[1] - 1).to(y.device)
        return other + (other >= y)

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        logits = net(z)
        moved = flat(z != x).any(dim=1)
        weights = torch.ones_like(logits[:, 0]).masked_fill_(moved, self.weight)
        total = (weights * F.cross_entropy(logits, y, reduction="none")).mean()
        return Losses(
            total / (1 - self.share + self.weight * self.share), logits, {"perturbed": moved.double().mean().item()}
        )
