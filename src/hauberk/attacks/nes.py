"""NES: projected ascent along gradients that natural evolution strategies estimate from scores.

    g    = mean of (l(z + sigma u) - l(z - sigma u)) / (2 sigma) u,    u normal, `samples` / 2 of them
    m   <- momentum m + (1 - momentum) g;    z <- project(z + step_size steepest(m))

The step of an example is divided by `drop` whenever its loss is no larger than `patience` steps before, down to a hundredth of the first.

Source: Ilyas, Engstrom, Athalye, Lin 2018, "Black-box Adversarial Attacks with Limited Queries and Information", arXiv:1804.08598,
section 2.1 (query-limited); the plateaus from the authors' code. Its other two threat models are `partial_nes` and `label_nes`.
**Differs from the paper:** what climbs is the goal's margin (paper: the cross-entropy of a target); each step also asks its point,
so that an example stops with the first success (one query a step); probes stay in the box and keep to the mask; sigma is in widths of the
box; balls of L2 besides L-inf; probes may come from a small space.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, like
from hauberk.attacks._attack import ball_of, not_negative, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, loss_named
from hauberk.blocks.estimators import asking, normal_in, random_gradient
from hauberk.blocks.plateaus import Plateaus
from hauberk.blocks.subspaces import subspace_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["NES", "nes"]


@dataclass(frozen=True)
class NES:
    """NES, query-limited. Cost: at most 1 + `steps` * (`samples` + 1) queries an example.

    Args:
        steps: of the ascent.
        samples: probes of each step; an even number, they come in pairs.
        sigma: deviation of the probes, in widths of the box.
        step_size: in units of the input; a fifth of the radius where None.
        momentum: weight of the past gradients, in [0, 1).
        patience: steps without gain after which the step shrinks.
        drop: what it is divided by.
        space: where probes come from: `identity`, or a small space such as `dct:16` or `tile:8`.
        loss: what is climbed.
        early_stop: leave an example once it is broken.
    """

    steps: int = 200
    samples: int = 50
    sigma: float = 0.001
    step_size: float | None = None
    momentum: float = 0.9
    patience: int = 5
    drop: float = 2.0
    space: str = "identity"
    loss: str = "margin"
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "sigma", "step_size", "patience", "drop")
        not_negative(self, "momentum")
        loss_named(self.loss)
        subspace_named(self.space)
        if self.samples % 2:
            raise SettingError(f"nes asks in pairs and needs an even number of samples, got samples={self.samples}")
        if self.momentum >= 1 or self.drop < 1:
            raise SettingError(
                f"nes needs momentum in [0, 1) and drop >= 1, got momentum={self.momentum} and drop={self.drop}"
            )

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        if not len(frontier):
            return frontier.best
        loss, space = None if self.loss == "margin" else loss_named(self.loss), subspace_named(self.space)
        sigma = self.sigma * (ball.box[1] - ball.box[0])
        first = torch.as_tensor(step_of(ball, self.step_size, 0.2), dtype=x.dtype, device=x.device).expand(len(x))
        z, mean = frontier.x, torch.zeros_like(frontier.x)
        plateaus = Plateaus(first[frontier.rows], frontier.ask(z), self.patience, self.drop)
        z, mean = self._left(frontier, plateaus, z, mean)
        for _ in range(self.steps):
            if not len(frontier):
                break
            draw = normal_in(space, streams, frontier.rows, z)
            g = random_gradient(asking(frontier, loss), z, draw, self.samples // 2, sigma)
            z, mean, g = self._left(frontier, plateaus, z, mean, g)
            if not len(frontier):
                break
            mean = self.momentum * mean + (1 - self.momentum) * g
            way = like(plateaus.step, z) * frontier.region.steepest(mean)
            z = frontier.region.project(z + way, frontier.x)
            plateaus.see(frontier.ask(z))
            z, mean = self._left(frontier, plateaus, z, mean)
        return frontier.best

    @staticmethod
    def _left(frontier: Frontier, plateaus: Plateaus, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Drop the rows that are done from everything."""
        plateaus.step, plateaus.past, *kept = frontier.compact(plateaus.step, plateaus.past, *tensors)
        return tuple(kept)


nes = friendly(NES)
