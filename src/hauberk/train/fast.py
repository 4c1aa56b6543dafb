"""Fast adversarial training, FGSM-RS: one signed step from a random start, and the cross-entropy there.

With f the net, l the cross-entropy, eps the radius and alpha the step:

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
- the loss is single precision throughout (the paper also trains in half precision).

One step can fail all at once ("catastrophic overfitting": accuracy under this very step rises while that under many steps
falls to 0; the paper describes it). Nothing here detects it: measure with `hauberk.evaluate`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._objective import Losses

__all__ = ["FastAdversarial"]


@dataclass(frozen=True)
class FastAdversarial:
    """Cross-entropy at one signed step from a uniform start. Cost: two forwards and two backwards per example.

    Args:
        radius: eps > 0, the L-infinity radius in the units of the input.
        step: alpha > 0, the length of the step; the paper advises 1.25 eps.
        bounds: the range of the input.

    Raises:
        SettingError: a radius or step that is not a positive number, or bounds that are no range.
    """

    radius: float = 0.3
    step: float = 0.375
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name, value in (("radius", self.radius), ("step", self.step)):
            if not (math.isfinite(value) and value > 0):
                raise SettingError(f"fast adversarial training needs a finite {name} > 0, got {value}")
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise SettingError(f"bounds need finite low < high, got {self.bounds}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams) -> Losses:
        rows = torch.arange(len(x))
        start = streams.uniform(rows, x.shape[1:], dtype=x.dtype).to(x.device)
        delta = ((2 * start - 1) * self.radius).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(x + delta), y), delta)
        delta = (delta.detach() + self.step * gradient.sign()).clamp_(-self.radius, self.radius)
        logits = net((x + delta).clamp_(*self.bounds))
        return Losses(F.cross_entropy(logits, y), logits)
