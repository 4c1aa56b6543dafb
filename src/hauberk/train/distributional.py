"""Adversarial distributional training, explicit (ADT-EXP): a distribution of perturbations for each example, kept broad by its entropy.

    min_w E_(x,y) max_{m, s} E_{r ~ N(0, I)} [ l(f_w(x + d), y) - lambda * log q(d) ],    d = eps * tanh(m + s * r)

in which, for one value of the input, -log q(d) = r^2 / 2 + log s + log(1 - tanh(m + s r)^2) + constants; the entropy is the
mean over the values. m starts at 0 and s = softplus(v) at v = 0. Each of `steps` steps estimates the gradients by m and v from
`samples` draws and makes a step of Adam, both of whose decays are 0: `step_size` * g / (|g| + 1e-8). The weights then learn at
one further draw.

Source: Deng, Dong, Pang, Su, Zhu 2020, "Adversarial distributional training for robust deep learning", arXiv:2002.05999,
algorithm 1 and the authors' program, whose settings are the defaults: lambda 0.01, 7 steps of 0.3, 5 samples (CIFAR-10, 8/255).

**Differs from the paper:** only the explicit variant is here (not those whose distribution a generator network draws);
gradients of an example do not depend on the size of its batch; each step follows its own gradient, where the authors' program never
clears them, so that its steps follow the sum of all so far.

**Status:** partial; the authors try it under PGD, MIM, Carlini and Wagner's, feature and score attacks; no test by others that know it is
known to us.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample, flat
from hauberk.errors import SettingError
from hauberk.threat import Norm
from hauberk.train._adversarial import Adversarial, in_mode
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Inner, InnerPGD

__all__ = ["Distributional"]


@dataclass(frozen=True, kw_only=True)
class Distributional(Adversarial):
    """Cost: `steps` * `samples` + 1 forwards and backwards an example.

    Args:
        threat: an L-infinity radius.
        inner: not to be set: see above.
        entropy: lambda, >= 0; at 0 the distributions shrink to points.
        steps: of Adam, >= 1.
        samples: draws a step, >= 1.
        step_size: of Adam, > 0; in the units of m and v, whatever the radius.

    Raises:
        SettingError: another norm, or a setting out of range.
    """

    status: ClassVar[Status] = Status("partial", "Deng et al. 2020, arXiv:2002.05999")

    inner: Inner = field(default_factory=InnerPGD, init=False, repr=False, compare=False)
    entropy: float = 0.01
    steps: int = 7
    samples: int = 5
    step_size: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ball.norm is not Norm.LINF:
            raise SettingError(
                f"distributional training needs an L-infinity radius, got {self.threat}; write for example linf:0.3"
            )
        if not (math.isfinite(self.entropy) and self.entropy >= 0):
            raise SettingError(f"distributional training needs a finite weight of the entropy >= 0, got {self.entropy}")
        if self.steps < 1 or self.samples < 1:
            raise SettingError(
                f"distributional training needs steps >= 1 and samples >= 1, got {self.steps} and {self.samples}"
            )
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise SettingError(f"distributional training needs a finite step_size > 0, got {self.step_size}")

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        """One draw for each example from the distribution that was found for it."""
        mean, spread = torch.zeros_like(x), torch.zeros_like(x)
        rows = torch.arange(len(x), device=x.device)
        with in_mode(net, training=self.mode == "train"):
            climb = self.climb(net, x, y)
            for _ in range(self.steps):
                along = [torch.zeros_like(x), torch.zeros_like(x)]
                for _ in range(self.samples):
                    noise = streams.normal(rows, x.shape[1:], dtype=x.dtype)
                    leaves = [mean.detach().requires_grad_(), spread.detach().requires_grad_()]
                    with torch.enable_grad():
                        delta = torch.tanh(leaves[0] + F.softplus(leaves[1]) * noise)
                        value = climb((x + self.ball.radius * delta).clamp(*self.bounds), rows)
                        if self.entropy:
                            value = value + self.entropy * surprise(noise, F.softplus(leaves[1]), delta)
                        gradients = torch.autograd.grad(value.sum(), leaves)
                    along = [kept + new.nan_to_num(0.0, 0.0, 0.0) for kept, new in zip(along, gradients, strict=True)]
                mean, spread = (
                    old + self.step_size * g / (g.abs() + 1e-8) for old, g in zip((mean, spread), along, strict=True)
                )
        noise = streams.normal(rows, x.shape[1:], dtype=x.dtype)
        at.memory["distributional.spread"] = F.softplus(spread).mean()
        return (x + self.ball.radius * torch.tanh(mean + F.softplus(spread) * noise)).clamp_(*self.bounds)

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        logits = net(z)
        return Losses(F.cross_entropy(logits, y), logits, {"spread": at.memory["distributional.spread"].item()})


def surprise(noise: Tensor, deviation: Tensor, delta: Tensor) -> PerExample:
    """(B,) the mean over the values of -log q(delta), without its constants."""
    return flat(noise.square() / 2 + (deviation + 1e-8).log() + (1 - delta.square() + 1e-8).log()).mean(dim=1)
