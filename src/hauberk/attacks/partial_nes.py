"""NES with partial information: only the scores of the best few classes are shown, and the target is not among them at first.

From a picture of the target class, the cube around the example shrinks to the radius while the target stays among the `top_k` classes,
and its log-probability climbs along gradients that `nes` estimates (see `hauberk.blocks.closing_in`), until it is the best class there.

Source: Ilyas, Engstrom, Athalye, Lin 2018, "Black-box Adversarial Attacks with Limited Queries and Information", arXiv:1804.08598,
section 2.2 and algorithm 2.
**Differs from the paper:** the start is bisected towards the example first, until the target is no longer the best class just beyond
it; an example leaves at the first success inside the radius; lengths are shares of the cube; where the goal has no target, it is the
goal that must stay reached.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, Logits, PerExample
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest, loss_named
from hauberk.blocks.closing_in import close_in
from hauberk.blocks.estimators import normal_in, probes, random_gradient
from hauberk.blocks.label_search import first_points
from hauberk.blocks.subspaces import subspace_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Norm, Region, Scored, Targeted

__all__ = ["PartialNES", "partial_nes"]


@dataclass(frozen=True)
class PartialNES:
    """NES with the scores of the best few classes, in L-inf. Cost: some 20 + at most `steps` * (`samples` + 6) queries.

    Args:
        steps: of the shrinking cube.
        samples: probes of each step; an even number, they come in pairs.
        top_k: how many classes are shown.
        sigma: deviation of the probes, in widths of the box.
        step_size: the first length of a step along the gradient, as a share of the cube's half side.
        momentum: weight of the past gradients, in [0, 1).
        space: where probes come from: `identity`, or a small space such as `dct:16`.
    """

    steps: int = 200
    samples: int = 50
    top_k: int = 5
    sigma: float = 0.001
    step_size: float = 0.2
    momentum: float = 0.5
    space: str = "identity"

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF})
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "top_k", "sigma", "step_size")
        not_negative(self, "momentum")
        subspace_named(self.space)
        if self.samples % 2 or self.momentum >= 1:
            raise SettingError(
                f"partial_nes asks in pairs and needs momentum in [0, 1), got samples={self.samples}, momentum={self.momentum}"
            )

    def __call__(
        self,
        victim: Scored,
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
        draws, space, climbed = streams.child("probes"), subspace_named(self.space), loss_named("ce")
        low, high = found.space.box

        def estimate(z: Batch) -> Batch:
            def ask(points: torch.Tensor) -> torch.Tensor:
                return probes(found, points.clamp(low, high), climbed)

            draw = normal_in(space, draws, found.rows, z)
            return random_gradient(ask, z, draw, self.samples // 2, self.sigma * (high - low))

        def shown(logits: Logits, goal: Goal) -> PerExample:
            """Above 0 where the target is among the best few."""
            assert isinstance(goal, Targeted)
            own = logits.gather(1, goal.classes[:, None])
            ahead = (logits > own).sum(dim=1)
            return (self.top_k - ahead).to(logits)

        radius = torch.as_tensor(found.region.radius, dtype=z.dtype, device=z.device).expand(len(found))
        close_in(
            found,
            z,
            estimate,
            steps=self.steps,
            eta=self.step_size,
            sight=shown if isinstance(goal, Targeted) else None,
            momentum=self.momentum,
            least=radius,
        )
        return found.best


partial_nes = friendly(PartialNES)
