"""Fast adversarial training, FGSM-RS: one signed step from a random start, and the cross-entropy there.

With f the net, l the cross-entropy, eps the radius and alpha = `step` * eps:

    d ~ Uniform[-eps, eps], independently for each input value
    d <- clip(d + alpha * sign(grad_d l(f(x + d), y)), -eps, eps)
    loss = mean l(f(clip(x + d, low, high)), y)

Source: Wong, Rice, Kolter 2020, "Fast is better than free: revisiting adversarial training", arXiv:2001.03994,
algorithm 3; eps = 0.3 and alpha = 0.375 (1.25 eps) are its settings for MNIST.

**Differs from the paper:**

- the start is drawn from a stream of each example, not from one generator for the batch, so that a training resumed in
  the middle of an epoch repeats itself exactly;
- algorithm 3 leaves the range of the input implicit; here, as in the authors' program for MNIST, the start is not clipped to it
  and the perturbed example is;
- the loss is single precision throughout (the paper also trains in half precision);
- `start="clean"` takes the step from the example itself: FGSM training as it was before the paper, which collapses, and is here
  to show that and to try the detectors on.

One step can fail all at once ("catastrophic overfitting": accuracy under this very step rises while that under many steps
falls to 0; the paper describes it). Cures are `GradAlign`, a smaller step, or more steps of `PGDAT`.

**Status:** partial; it holds where it did not collapse, and collapses at larger radii or in longer trainings (Andriushchenko,
Flammarion 2020, arXiv:2007.02617).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.threat import Norm, ThreatModel
from hauberk.train._adversarial import Adversarial, in_mode
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Inner, InnerPGD, grown_ball

__all__ = ["FastAdversarial"]


@dataclass(frozen=True, kw_only=True)
class FastAdversarial(Adversarial):
    """Cross-entropy at one signed step from a uniform start. Cost: two forwards and two backwards per example.

    Args:
        threat: an L-infinity radius.
        inner: not to be set: the inner maximiser is the one step.
        mode: `train` by default, as the authors' program has it.
        step: alpha, the length of the step in radii, > 0; the paper advises 1.25.
        start: `uniform`, or `clean`, which collapses.
        ramp: the share of the training in which the radius grows in a straight line from 0 to its value; 0: none, as in the paper.

    Raises:
        SettingError: another norm, a step that is not a positive number, or an unknown start.
    """

    status: ClassVar[Status] = Status("partial", "Andriushchenko, Flammarion 2020, arXiv:2007.02617")

    inner: Inner = field(default_factory=InnerPGD, init=False, repr=False, compare=False)
    mode: str = "train"
    step: float = 1.25
    start: str = "uniform"
    ramp: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ball.norm is not Norm.LINF:
            raise SettingError(
                f"fast adversarial training needs an L-infinity radius, got {self.threat}; write for example linf:0.3, or use PGDAT"
            )
        if not (math.isfinite(self.step) and self.step > 0):
            raise SettingError(f"fast adversarial training needs a finite step > 0 (in radii), got {self.step}")
        if self.start not in ("uniform", "clean"):
            raise SettingError(f"the start of fast adversarial training is uniform or clean, got {self.start!r}")
        if not 0 <= self.ramp <= 1:
            raise SettingError(f"fast adversarial training needs a ramp between 0 and 1, got {self.ramp}")

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        radius = ThreatModel.parse(self.threat).radius * grown_ball(self.ball, self.ramp, at)[1]
        delta = torch.zeros_like(x)
        if self.start == "uniform":
            start = streams.uniform(torch.arange(len(x)), x.shape[1:], dtype=x.dtype).to(x.device)
            delta = (2 * start - 1) * radius
        delta.requires_grad_()
        with in_mode(net, training=self.mode == "train"):
            (gradient,) = torch.autograd.grad(F.cross_entropy(net(x + delta), y), delta)
        delta = (delta.detach() + self.step * radius * gradient.sign()).clamp_(-radius, radius)
        return (x + delta).clamp_(*self.bounds)

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        logits = net(z)
        return Losses(F.cross_entropy(logits, y), logits)
