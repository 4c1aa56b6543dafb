"""SABR, small adversarial boxes: interval training in a small box around an adversarial point, rather than in the whole region.

    l(worst(z, share * eps), y),    z in the box of (1 - share) * eps around x, where the loss is large

The small box lies in the region and its intervals are tight, so that the net is held back less; what it answers elsewhere in the
region is vouched for by no bound of this training, and a tighter verifier than intervals is needed to certify it.

Source: Müller, Eckert, Fischer, Vechev 2023, "Certified training: small boxes are all you need", arXiv:2210.04871, section 3. The
authors' share on MNIST at 0.3 is 0.6.

**Differs from the paper:** the point is sought by any inner maximiser; the ReLU rule that narrows boxes further, the regularisers
and the batch norms of the authors' program are left out; eps grows in a straight line.

**Status:** certified; what a verifier vouches for holds against every attack within the radius, and only for the examples that it
vouches for. Small intervals alone vouch for nothing in the whole region.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._adversarial import in_mode
from hauberk.train._intervals import Certified, box_ranges, graph_of, worst_by_intervals
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Inner, InnerPGD

__all__ = ["Sabr"]


@dataclass(frozen=True, kw_only=True)
class Sabr(Certified):
    """Cost: the inner maximiser's, and about two forwards and backwards an example, which the trainer does not count.

    The logits that it answers with are the worst ones of the small box. 1 for `share` is `ibp` with `kappa_end` 0.

    Args:
        inner: finds the point; the steps are taken in evaluation mode.
        share: the radius of the small box over that of the region, in (0, 1].

    Raises:
        SettingError: a share out of range.
        ModelError: when called: a net that intervals cannot go through, or one with batch norm.
    """

    status: ClassVar[Status] = Status("certified", "Müller et al. 2023, arXiv:2210.04871")

    inner: Inner = field(default_factory=InnerPGD)
    share: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise SettingError(
                f"sabr needs a share above 0 and at most 1, got {self.share}; for points without a box use pgd_at"
            )

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        grown = self.grown(at)
        measures = {"radius": self.radius(grown)}
        if not grown:
            clean = net(x)
            return Losses(F.cross_entropy(clean, y), clean, measures)
        z = x
        if self.share < 1:
            around = self.ball(grown * (1 - self.share))
            with in_mode(net, training=False):
                z = self.inner(
                    lambda point, rows: F.cross_entropy(net(point), y[rows], reduction="none"),
                    x, around, streams=streams, at=at,
                )  # fmt: skip
        graph = graph_of(net, x)
        worst = worst_by_intervals(graph, box_ranges(graph, z, self.ball(grown * self.share)), y)
        return Losses(F.cross_entropy(worst, y), worst, measures)
