"""MTL-IBP: a weighted mean of the loss at an adversarial point and the loss that intervals allow.

    alpha * l(worst(x, eps), y) + (1 - alpha) * l(f(z), y),    z in the box of eps around x, where the loss is large

alpha trades the bound's ease for the net's accuracy: 0 is adversarial training and 1 interval training.

Source: De Palma, Bunel, Dvijotham, Kumar, Stanforth, Lomuscio 2024, "Expressive losses for verified robustness via convex
combinations", arXiv:2305.13991, section 4.2.

**Differs from the paper:** the point is sought by any inner maximiser, within the same radius as the intervals; the regularisers and
the batch norms of the authors' program are left out; eps grows in a straight line.

**Status:** certified; what a verifier vouches for holds against every attack within the radius, and only for the examples that it
vouches for. With a small alpha intervals alone vouch for few, and a tighter verifier is needed.
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

__all__ = ["MtlIBP"]


@dataclass(frozen=True, kw_only=True)
class MtlIBP(Certified):
    """Cost: the inner maximiser's, one forward and backward, and about two more that the trainer does not count.

    The logits that it answers with are those at the adversarial points; the share that intervals vouch for is the measure
    `certified`.

    Args:
        inner: finds the point; the steps are taken in evaluation mode.
        alpha: weight of the intervals' loss, in (0, 1].

    Raises:
        SettingError: a weight out of range.
        ModelError: when called: a net that intervals cannot go through, or one with batch norm.
    """

    status: ClassVar[Status] = Status("certified", "De Palma et al. 2024, arXiv:2305.13991")

    inner: Inner = field(default_factory=InnerPGD)
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise SettingError(f"mtl_ibp needs an alpha above 0 and at most 1, got {self.alpha}; for 0 use pgd_at")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        grown = self.grown(at)
        ball = self.ball(grown)
        if not grown:
            clean = net(x)
            return Losses(F.cross_entropy(clean, y), clean, {"radius": 0.0, "certified": 0.0})
        with in_mode(net, training=False):
            z = self.inner(
                lambda point, rows: F.cross_entropy(net(point), y[rows], reduction="none"),
                x,
                ball,
                streams=streams,
                at=at,
            )
        graph, moved = graph_of(net, x), net(z)
        worst = worst_by_intervals(graph, box_ranges(graph, x, ball), y)
        certified = (worst.argmax(dim=1) == y).double().mean().item()
        total = self.alpha * F.cross_entropy(worst, y) + (1 - self.alpha) * F.cross_entropy(moved, y)
        return Losses(total, moved, {"radius": self.radius(grown), "certified": certified})
