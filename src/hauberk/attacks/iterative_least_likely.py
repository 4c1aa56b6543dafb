"""The iterative least-likely class method: small steps towards the class that the example is least likely to be.

    t = argmin_c p(c | x), c != y;  z_0 = x;  z_(k+1) = project(z_k + step_size * steepest(grad log p(t | z_k)))

On data of many fine classes it turns a dog into an aeroplane rather than into another dog. One such step is `fgsm` with
`target="least-likely"` ("step l.l.").

Source: Kurakin, Goodfellow, Bengio 2017, "Adversarial examples in the physical world", arXiv:1607.02533; one step: the same
authors 2017, "Adversarial machine learning at scale", arXiv:1611.01236.
**Differs from the paper:** success is whatever the threat's goal says, and an example leaves then (paper: all steps are made);
the class to leave is never the target, also where the model takes it for the least likely; the steps are parts of the radius
(paper: min(eps + 4, 1.25 eps) steps of 1/255); every norm; the point of the largest margin is kept, not the last one.
"""

from dataclasses import dataclass
from typing import ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import finite, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, aimed, ascend, loss_named, pick_named, schedule_named
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["IterativeLeastLikely", "iterative_least_likely"]


@dataclass(frozen=True)
class IterativeLeastLikely:
    """Iterated steps towards the least likely class. Cost: at most `steps` + 1 forwards and `steps` backwards an example.

    With the threat's goal `least-likely` success is to reach that class; untargeted, to leave the true one on the way there. A
    goal that names another class to reach is climbed to instead.

    Args:
        steps: how many steps.
        step_size: size of a step, in the units of the radius (L0: of the input); 1.25 * radius / steps where None (L0: twice the
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
            loss=aimed(frontier, loss_named(self.loss), pick_named("least-likely"), streams),
            steps=self.steps,
            step_size=step_of(region, self.step_size, 1.25 / self.steps),
            schedule=schedule_named("constant"),
        )
        return frontier.best


iterative_least_likely = friendly(IterativeLeastLikely)
