"""NES with labels alone: how sure a model is of a class is read off how often noise around a point leaves it there.

    S(z) = share of `copies` points z + mu v that reach the goal, twice that less one,    v uniform in [-1, 1]
    g    = mean of (S(z + sigma u) - S(z - sigma u)) / (2 sigma) u,    `samples` / 2 of them, u normal

From a point that reaches the goal, the cube around the example shrinks while the goal stays reached (see `hauberk.blocks.closing_in`).

Source: Ilyas, Engstrom, Athalye, Lin 2018, "Black-box Adversarial Attacks with Limited Queries and Information", arXiv:1804.08598,
section 2.3 with k = 1: the label alone, where the paper also knows the order of the best few.
**Differs from the paper:** untargeted goals too; starts, lengths and what is sought as in `partial_nes`; mu and sigma grow with the
cube (paper: 0.001), without which hardly a probe near the middle of a class would say anything.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, like
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.closing_in import close_in
from hauberk.blocks.estimators import normal_in, probes, random_gradient
from hauberk.blocks.label_search import first_points
from hauberk.blocks.subspaces import subspace_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["LabelNES", "label_nes"]


@dataclass(frozen=True)
class LabelNES:
    """NES with labels, in L-inf. Cost: some 50 + at most `steps` * (`samples` * `copies` + 6) queries an example.

    Args:
        steps: of the shrinking cube.
        samples: probes of each step; an even number, they come in pairs.
        copies: points around each probe whose labels are asked.
        sigma: deviation of the probes, as a share of the cube's half side.
        mu: half the side of the cube around a probe, as such a share too.
        step_size: the first length of a step along the gradient, as such a share.
        momentum: weight of the past gradients, in [0, 1).
        space: where probes come from: `identity`, or a small space such as `dct:16`.
    """

    steps: int = 100
    samples: int = 20
    copies: int = 5
    sigma: float = 0.1
    mu: float = 0.1
    step_size: float = 0.2
    momentum: float = 0.5
    space: str = "identity"

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "copies", "sigma", "mu", "step_size")
        not_negative(self, "momentum")
        subspace_named(self.space)
        if self.samples % 2 or self.momentum >= 1:
            raise SettingError(
                f"label_nes asks in pairs and needs momentum in [0, 1), got samples={self.samples}, momentum={self.momentum}"
            )

    def __call__(
        self,
        victim: Labelled,
        x: Batch,
        goal: Goal,
        region: Region,
        *,
        streams: Streams,
        starts: Batch | None = None,
    ) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        z = first_points(found, streams, starts)
        if not len(found):
            return found.best
        draws, noise, space = streams.child("probes"), streams.child("copies"), subspace_named(self.space)
        low, high = found.space.box

        def estimate(z: Batch) -> Batch:
            half = Norm.LINF.size(z - found.x)

            def ask(points: torch.Tensor) -> torch.Tensor:
                shape = (points.shape[1], self.copies, *z.shape[1:])
                v = 2 * noise.uniform(found.rows, shape, dtype=z.dtype) - 1
                around = points[:, :, None] + like(self.mu * half, z)[:, None, None] * v
                answers = probes(found, around.flatten(1, 2).clamp(low, high)).sign()
                return answers.reshape(len(z), points.shape[1], self.copies).nanmean(dim=2)

            draw = normal_in(space, draws, found.rows, z)

            def scaled(count: int) -> torch.Tensor:
                return like(half, z)[:, None] * draw(count)

            return random_gradient(ask, z, scaled, self.samples // 2, self.sigma)

        close_in(found, z, estimate, steps=self.steps, eta=self.step_size, sight=None, momentum=self.momentum)
        return found.best


label_nes = friendly(LabelNES)
