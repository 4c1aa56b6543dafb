"""Trust region attack: steps along the linearised margin, as long as the linearisation was last found to be trusted.

    d = steepest_p(g) * min(gap / |g|_q, radius_t)          g = grad (f_k - f_y)(z), q dual to p, k one rival from the start
    rho = rise of f_k - f_y found / rise foretold: above 0.9 the radius grows by 1.2, below 0.5 it shrinks by that

Source: Yao, Gholami, Xu, Keutzer, Mahoney 2019, "Trust region based adversarial attack on neural networks", arXiv:1812.06371,
section 3 (adaptive), with the constants of the authors' code.
**Differs from the paper:** what a gradient pushes against a wall of the box counts neither in a length nor in a step; rho is
read from the next point's own answer, so that a step costs one query (authors' code: two), and a step is never taken back, as in
their code; the bounds on the radius are shares of the box's width, and neither they nor a step are less than half a step of the
threat's grid; a targeted or top-k goal and a predicate are followed by their margin.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, like
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, planes_at_start, shortest_step
from hauberk.threat import Access, Differentiable, Goal, Norm, Region, Rival

__all__ = ["TrustRegion", "trust_region"]

_BOUNDS = {Norm.L2: (0.0005, 0.05), Norm.LINF: (0.0001, 0.01)}
"""Of the radius, for a box of width 1; the authors' code."""
_BEYOND = 1e-4
"""Added to every step, for a box of width 1; the authors' code."""
_TRUSTED, _DOUBTED, _FACTOR = 0.9, 0.5, 1.2


@dataclass(frozen=True)
class TrustRegion:
    """Trust region attack. Cost: at most `steps` + 2 forwards and `steps` + 9 backwards an example; some thirty of each as a rule.

    Args:
        steps: most steps.
        step_size: first radius of trust, in units of the norm for a box of width 1.
        adaptive: let the radius grow and shrink.
        worst_case: climb to the rival that is furthest by the gradients at the example, not to the nearest.
        overshoot: how far beyond the boundary or the radius a step goes, as a share of it.
    """

    steps: int = 500
    step_size: float = 0.001
    adaptive: bool = True
    worst_case: bool = False
    overshoot: float = 0.02

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size")
        not_negative(self, "overshoot")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        if not len(found):
            return found.best
        goals, distances, _ = planes_at_start(found, goal, 9)
        found.compact()
        towards = _furthest(goals, distances) if self.worst_case else goals[0]
        norm, (low, high) = found.space.norm, found.space.box
        shortest = shortest_step(found.space)
        least, most = (max(bound * (high - low), shortest) for bound in _BOUNDS[norm])
        z = found.x
        trust = torch.full_like(found.size, self.step_size * (high - low))[found.rows]
        foretold, before = torch.zeros_like(trust), torch.zeros_like(trust)
        for step in range(self.steps):
            if not len(found):
                return found.best
            margin, logits, vjp = found.look(z)
            found.drop(found.succeeds(margin, logits))
            value, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), towards.take(found.rows))
            if self.adaptive and step:
                rho = (value - before) / foretold
                factor = torch.where(rho > _TRUSTED, _FACTOR, torch.where(rho < _DOUBTED, 1 / _FACTOR, 1.0))
                trust = (trust * factor).clamp(least, most).to(trust)
            gradient = vjp(slope)
            gradient = gradient.masked_fill(torch.where(gradient > 0, z >= high, z <= low), 0.0)
            length = norm.dual.size(gradient)
            far = ((-value).clamp_min(0) / length).nan_to_num(0.0, 0.0, 0.0).minimum(trust)
            far = ((far + _BEYOND * (high - low)) * (1 + self.overshoot)).clamp_min(shortest)
            foretold, before = (length * far).clamp_min(torch.finfo(far.dtype).tiny), value
            z = found.inside(z + like(far, z) * norm.steepest(gradient))
            z, trust, foretold, before = found.compact(z, trust, foretold, before)
        if len(found):
            found.ask(z)
        return found.best


def _furthest(goals: list[Goal], distances: Tensor) -> Goal:
    """The goal whose plane is furthest away, row by row."""
    if not all(isinstance(goal, Rival) for goal in goals):
        return goals[0]
    rivals = [goal for goal in goals if isinstance(goal, Rival)]
    place = torch.where(distances.isfinite(), distances, -1.0).argmax(dim=1)
    classes = torch.stack([rival.classes for rival in rivals], dim=1).gather(1, place[:, None]).squeeze(1)
    return Rival(classes, rivals[0].own)


trust_region = friendly(TrustRegion)
