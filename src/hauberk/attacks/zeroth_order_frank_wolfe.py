"""Frank-Wolfe without gradients: steps towards the point where an estimate of the linearised loss is largest.

    g_t = mean of (l(z_t + delta u) - l(z_t - delta u)) / (2 delta) u,    `samples` / 2 directions u
    m_t = momentum m_(t-1) + (1 - momentum) g_t;    v_t = argmax over the ball of <m_t, v>;    z_(t+1) = z_t + gamma_t (v_t - z_t)

Source: Chen, Zhou, Yi, Gu 2020, "A Frank-Wolfe framework for efficient and effective adversarial attacks", arXiv:1811.10828,
algorithm 2; the white-box one is `frank_wolfe`.
**Differs from the paper:** as `frank_wolfe` does; normal directions or those of a small space (paper: normal or on the sphere, which are
the same but for their length); the goal's margin is climbed; each step asks its point, so that an example stops with the first success.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, loss_named
from hauberk.blocks.estimators import asking, normal_in, random_gradient
from hauberk.blocks.subspaces import subspace_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["ZerothOrderFrankWolfe", "zeroth_order_frank_wolfe"]


@dataclass(frozen=True)
class ZerothOrderFrankWolfe:
    """Frank-Wolfe on estimated gradients. Cost: at most 1 + `steps` * (`samples` + 1) queries an example.

    Args:
        steps: how many steps.
        samples: probes of each step; an even number, they come in pairs.
        delta: deviation of the probes, in widths of the box.
        step_size: gamma, in (0, 1]; 2 / (t + 2) in step t where None.
        momentum: weight of the past gradients, in [0, 1).
        space: where probes come from: `identity`, or a small space such as `dct:16`.
        loss: what is climbed.
        early_stop: leave an example once it is broken.
    """

    steps: int = 200
    samples: int = 50
    delta: float = 0.001
    step_size: float | None = None
    momentum: float = 0.9
    space: str = "identity"
    loss: str = "margin"
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "delta", "step_size")
        not_negative(self, "momentum")
        loss_named(self.loss)
        subspace_named(self.space)
        if self.samples % 2:
            raise SettingError(
                f"zeroth_order_frank_wolfe asks in pairs and needs an even number of samples, got samples={self.samples}"
            )
        if self.momentum >= 1 or (self.step_size is not None and self.step_size > 1):
            raise SettingError(
                f"zeroth_order_frank_wolfe needs momentum in [0, 1) and step_size in (0, 1], got momentum={self.momentum} and "
                f"step_size={self.step_size}"
            )

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball, space = ball_of(self, region), subspace_named(self.space)
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        loss = None if self.loss == "margin" else loss_named(self.loss)
        delta = self.delta * (ball.box[1] - ball.box[0])
        z, mean = frontier.x, torch.zeros_like(frontier.x)
        if len(frontier):
            frontier.ask(z)
            z, mean = frontier.compact(z, mean)
        for step in range(self.steps):
            if not len(frontier):
                break
            draw = normal_in(space, streams, frontier.rows, z)
            g = random_gradient(asking(frontier, loss), z, draw, self.samples // 2, delta)
            z, mean, g = frontier.compact(z, mean, g)
            if not len(frontier):
                break
            mean = self.momentum * mean + (1 - self.momentum) * g if step else g
            gamma = 2 / (step + 2) if self.step_size is None else self.step_size
            z = z + gamma * (frontier.region.linear_max(mean, frontier.x) - z)
            z = frontier.region.project(z, frontier.x)  # inside already, but for rounding
            frontier.ask(z)
            z, mean = frontier.compact(z, mean)
        return frontier.best


zeroth_order_frank_wolfe = friendly(ZerothOrderFrankWolfe)
