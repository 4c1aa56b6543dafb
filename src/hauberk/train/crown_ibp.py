"""CROWN-IBP: interval training whose worst logits come, at first, from a linear bound backward through the intervals.

    kappa * l(f(x), y) + (1 - kappa) * l(worst, y),    worst = (1 - beta) * worst_IBP(x, eps) + beta * worst_CROWN-IBP(x, eps)

eps grows from 0 to the radius of the threat, while kappa falls from 1 to `kappa_end` and beta from 1 to `beta_end`. The linear bound is
the tighter one where weights are those of ordinary training, which is when plain interval training is unstable; intervals are as
tight at the end, and cheaper.

Source: Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning, Hsieh 2020, "Towards stable and efficient training of verifiably robust
neural networks", arXiv:1906.06316, section 3. The authors' settings on MNIST at 0.3: kappa 1 to 0 or to 0.5, beta 1 to 0, training
radius 0.4.

**Differs from the paper:** warm-up and ramp are shares of the training, so that a shorter one keeps its shape.

**Status:** certified; what the bounds vouch for holds against every attack within the radius, and only for the examples that they
vouch for (`hauberk.bounds` says which).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._intervals import Certified, box_ranges, graph_of, worst_by_crown, worst_by_intervals
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["CrownIBP"]


@dataclass(frozen=True, kw_only=True)
class CrownIBP(Certified):
    """Cost: that of `ibp`, and, while beta is not 0, about `classes` forwards and backwards of one example for each.

    The logits that it answers with are the worst ones, as those of `ibp`.

    Args:
        kappa_end: weight of the clean loss when the radius is whole, in [0, 1].
        beta_end: weight of the linear bound when the radius is whole, in [0, 1].

    Raises:
        SettingError: a weight out of range.
        ModelError: when called: a net that cannot be bounded, or one with batch norm.
    """

    status: ClassVar[Status] = Status("certified", "Zhang et al. 2020, arXiv:1906.06316")

    kappa_end: float = 0.5
    beta_end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.kappa_end <= 1 and 0 <= self.beta_end <= 1):
            raise SettingError(
                f"crown_ibp needs kappa_end and beta_end between 0 and 1, got {self.kappa_end} and {self.beta_end}"
            )

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        clean, grown = net(x), self.grown(at)
        natural, ball = F.cross_entropy(clean, y), self.ball(grown)
        measures = {"clean": (clean.argmax(dim=1) == y).double().mean().item(), "radius": self.radius(grown)}
        if not grown:
            return Losses(natural, clean, measures)
        graph = graph_of(net, x)
        ranges = box_ranges(graph, x, ball)
        beta = 1 - grown * (1 - self.beta_end)
        worst = worst_by_intervals(graph, ranges, y)
        if beta:
            worst = (1 - beta) * worst + beta * worst_by_crown(graph, ranges, y)
        kappa = 1 - grown * (1 - self.kappa_end)
        return Losses(kappa * natural + (1 - kappa) * F.cross_entropy(worst, y), worst, measures)
