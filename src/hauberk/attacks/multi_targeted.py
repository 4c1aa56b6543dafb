"""MultiTargeted: projected gradient ascent on the difference of two logits, towards each other class in turn.

    for each class t != y:  z_0 ~ start;  z_(k+1) = project(z_k + step_size_k * steepest(grad (logit_t - logit_y)(z_k)))

On a model that is linear in the region each run finds the best point for its class, so that together they find the best there
is; one run on the largest of the differences may follow the wrong class.

Source: Gowal, Uesato, Qin, Huang, Mann, Kohli 2019, "An alternative surrogate loss for PGD-based adversarial testing",
arXiv:1910.09338.
**Differs from the paper:** steepest steps that fall linearly to 0 (paper: Adam on the input or sign steps, with a step that
drops twice); the classes come in the order of the clean scores, the likeliest first, and each example leaves once it is broken;
every norm.
"""

from dataclasses import dataclass
from typing import ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import finite, not_negative, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, ascend, likeliest_rivals, loss_named, schedule_named, start_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["MultiTargeted", "multi_targeted"]


@dataclass(frozen=True)
class MultiTargeted:
    """PGD towards each other class. Cost: at most 1 + `restarts` * classes * (`steps` + 1) forwards and `restarts` * classes *
    `steps` backwards an example, where the classes are those climbed to.

    Args:
        steps: steps towards each class.
        step_size: size of the first step, in the units of the radius (L0: of the input); the radius where None (L0: twice the
            width of the box).
        targets: how many classes, the likeliest first; 0 for every other class.
        restarts: rounds over the classes, each from fresh starts.
        start: `uniform` in the region, `blocks` (a random corner, constant on coarse blocks) or `clean`.
        schedule: how the step falls: `linear` (to 0), `cosine` or `constant`.
        early_stop: leave an example once it is broken.
    """

    steps: int = 20
    step_size: float | None = None
    targets: int = 0
    restarts: int = 1
    start: str = "uniform"
    schedule: str = "linear"
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "step_size")
        not_negative(self, "targets")
        start_named(self.start)
        schedule_named(self.schedule)
        if self.start == "clean" and self.restarts > 1:
            raise SettingError(
                f"multi_targeted with restarts={self.restarts} from the clean example would climb the same way each time; "
                "use start='uniform' or start='blocks'"
            )

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        finite(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        rivals = likeliest_rivals(
            frontier, goal, self.targets or None, asker="multi_targeted", instead="pgd for one class to reach"
        )
        for _ in range(self.restarts):
            for rival in rivals:
                frontier.restart()
                if not len(frontier):
                    return frontier.best
                ascend(
                    frontier,
                    start_named(self.start)(frontier.x, frontier.rows, frontier.region, streams),
                    loss=loss_named("margin"),
                    towards=rival,
                    steps=self.steps,
                    step_size=step_of(region, self.step_size, 2.5 / self.steps if self.schedule == "constant" else 1.0),
                    schedule=schedule_named(self.schedule),
                )
        return frontier.best


multi_targeted = friendly(MultiTargeted)
