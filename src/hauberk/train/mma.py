"""MMA, max-margin adversarial training: each example learns at its own distance from the boundary, up to a distance that is enough.

With f the scores, s(z) = log sum_{k != y} exp f_k(z) - f_y(z) the soft logit margin, and d_i the smallest change that brings s to 0:

    loss = c * mean_i l(f(x_i), y_i) + (1 - c) / m * ( sum_{i right, |d_i| < d_max} l(f(x_i + d_i), y_i) + sum_{i wrong} l(f(x_i), y_i) )

An example is right where s(x_i) < 0. d_i is sought as follows (AN-PGD): projected ascent of s within the radius that this example
had at its last visit, then bisection of the length along the direction found, from 0 to 1.05 * d_max. Descending at the
boundary widens the margin; beyond d_max nothing is asked any more.

Source: Ding, Sharma, Lui, Huang 2020, "MMA training: direct input space margin maximization through adversarial training",
arXiv:1812.02637, algorithm 1 and its AN-PGD. The authors' settings: c = 1/3, 10 bisections, steps of 2.5 radii / `steps`; MNIST:
40 steps, d_max 0.45 in L-infinity, first radius 0.1; CIFAR-10: 10 steps, first radius 0.005, d_max 12/255, 20/255 or 32/255.

**Differs from the paper:**

- d_i is clipped to the range of the input in the end too, not only while it is sought;
- right and wrong are told apart by a forward of its own, and the length is bisected, in the mode of the inner maximiser (the authors'
  program bisects in training mode);
- l at the boundary is the cross-entropy, as in the authors' program, whose gradient there is half that of s, or s itself;
- in several processes, or with gradient accumulation, each part of a batch remembers the radii of its own examples.

**Status:** partial; the table of AutoAttack (Croce, Hein 2020, arXiv:2003.01690) takes up to 5.7 points off the authors' figures on
CIFAR-10 (47.2 to 41.4 %).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows, like
from hauberk.errors import SettingError
from hauberk.threat import Norm, ThreatModel
from hauberk.train._adversarial import Adversarial, in_mode
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Climb, Inner, InnerPGD, ascent_direction

__all__ = ["MMA"]

_BEYOND = 1.05
"""How far the search goes, in d_max: what it cannot break there is told apart from what falls just within."""


@dataclass(frozen=True, kw_only=True)
class MMA(Adversarial):
    """Cost an example: 3 forwards and 2 backwards; where it is right, `steps` of both and `bisections` forwards besides.

    Args:
        threat: a norm (not l0) and d_max, which should lie above the radius that matters.
        inner: not to be set: the inner maximiser is AN-PGD.
        steps: of ascent, >= 1.
        bisections: of the length, >= 1.
        first: the radius that an example's first search ascends in, and the least later on, in d_max, in (0, 1].
        clean: c, the weight of the clean examples' cross-entropy, in [0, 1).
        at_boundary: the loss there: `cross-entropy` or `soft-margin`.

    Raises:
        SettingError: a setting out of range, or l0.
    """

    status: ClassVar[Status] = Status("partial", "Croce, Hein 2020, arXiv:2003.01690")

    inner: Inner = field(default_factory=InnerPGD, init=False, repr=False, compare=False)
    threat: ThreatModel | str = "linf:0.45"
    steps: int = 10
    bisections: int = 10
    first: float = 0.2
    clean: float = 1 / 3
    at_boundary: str = "cross-entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ball.norm is Norm.L0:
            raise SettingError(f"mma needs a norm whose lengths can be bisected, got {self.threat}; use linf, l2 or l1")
        if self.steps < 1 or self.bisections < 1:
            raise SettingError(
                f"mma needs steps >= 1 and bisections >= 1, got steps={self.steps} and bisections={self.bisections}"
            )
        if not 0 < self.first <= 1:
            raise SettingError(f"mma needs a first radius in (0, 1] of d_max, got {self.first}")
        if not 0 <= self.clean < 1:
            raise SettingError(f"mma needs a weight of the clean examples in [0, 1), got {self.clean}")
        if self.at_boundary not in ("cross-entropy", "soft-margin"):
            raise SettingError(f"mma's loss at the boundary is cross-entropy or soft-margin, got {self.at_boundary!r}")

    @property
    def largest(self) -> float:
        """d_max."""
        return ThreatModel.parse(self.threat).radius

    def climb(self, net: nn.Module, x: Batch, y: Labels) -> Climb:
        """The soft logit margin."""
        return lambda z, rows: soft_margin(net(z), y[rows])

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        """(B, *shape) where each example meets the boundary, or 1.05 d_max away; the example itself where it is wrong."""
        z, radii = x.clone(), x.new_zeros(len(x))
        with in_mode(net, training=self.mode == "train"):
            climb = self.climb(net, x, y)
            with torch.no_grad():
                right = (climb(x, torch.arange(len(x), device=x.device)) < 0).nonzero().flatten()
            if len(right):
                least = self.first * self.largest
                last = recall(at.memory, streams.ids[right], x.new_full((len(right),), least)).clamp_min(least)
                z[right], radii[right] = self._shortest(climb, x[right], right, last, streams)
        keep(at.memory, streams.ids, radii)
        at.memory["mma.batch"] = radii
        return z

    def _shortest(
        self, climb: Climb, x: Batch, rows: Rows, radius: PerExample, streams: Streams
    ) -> tuple[Batch, PerExample]:
        ball = self.ball.with_radius(radius)
        z = ball.start(x, rows, streams)
        for _ in range(self.steps):
            _, gradient = ascent_direction(climb, z, rows)
            z = ball.project(ball.step(z, gradient, radius * 2.5 / self.steps), x)
        unit = (z - x) / like(radius, x)

        def along(length: PerExample) -> Batch:
            return (x + like(length, x) * unit).clamp_(*self.bounds)

        low, high, length = torch.zeros_like(radius), torch.full_like(radius, _BEYOND * self.largest), radius
        with torch.no_grad():
            for _ in range(self.bisections):
                broken = climb(along(length), rows) >= 0
                low, high = torch.where(broken, low, length), torch.where(broken, length, high)
                length = (low + high) / 2
        return along(length), length

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        radii = at.memory["mma.batch"]
        wrong, learn = radii == 0, radii < self.largest
        logits, moved = net(x), net(z)
        there = F.cross_entropy(moved, y, reduction="none")
        if self.at_boundary == "soft-margin":
            there = torch.where(wrong, there, soft_margin(moved, y))
        total = (1 - self.clean) * torch.where(learn, there, torch.zeros_like(there)).mean()
        if self.clean:
            total = total + self.clean * F.cross_entropy(logits, y)
        found = {"margin": radii.clamp_max(self.largest).mean().item(), "right": 1 - wrong.double().mean().item()}
        return Losses(total, moved, found)


def soft_margin(logits: Logits, y: Labels) -> PerExample:
    """log sum_{k != y} exp f_k - f_y: below 0 where the likelihood of y is above one half."""
    return logits.scatter(1, y[:, None], -math.inf).logsumexp(dim=1) - logits.gather(1, y[:, None])[:, 0]


def recall(memory: dict[str, Tensor], ids: Tensor, otherwise: PerExample) -> PerExample:
    """What `keep` kept for these examples; `otherwise` where it kept nothing."""
    known, kept = memory.get("mma.ids"), memory.get("mma.radii")
    if known is None or kept is None or not len(known):
        return otherwise
    place = torch.searchsorted(known, ids).clamp_max(len(known) - 1)
    return torch.where(known[place] == ids, kept[place].to(otherwise), otherwise)


def keep(memory: dict[str, Tensor], ids: Tensor, values: PerExample) -> None:
    """One number for each example, by its id; the ids are sorted."""
    known, kept = memory.get("mma.ids"), memory.get("mma.radii")
    if known is not None and kept is not None:
        others = ~torch.isin(known, ids)
        ids, values = torch.cat((known[others], ids)), torch.cat((kept[others], values.to(kept)))
    order = ids.argsort()
    memory["mma.ids"], memory["mma.radii"] = ids[order].clone(), values[order].clone()
