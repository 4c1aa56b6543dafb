"""Momentum iterative fast gradient method, and Nesterov's: steps along the accumulated gradients, made for transfer.

    g_(t+1) = decay * g_t + grad loss(z_t) / |grad loss(z_t)|_1;  z_(t+1) = project(z_t + step_size * steepest(g_(t+1)))
    Nesterov (NI-FGSM): the gradient is taken at z_t + step_size * decay * g_t

Source: Dong et al. 2018, "Boosting adversarial attacks with momentum", arXiv:1710.06081; Lin et al. 2020, "Nesterov
accelerated gradient and scale invariance for adversarial attacks", arXiv:1908.06281.
**Differs from the papers:** every norm; an example leaves once it is broken, and the point of the largest margin is kept, not
the last one. Nesterov: g counts in mean absolute values, as in the authors' code (divided by the L1 norm, as written, the
look ahead would be a step of step_size / D); outside L-inf the look ahead goes along `steepest`, by as much; it is projected
into the region, so that one query looks ahead and may propose too. Scale invariance (SI-NI-FGSM) is left out.
"""

from dataclasses import dataclass
from typing import ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import finite, not_negative, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, ascend, loss_named, schedule_named
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["Momentum", "momentum"]


@dataclass(frozen=True)
class Momentum:
    """MI-FGSM and NI-FGSM. Cost: at most `steps` + 1 forwards and `steps` backwards an example.

    Args:
        steps: how many steps.
        step_size: size of a step, in the units of the radius (L0: of the input); radius / steps where None (L0: twice the width
            of the box).
        decay: factor mu on the past gradients.
        nesterov: take the gradient where the past gradients lead to.
        loss: `ce`, `margin`, `dlr` or `probability`.
        early_stop: leave an example once it is broken; for transfer to other models use False.
    """

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    nesterov: bool = False
    loss: str = "ce"
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size")
        not_negative(self, "decay")
        loss_named(self.loss)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        finite(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        ascend(
            frontier,
            frontier.x,
            loss=loss_named(self.loss),
            steps=self.steps,
            step_size=step_of(region, self.step_size, 1 / self.steps),
            schedule=schedule_named("constant"),
            momentum=self.decay,
            nesterov=self.nesterov,
        )
        return frontier.best


momentum = friendly(Momentum)
