"""The fast gradient method: one step to where the linearised loss is largest.

    z = argmax over the region of <grad loss(x), z>          (L-inf: x + eps * sign(grad), clipped)

Source: Goodfellow, Shlens, Szegedy 2015, "Explaining and harnessing adversarial examples", arXiv:1412.6572; the random
start is that of Tramer et al. 2018, arXiv:1705.07204, and Wong, Rice, Kolter 2020, arXiv:2001.03994.
**Differs from the paper:** for every norm, with the box: for L2, L1 and L0 the linear maximiser inside the box takes the
place of a normalised step that is clipped afterwards, so it is never weaker on a linear model.
"""

from dataclasses import dataclass
from typing import ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import finite
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, loss_named, start_named
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["FGSM", "fgsm"]


@dataclass(frozen=True)
class FGSM:
    """One gradient step of the size of the radius. Cost: 2 forwards and 1 backward an example.

    Args:
        loss: `ce`, `margin`, `dlr` or `probability`.
        start: `clean`, or `uniform` and `blocks` to take the gradient at a random point of the region.
    """

    loss: str = "ce"
    start: str = "clean"

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __post_init__(self) -> None:
        loss_named(self.loss)
        start_named(self.start)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        finite(self, region)
        frontier = Frontier(victim, x, goal, region)
        if len(frontier):
            z = start_named(self.start)(frontier.x, frontier.rows, frontier.region, streams)
            _, gradient = frontier.climb(z, loss_named(self.loss))
            (gradient,) = frontier.compact(gradient)
            if len(frontier):
                frontier.ask(frontier.region.linear_max(gradient, frontier.x))
        return frontier.best


fgsm = friendly(FGSM)
