"""Projected gradient descent, the attack of adversarial training: iterated steps from random starts.

    z_0 ~ start;  g_t = momentum * g_(t-1) + grad / |grad|_1;  z_(t+1) = project(z_t + step_size_t * steepest(g_t))

Source: Madry, Makelov, Schmidt, Tsipras, Vladu 2018, "Towards deep learning models resistant to adversarial attacks",
arXiv:1706.06083; momentum: Dong et al. 2018, arXiv:1710.06081.
**Differs from the paper:** an example leaves the batch once it is broken; the point of the largest margin is kept, not the
last one; every norm (L1 and L0 as in `hauberk.threat.Ball`); losses, starts and step schedules to choose from.
"""

from dataclasses import dataclass
from typing import ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import finite, not_negative, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, ascend, loss_named, schedule_named, start_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["PGD", "pgd"]


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent. Cost: at most `restarts` * (`steps` + 1) forwards and `restarts` * `steps` backwards an example.

    Args:
        steps: steps of each restart.
        step_size: size of the first step, in the units of the radius (L0: of the input). Where None: 2.5 * radius / steps,
            or the whole radius where the schedule falls (L0: twice the width of the box).
        restarts: how many starts; later ones work only on examples that are not broken yet.
        loss: `ce`, `margin`, `dlr` or `probability`.
        start: `uniform` in the region, `blocks` (a random corner, constant on coarse blocks) or `clean`.
        schedule: how the step falls: `constant`, `linear` (to 0) or `cosine`.
        momentum: factor on the past gradients; 0 for none.
        early_stop: leave an example once it is broken; False spends every step on every example.
    """

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    loss: str = "ce"
    start: str = "uniform"
    schedule: str = "constant"
    momentum: float = 0.0
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "step_size")
        not_negative(self, "momentum")
        loss_named(self.loss)
        start_named(self.start)
        schedule_named(self.schedule)
        if self.start == "clean" and self.restarts > 1:
            raise SettingError(
                f"pgd with restarts={self.restarts} from the clean example would climb the same way each time; "
                "use start='uniform' or start='blocks'"
            )

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        finite(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        for _ in range(self.restarts):
            frontier.restart()
            if not len(frontier):
                break
            ascend(
                frontier,
                start_named(self.start)(frontier.x, frontier.rows, frontier.region, streams),
                loss=loss_named(self.loss),
                steps=self.steps,
                step_size=step_of(region, self.step_size, 2.5 / self.steps if self.schedule == "constant" else 1.0),
                schedule=schedule_named(self.schedule),
                momentum=self.momentum,
            )
        return frontier.best


pgd = friendly(PGD)
