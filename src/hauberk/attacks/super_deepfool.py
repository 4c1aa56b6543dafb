"""SuperDeepFool: DeepFool to the boundary, then the example's own projection onto that boundary, over and over.

    z crosses by DeepFool from x_t        w = grad (f_k - f_y)(z)        x_(t+1) = x + <z - x, w> w / |w|^2
    until the change at a crossing shrinks no more

DeepFool alone stops where it first crosses, and z - x is then rarely at right angles to the boundary, as the smallest change is.

Source: Abdolahpourrostami, Abroshan, Moosavi-Dezfooli 2024, "SuperDeepFool: a new fast and accurate minimal adversarial attack",
arXiv:2303.12481, algorithm 2, SDF(inf, 1), and the final search of the authors' code.
**Differs from the paper:** both steps are the smallest ones inside the box (`blocks.hyperplane`; paper: without a box); rivals are
linearised as in `deepfool`, the `first` likeliest and then the `refined` nearest; a targeted or top-k goal and a predicate have
one boundary, that of their margin; the boundary is approached in `approach` equal parts at first (paper: at once), and on a grid by
half a step of it at least; the end is where the change shrinks by less than a thousandth (paper: where a projected point has
crossed); the smallest success of the whole path is kept, and the final search bisects to it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import nearest_plane, rivals_of, shortest_step
from hauberk.blocks.hyperplane import reach_hyperplane
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["SuperDeepFool", "super_deepfool"]

_GAIN = 0.999
"""A crossing whose change is more than this share of that of the crossing before is the last."""


@dataclass(frozen=True)
class SuperDeepFool:
    """SuperDeepFool. Cost: at most `steps` + 1 + `search` forwards and `first` + (`steps` - 1) * `refined` backwards an
    example; `steps` backwards towards a target.

    Args:
        steps: most steps, those of DeepFool and the projections together.
        candidates: classes that are looked at, the likeliest ones with the true one among them.
        first: rivals whose boundaries are linearised at the example, the likeliest.
        refined: rivals whose boundaries are linearised at each later point, the nearest by the latest estimate.
        approach: equal parts in which the boundary is approached first; 1 steps onto it at once.
        overshoot: how far past the boundary a step of DeepFool goes, as a share of the change since the last projection.
        search: bisections between the example and its smallest success in the end; none where a radius is given.
    """

    steps: int = 100
    candidates: int = 10
    first: int = 3
    refined: int = 1
    approach: int = 8
    overshoot: float = 0.02
    search: int = 10

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "candidates", "first", "refined", "approach")
        not_negative(self, "overshoot", "search")
        if self.candidates < 2:
            raise SettingError(
                f"super_deepfool looks at the true class and at least one rival, got candidates={self.candidates}"
            )

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        norm, (low, high) = found.space.norm, found.space.box
        z = base = home = found.x  # asked; without its overshoot; the last projection
        known = torch.full_like(found.size, torch.inf)[found.rows]  # at the last crossing
        rivals = lengths = None
        for step in range(self.steps):
            if not len(found):
                break
            margin, logits, vjp = found.look(z)
            crossed = found.succeeds(margin, logits)
            size = norm.size(z - found.x)
            found.drop(crossed & (size > _GAIN * known))
            known = torch.where(crossed, size, known)
            if rivals is None:
                rivals = rivals_of(logits, found.goal, self.candidates)
            plane, lengths = nearest_plane(
                z,
                logits,
                vjp,
                found.goal,
                found.space,
                rivals,
                lengths,
                count=self.refined,
                first=self.first,
                walls=False,
            )
            w, clean = plane.gradient, found.x
            ahead = reach_hyperplane(w, plane.gap, low - z, high - z, norm)
            across = reach_hyperplane(w, flat(w * (z - clean)).sum(dim=1), low - clean, high - clean, norm)
            back = wide(crossed, z)
            share = torch.full_like(size, 1 / max(self.approach - step, 1))
            if found.space.grid is not None:  # go on by half a step of it at least
                share = share.maximum(shortest_step(found.space) / norm.size(ahead).clamp_min(1e-12))
            base = found.inside(torch.where(back, clean + across, base + ahead * like(share, ahead)))
            home = torch.where(back, base, home)
            z = found.inside(home + (1 + self.overshoot) * (base - home))
            z, base, home, known, rivals, lengths = found.compact(z, base, home, known, rivals, lengths)
        if len(found):
            found.ask(z)
        if self.search:
            found.tighten(self.search)
        return found.best


super_deepfool = friendly(SuperDeepFool)
