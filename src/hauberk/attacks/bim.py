"""The basic iterative method: many small steps of the fast gradient method from the clean example.

    z_0 = x;  z_(t+1) = project(z_t + step_size * steepest(grad loss(z_t)))

Source: Kurakin, Goodfellow, Bengio 2017, "Adversarial examples in the physical world", arXiv:1607.02533.
**Differs from the paper:** the step is a fraction of the radius (the paper: 1/255 and min(eps + 4, 1.25 eps) steps); every
norm; the point of the largest margin is kept, not the last one.
"""

from dataclasses import dataclass
from typing import ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import finite, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, ascend, loss_named, schedule_named
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["BIM", "bim"]


@dataclass(frozen=True)
class BIM:
    """Iterated fast gradient method. Cost: at most `steps` + 1 forwards and `steps` backwards an example.

    Args:
        steps: how many steps.
        step_size: size of a step, in the units of the radius (L0: of the input); a fifth of the radius where None (L0: twice the
            width of the box).
        loss: `ce`, `margin`, `dlr` or `probability`.
        early_stop: leave an example once it is broken.
    """

    steps: int = 10
    step_size: float | None = None
    loss: str = "ce"
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size")
        loss_named(self.loss)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        finite(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        ascend(
            frontier,
            frontier.x,
            loss=loss_named(self.loss),
            steps=self.steps,
            step_size=step_of(region, self.step_size, 0.2),
            schedule=schedule_named("constant"),
        )
        return frontier.best


bim = friendly(BIM)
