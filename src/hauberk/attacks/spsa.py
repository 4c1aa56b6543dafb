"""SPSA: Adam on gradients that are estimated from scores, in pairs of random signs.

    g   = mean of (m(z + delta u) - m(z - delta u)) / (2 delta) * u,    u fair signs, `samples` / 2 of them, m the goal's margin
    z  <- project(z + Adam's step of length `learning_rate` along g)

Source: Uesato, O'Donoghue, van den Oord, Kohli 2018, "Adversarial risk and the dangers of evaluating against weak attacks",
arXiv:1802.05666, algorithm 1; Spall 1992.
**Differs from the paper:** 128 samples a step by default (paper: up to 8192); the probes are clipped to the box and keep to the mask;
each step also asks the point itself, so that an example stops with the first success (one query a step); delta and the learning
rate are in widths of the box; balls of L2 besides L-inf.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier
from hauberk.blocks.estimators import asking, directions_named, random_gradient
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["SPSA", "spsa"]


@dataclass(frozen=True)
class SPSA:
    """SPSA with Adam. Cost: at most `steps` * (`samples` + 1) queries an example.

    Args:
        steps: steps of Adam.
        samples: probes of each step; an even number, they come in pairs.
        delta: how far each value of a probe is moved, in widths of the box.
        learning_rate: of Adam, in widths of the box.
        early_stop: leave an example once it is broken.
    """

    steps: int = 100
    samples: int = 128
    delta: float = 0.01
    learning_rate: float = 0.01
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "delta", "learning_rate")
        if self.samples % 2:
            raise SettingError(f"spsa asks in pairs and needs an even number of samples, got samples={self.samples}")

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        low, high = ball.box
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        draw, width = directions_named("signs"), high - low
        z = frontier.x
        mean, square = torch.zeros_like(z), torch.zeros_like(z)
        for step in range(self.steps):
            if not len(frontier):
                break
            directions = draw(streams, frontier.rows, z)
            g = random_gradient(asking(frontier), z, directions, self.samples // 2, self.delta * width)
            z, g, mean, square = frontier.compact(z, g, mean, square)
            if not len(frontier):
                break
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g.square()
            pace = self.learning_rate * width * (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
            z = frontier.region.project(z + pace * mean / (square.sqrt() + 1e-8), frontier.x)
            frontier.ask(z)
            z, mean, square = frontier.compact(z, mean, square)
        return frontier.best


spsa = friendly(SPSA)
