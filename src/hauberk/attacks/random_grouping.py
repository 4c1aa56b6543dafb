"""Random grouping: a gradient from finite differences over random groups of features, then FGSM or its iteration, with scores alone.

    g on the group S   = (l(z + delta 1_S) - l(z - delta 1_S)) / (2 delta |S|),     S of `group_size` features, drawn at random
    z                 <- project(z + step_size steepest(g)),                          in L-inf along sign(g)

Two queries a group take the place of two a feature. One step of the size of the radius is the paper's single-step attack; several,
each with groups drawn anew, the iterative one.

Source: Bhagoji, He, Li, Song 2018, "Practical Black-box Attacks on Deep Neural Networks using Efficient Query Mechanisms",
arXiv:1712.09491, sections 3.3 and 3.4.1.
**Differs from the paper:** groups are drawn anew in each step and for each example; each step also asks its point, so that an example
stops with the first success; probes stay in the box and keep to the mask, with 2 delta still divided by; the loss is the margin of
whatever the goal is (the paper's logit loss), or cross-entropy. Groups along principal components are not here:
`blocks.estimators.in_span` has what they need.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import ball_of, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, loss_named
from hauberk.blocks.estimators import asking, grouped, random_groups
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["RandomGrouping", "random_grouping"]


@dataclass(frozen=True)
class RandomGrouping:
    """FGSM, or its iteration, on estimated gradients. Cost: at most `steps` * (2 ceil(D / `group_size`) + 1) queries an example of D
    values.

    Args:
        steps: 1 for the single step, more for the iteration.
        group_size: features of a group; 1 for finite differences along every one.
        delta: how far each feature of a group is moved, in widths of the box.
        step_size: in units of the input; None for the radius, or for two radii divided by `steps` where there are several.
        loss: what is climbed.
        early_stop: leave an example once it is broken.
    """

    steps: int = 10
    group_size: int = 8
    delta: float = 0.01
    step_size: float | None = None
    loss: str = "margin"
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "group_size", "delta", "step_size")
        loss_named(self.loss)

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        low, high = ball.box
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        loss = None if self.loss == "margin" else loss_named(self.loss)
        size = step_of(ball, self.step_size, 1.0 if self.steps == 1 else min(1.0, 2 / self.steps))
        z = frontier.x
        for _ in range(self.steps):
            if not len(frontier):
                break
            groups = random_groups(streams, frontier.rows, tuple(x.shape[1:]), self.group_size)
            g = grouped(asking(frontier, loss), z, groups, self.delta * (high - low))
            z, g = frontier.compact(z, g)
            if not len(frontier):
                break
            step = size[frontier.rows] if isinstance(size, Tensor) else size
            z = frontier.region.project(frontier.region.step(z, g, step), frontier.x)
            frontier.ask(z)
            (z,) = frontier.compact(z)
        return frontier.best


random_grouping = friendly(RandomGrouping)
