"""Interval training (IBP): cross-entropy of the examples, and of the worst logits that intervals allow in the box around them.

    kappa * l(f(x), y) + (1 - kappa) * l(worst(x, eps), y),    worst_c >= f_c(z) - f_y(z) for every z in the box of eps around x

eps grows from 0 to the radius of the threat, and kappa falls from 1 to `kappa_end`, both in a straight line over the same steps.

Source: Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli 2018, "On the effectiveness of interval bound
propagation for training verifiably robust models", arXiv:1810.12715, section 3. The authors' settings on MNIST: 100 epochs of batches of
100, kappa to 0.5, a warm-up of 2,000 steps and a ramp of 10,000 of 60,000, training radius 0.4 to certify 0.3.

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
from hauberk.train._intervals import Certified, box_ranges, graph_of, worst_by_intervals
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["IBP"]


@dataclass(frozen=True, kw_only=True)
class IBP(Certified):
    """Cost: about three forwards and backwards an example; the trainer counts the one of the example itself.

    The logits that it answers with are the worst ones, so the accuracy in the records is the certified one at the radius of the
    moment; that of the examples themselves is the measure `clean`.

    Args:
        kappa_end: weight of the clean loss when the radius is whole, in [0, 1].

    Raises:
        SettingError: a weight out of range.
        ModelError: when called: a net that intervals cannot go through, or one with batch norm.
    """

    status: ClassVar[Status] = Status("certified", "Gowal et al. 2018, arXiv:1810.12715")

    kappa_end: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.kappa_end <= 1:
            raise SettingError(f"ibp needs a kappa_end between 0 and 1, got {self.kappa_end}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        clean, grown = net(x), self.grown(at)
        natural, ball = F.cross_entropy(clean, y), self.ball(grown)
        measures = {"clean": (clean.argmax(dim=1) == y).double().mean().item(), "radius": self.radius(grown)}
        if not grown:
            return Losses(natural, clean, measures)
        graph = graph_of(net, x)
        worst = worst_by_intervals(graph, box_ranges(graph, x, ball), y)
        kappa = 1 - grown * (1 - self.kappa_end)
        return Losses(kappa * natural + (1 - kappa) * F.cross_entropy(worst, y), worst, measures)
