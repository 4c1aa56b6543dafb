"""Random search in the region: the baseline that every other attack must beat.

    z ~ region.start;  keep the z of the largest margin

Half of the tries are uniform in the region, half lie at its coarse block corners, where random perturbations hurt most
(for L1 and L0 all are uniform). Works with labels alone.

Source: none; Rauber and Bethge's "repeated additive noise" baselines in Foolbox (Rauber et al. 2017, arXiv:1707.04131).
**Differs:** stays inside the region by construction, mixes in block corners, one random stream per example.
"""

from dataclasses import dataclass
from typing import ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import finite, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, start_named
from hauberk.threat import Access, Ball, Goal, Labelled, Norm, Region

__all__ = ["Noise", "noise"]


@dataclass(frozen=True)
class Noise:
    """Random search. Cost: at most `tries` queries an example.

    Args:
        tries: how many random points.
        early_stop: leave an example once it is broken.
    """

    tries: int = 20
    early_stop: bool = True

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __post_init__(self) -> None:
        positive(self, "tries")

    def __call__(self, victim: Labelled, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        finite(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        corners = not (isinstance(region, Ball) and region.norm in {Norm.L1, Norm.L0})
        for attempt in range(self.tries):
            if not len(frontier):
                break
            start = start_named("blocks" if corners and attempt % 2 else "uniform")
            frontier.ask(start(frontier.x, frontier.rows, frontier.region, streams))
            frontier.compact()
        return frontier.best


noise = friendly(Noise)
