"""DeepFool: step onto the nearest of the linearised decision boundaries until one is crossed.

    k = argmin over rivals of |f_k(z) - f_y(z)| / |g_k|_q          g_k = grad (f_k - f_y), q dual to p
    r = r + share * |f_k(z) - f_y(z)| / |g_k|_q * steepest_p(g_k)    z = x + (1 + overshoot) r

Source: Moosavi-Dezfooli, Fawzi, Frossard 2016, "DeepFool: a simple and accurate method to fool deep neural networks",
arXiv:1511.04599, algorithm 2 (L2) and section 3.3 (L-inf).
**Differs from the paper:** every point lies in the box, and what a gradient pushes against its walls counts neither in a
distance nor in a step (paper: no box); the boundary is approached in `approach` equal parts, share = 1/4, 1/3, 1/2, 1, 1, ...
(paper: 1), since a first step all the way follows the gradient of the example too far; the `first` likeliest rivals are
linearised at the example and later the `refined` nearest, where a gradient that was never taken counts as long as the longest
that was (paper: all, at every point); on a grid a step goes on by half a step of it at least, since points are rounded back towards
the example; a targeted or top-k goal and a predicate have one boundary, that of their margin; an example leaves the batch once it
has crossed.
"""

from dataclasses import dataclass
from typing import ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch, like
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import nearest_plane, rivals_of, shortest_step
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["DeepFool", "deepfool"]


@dataclass(frozen=True)
class DeepFool:
    """DeepFool. Cost: at most `steps` + 1 forwards and `first` + (`steps` - 1) * `refined` backwards an example; `steps` backwards
    towards a target. Most examples cross after five steps.

    Args:
        steps: most steps.
        candidates: classes that are looked at, the likeliest ones with the true one among them.
        first: rivals whose boundaries are linearised at the example, the likeliest.
        refined: rivals whose boundaries are linearised at each later point, the nearest by the latest estimate.
        approach: equal parts in which the boundary is approached; 1 steps onto it at once.
        overshoot: how far past the boundary the points lie, as a share of the change.
    """

    steps: int = 50
    candidates: int = 10
    first: int = 3
    refined: int = 1
    approach: int = 4
    overshoot: float = 0.02

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "candidates", "first", "refined", "approach")
        not_negative(self, "overshoot")
        if self.candidates < 2:
            raise SettingError(
                f"deepfool looks at the true class and at least one rival, got candidates={self.candidates}"
            )

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        z = base = found.x
        rivals = lengths = None
        for step in range(self.steps):
            if not len(found):
                return found.best
            margin, logits, vjp = found.look(z)
            found.drop(found.succeeds(margin, logits))
            if rivals is None:
                rivals = rivals_of(logits, found.goal, self.candidates)
            plane, lengths = nearest_plane(
                z, logits, vjp, found.goal, found.space, rivals, lengths, count=self.refined, first=self.first
            )
            share = 1 / max(self.approach - step, 1)
            length = (plane.distance.nan_to_num(0.0, 0.0, 0.0) * share).clamp_min(shortest_step(found.space))
            base = found.inside(base + like(length, base) * found.space.norm.steepest(plane.gradient))
            z = found.inside(found.x + (1 + self.overshoot) * (base - found.x))
            z, base, rivals, lengths = found.compact(z, base, rivals, lengths)
        if len(found):
            found.ask(z)
        return found.best


deepfool = friendly(DeepFool)
