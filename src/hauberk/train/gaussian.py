"""Training under Gaussian noise, for nets that are to be smoothed: the cross-entropy at one noisy copy of each example.

    min_w  E l(f_w(x + d), y) + stability * KL(p_w(x) || p_w(x + d)),        d ~ N(0, sigma^2 I)

A net that is right on most noisy copies of an example is one whose smoothed net (`hauberk.certify.smoothing`) is right there with
a large certified radius; the sigma of both should be the same.

Source: Cohen, Rosenfeld, Kolter 2019, "Certified adversarial robustness via randomized smoothing", arXiv:1902.02918, section 3.3
(the first term); Li, Chen, Wang, Carin 2019, "Certified adversarial robustness with additive noise", arXiv:1809.03113, train their
certified nets with the second, which is from Zheng, Song, Leung, Goodfellow 2016, "Improving the robustness of deep neural networks
via stability training", arXiv:1604.04326.

**Differs from the paper:**

- the noise is drawn from a stream of each example, so that a training resumed in the middle of an epoch repeats itself exactly;
- stability training takes the first term at the clean example; here it stays at the noisy one;
- the second term is the divergence, not the cross-entropy of p(x) and p(x + d) of Zheng et al., so that it is 0 where both agree;
  they differ by the entropy of p(x), which the cross-entropy lowers too.

**Status:** certified; with the probability that the certificate states, and only for the smoothed net: the net that comes out
of this training vouches for nothing by itself.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._losses import divergence
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["Gaussian"]


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Cost: one forward and one backward per example, and one of each more where `stability` is not 0.

    Args:
        sigma: standard deviation of the noise on each input value, in the units of the input, > 0. The noisy copies are not
            clipped to the input's range, as those that are voted on are not.
        stability: weight of the divergence, >= 0.

    Raises:
        SettingError: a setting out of range.
    """

    status: ClassVar[Status] = Status("certified")

    sigma: float = 0.25
    stability: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise SettingError(f"gaussian needs a finite sigma > 0, got {self.sigma}; without noise use natural")
        if not (math.isfinite(self.stability) and self.stability >= 0):
            raise SettingError(f"gaussian needs a finite stability >= 0, got {self.stability}")

    def perturb(self, x: Batch, *, streams: Streams) -> Batch:
        """(B, *shape) one noisy copy of each example."""
        noise = streams.normal(torch.arange(len(x)), x.shape[1:], dtype=x.dtype)
        return x + self.sigma * noise.to(x.device)

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        logits = net(self.perturb(x, streams=streams))
        loss = F.cross_entropy(logits, y)
        if self.stability == 0:
            return Losses(loss, logits)
        apart = divergence(net(x), logits).mean()
        return Losses(loss + self.stability * apart, logits, {"divergence": apart.item()})
