"""DDN, the decoupled direction and norm attack: climb the loss, and let success alone set how far to go.

    d <- d + alpha_t * g / |g|_2           g: gradient of the loss;  alpha_t: a cosine from 1 to 0.01
    eps <- eps * (1 - gamma)  where x + d reached the goal,  eps * (1 + gamma)  where it did not
    d <- box(eps * d / |d|_2), on the threat's grid where it has one

Source: Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger 2019, "Decoupling direction and norm for efficient gradient-based L2
adversarial attacks and defenses", arXiv:1811.09600, algorithm 1; constants of section 4 there.
**Differs from the paper:** `patience` (None: never) lets an example go when so many steps in a row found nothing smaller; values
are rounded to a grid only where the threat has one (the paper rounds to 255 steps, always: write `l2@grid255`), and then so that
the change grows no larger; steps and norms are measured in widths of the box, which the paper takes as 1; any goal; where the
gradient is 0 the direction is drawn at random, as the authors' code does.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, like
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest, Patience, loss_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["DDN", "ddn"]


@dataclass(frozen=True)
class DDN:
    """The smallest L2 change. Cost: at most `steps` + 1 forwards and `steps` backwards an example.

    Args:
        steps: steps of the climb.
        gamma: by what share the norm grows or shrinks each step.
        init_norm: the first norm, in widths of the box.
        loss: `ce`, `margin`, `dlr` or `probability`.
        patience: steps without a smaller success after which an example leaves; None spends every step.
    """

    steps: int = 1000
    gamma: float = 0.05
    init_norm: float = 1.0
    loss: str = "ce"
    patience: int | None = None

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "gamma", "init_norm", "patience")
        loss_named(self.loss)
        if self.gamma >= 1:
            raise SettingError(f"ddn needs gamma in (0, 1), got gamma={self.gamma}; with 1 the norm would fall to 0")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found, loss = Closest(victim, x, goal, ball), loss_named(self.loss)
        patience = Patience(found, self.patience)
        low, high = ball.box
        z = found.x
        eps = z.new_full((len(z),), self.init_norm * (high - low))
        for step in range(self.steps):
            if not len(found):
                return found.best
            margin, gradient = found.climb(z, loss)
            patience.check()
            z, eps, gradient, reached = found.compact(z, eps, gradient, margin > 0)
            if not len(found):
                return found.best
            direction = Norm.L2.steepest(gradient)
            still = flat(gradient == 0).all(dim=1)
            if bool(still.any()):
                drawn = streams.normal(found.rows[still], z.shape[1:], dtype=z.dtype)
                direction[still] = Norm.L2.steepest(drawn)
            alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2
            d = (z - found.x).add_(direction, alpha=alpha * (high - low))
            eps = torch.where(reached, eps * (1 - self.gamma), eps * (1 + self.gamma))
            farthest = Norm.L2.size(torch.maximum(found.x - low, high - found.x))
            eps = eps.minimum(farthest)
            z = found.inside(found.x + like(eps, d) * Norm.L2.steepest(d))
            z = found.space.snap(z, found.x)
        if len(found):
            found.ask(z)
        return found.best


ddn = friendly(DDN)
