"""FAB, the fast adaptive boundary attack: step onto the linearised boundary, but keep pulling towards the example.

    s        the rival whose linearised boundary H = {z: f_s(z_t) + <grad f_s(z_t), z - z_t> = 0} is nearest, |f_s| / |grad f_s|_q
    u      = x + beta (z_t - x) where z_t reaches the goal, else z_t                         beta = 0.9
    d, d_0   the smallest changes inside the box from u, and from the example x, onto H
    a      = min(|d|_p / (|d|_p + |d_0|_p), alpha_max), 0 before the goal is first reached        alpha_max = 0.1
    z_(t+1) = clip((1 - a) (u + eta d) + a (x + eta d_0))                                       eta = 1.05

where f_s is the score of rival s less that of the true class. At the end three points on the line from x to the smallest
success found, each where the line through its ends' margins crosses 0.

Source: Croce and Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
arXiv:1907.02044; the targeted form as in AutoAttack, arXiv:2003.01690, section 5.
**Differs from the paper:** the boundary is linearised at z_t, which lies nearer to it, not at u: half the forwards, and on our nets
changes as small or smaller; nothing pulls towards the example before the boundary is first crossed, which in L1 some examples else
never do; after the first step only the `refined` nearest rivals are linearised, and only the likeliest of many
classes (paper: all, always); a goal other than leaving one class has one boundary, that of its margin; restarts begin within half
of the smallest change found, the radius, and .3, 1 or 5 (L-inf, L2, L1) widths of the box; on a grid each miss in a row moves
the boundary half a step of it away; with a radius an example leaves once it is broken within it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Logits, PerExample, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest, likeliest_rivals
from hauberk.blocks.boundaries import margin_slope, rivals_of, shortest_step
from hauberk.blocks.hyperplane import reach_hyperplane
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region, Untargeted

__all__ = ["FAB", "fab"]

_FURTHEST = {Norm.LINF: 0.3, Norm.L2: 1.0, Norm.L1: 5.0}
"""In widths of the box, twice the furthest that a restart begins."""
_SEARCH = 3
"""Points of the final search."""
_BEYOND = 1e-4
"""Of the bracket: how far past the crossing such a point lies, since the crossing itself is no success."""


@dataclass(frozen=True)
class FAB:
    """FAB attack, for the smallest change or within a radius.

    Cost: at most `restarts` * max(`targets`, 1) * (`steps` + 1) + 6 forwards an example; a backward for each step with targets,
    without them `candidates` - 1 at the first step of a run and `refined` at the others.

    Args:
        steps: steps of each run.
        targets: 0 steps onto the nearest boundary; k runs towards each of the k most likely wrong classes in turn (fewer if the
            model has fewer), on an untargeted goal only, and any wrong class counts. AutoAttack's FAB-T is targets=9.
        restarts: runs, for each target if there are any; the first begins at the example, the others at random points near it.
        candidates: classes that an untargeted run looks at, the likeliest ones with the true one among them.
        refined: rivals whose boundaries are linearised anew after the first step, the nearest by the latest estimate.
        alpha_max: the most that a step may be drawn towards the example.
        eta: how far a step goes, 1 being onto the linearised boundary.
        beta: where to go on from once a point reaches the goal, 0 being the example and 1 that point.
    """

    steps: int = 100
    targets: int = 0
    restarts: int = 1
    candidates: int = 10
    refined: int = 2
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "candidates", "refined", "alpha_max", "eta", "beta")
        not_negative(self, "targets")
        if self.candidates < 2:
            raise SettingError(f"fab looks at the true class and at least one rival, got candidates={self.candidates}")
        for name in ("alpha_max", "beta"):
            if getattr(self, name) > 1:
                raise SettingError(f"fab needs {name} in (0, 1], got {name}={getattr(self, name)}")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        goals: list[Goal] = [goal]
        if self.targets:
            goals = [
                *likeliest_rivals(
                    found, goal, self.targets, asker=f"fab with targets={self.targets}", instead="targets=0"
                )
            ]
        for wanted in goals:
            for restart in range(self.restarts):
                found.restart()
                if not len(found):
                    return found.best
                self._run(found, wanted, _near(found, streams) if restart else found.x)
        _search(found)
        return found.best

    def _run(self, found: Closest, wanted: Goal, z: Batch) -> None:
        rivals = lengths = None
        crossed = torch.zeros_like(found.rows, dtype=torch.bool)
        misses = torch.zeros_like(found.size)[found.rows]  # in a row
        for _ in range(self.steps):
            if not len(found):
                return
            norm, goal = found.space.norm, wanted.take(found.rows)
            asked = found.space.snap(z, found.x)
            margin, logits, vjp = found.look(z)
            if rivals is None:
                rivals = rivals_of(logits, goal, self.candidates)
            value, slope, lengths = self._nearest(z, logits, vjp, goal, norm, rivals, lengths)
            back = (margin > 0) | margin.isnan()  # where the answer is no number there is no slope either: go back too
            misses = torch.where(back, 0.0, misses + 1)
            z, asked, value, slope, back, rivals, lengths, crossed, misses = found.compact(
                z, asked, value, slope, back, rivals, lengths, crossed, misses
            )
            if not len(found):
                return
            start = torch.where(wide(back, z), found.x + self.beta * (z - found.x), z)
            low, high = found.space.box
            # where the grid took a point back that should have crossed, the plane to reach lies further away each time
            at_zero = (
                value
                - _dot(slope, asked)
                - (misses - 1).clamp_min(0) * shortest_step(found.space) * norm.dual.size(slope)
            )
            d, d_0 = (
                reach_hyperplane(slope, -(at_zero + _dot(slope, point)), low - point, high - point, norm)
                for point in (start, found.x)
            )
            far, far_0 = norm.size(d), norm.size(d_0)
            bias = (far / (far + far_0).clamp_min(torch.finfo(z.dtype).tiny)).clamp_max(self.alpha_max)
            crossed = crossed | back
            a = like(torch.where(crossed, bias, 0.0), z)
            new = found.inside((1 - a) * (start + self.eta * d) + a * (found.x + self.eta * d_0))
            found.drop(flat(new == z).all(dim=1))  # no slope, nowhere to go
            z, rivals, lengths, crossed, misses = found.compact(new, rivals, lengths, crossed, misses)
        if len(found):
            found.ask(z)
            found.compact()

    def _nearest(
        self,
        z: Batch,
        logits: Logits,
        vjp: Callable[[Logits], Batch],
        goal: Goal,
        norm: Norm,
        rivals: Tensor,
        lengths: Tensor | None,
    ) -> tuple[PerExample, Batch, Tensor]:
        """The value and the gradient at z of the function whose linearised zero is nearest, and each rival's |g|_q, (B, K), as far
        as it is known."""
        logits = logits.nan_to_num(0.0, 0.0, 0.0)
        if not rivals.shape[1]:
            value, cotangent = margin_slope(logits, goal)
            return value.to(z), vjp(cotangent), logits.new_zeros((len(z), 0))
        assert isinstance(goal, Untargeted)
        own = goal.classes[:, None]
        leads = logits.gather(1, rivals) - logits.gather(1, own)
        value, slope = leads[:, 0], torch.zeros_like(z)
        nearest = torch.full_like(value, torch.inf)
        if lengths is None:
            lengths = torch.zeros_like(leads)
            order = torch.arange(rivals.shape[1], device=z.device).expand_as(rivals)
        else:
            lengths = lengths.clone()
            order = (leads.abs() / lengths).topk(min(self.refined, rivals.shape[1]), dim=1, largest=False).indices
        for place in order.split(1, dim=1):
            rival, lead = rivals.gather(1, place), leads.gather(1, place).squeeze(1)
            gradient = vjp(torch.zeros_like(logits).scatter_(1, rival, 1.0).scatter_(1, own, -1.0))
            length = norm.dual.size(gradient).clamp_min(torch.finfo(z.dtype).tiny)
            lengths.scatter_(1, place, length[:, None])
            distance = lead.abs() / length
            nearer = distance < nearest
            value, nearest = torch.where(nearer, lead, value), torch.where(nearer, distance, nearest)
            slope = torch.where(wide(nearer, slope), gradient, slope)
        return value.to(z), slope, lengths


def _dot(a: Batch, b: Batch) -> PerExample:
    return (flat(a) * flat(b)).sum(dim=1)


def _near(found: Closest, streams: Streams) -> Batch:
    """A random point half as far away as a success may be."""
    x, norm, (low, high) = found.x, found.space.norm, found.space.box
    draw = streams.uniform if norm is Norm.LINF else streams.normal
    t = draw(found.rows, x.shape[1:], dtype=x.dtype)
    t = 2 * t - 1 if norm is Norm.LINF else t
    radius = torch.as_tensor(found.region.radius, dtype=x.dtype, device=x.device)
    furthest = found.size[found.rows].minimum(radius).clamp_max(_FURTHEST[norm] * (high - low))
    return found.inside(x + t * like(furthest / 2 / norm.size(t).clamp_min(1e-12), x))


def _search(found: Closest) -> None:
    """Look for a smaller success on the line from each example to its smallest one."""
    found.restart()
    found.drop(found.size[found.rows].isinf())
    found.compact()
    if not len(found):
        return
    best, below = found.best[found.rows], found.ask(found.x)
    best, below = found.compact(best, below)
    if not len(found):
        return
    above = found.ask(best)
    near, far = torch.zeros_like(above), torch.ones_like(above)
    best, above, below, near, far = found.compact(best, above, below, near, far)
    for _ in range(_SEARCH):
        if not len(found):
            return
        t = near + (far - near) * ((below / (below - above)).nan_to_num(0.5) + _BEYOND).clamp(0, 1)
        margin = found.ask(found.inside(found.x + like(t, best) * (best - found.x)))
        reached = margin > 0
        above, far = torch.where(reached, margin, above), torch.where(reached, t, far)
        below, near = torch.where(reached, below, margin), torch.where(reached, near, t)
        best, above, below, near, far = found.compact(best, above, below, near, far)


fab = friendly(FAB)
