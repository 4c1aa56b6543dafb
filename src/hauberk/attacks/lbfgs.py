"""Box-constrained L-BFGS: the first attack there was, a weighed sum of the change's size and the model's loss.

    minimise  c |r|_2^2 + loss(x + r, wanted class)  with x + r in the box, for the largest c whose minimum reaches the goal

The inner problem is solved by projected L-BFGS with the ten latest pairs (s, y) of each example: the direction -H g in the
coordinates that g does not push against a wall, Armijo backtracking along its projection. One example is at its first trial of a
step while another is at its third, but each trial of all is one query.

Source: Szegedy, Zaremba, Sutskever, Bruna, Erhan, Goodfellow, Fergus 2014, "Intriguing properties of neural networks",
arXiv:1312.6199, section 4.1; L-BFGS: Liu and Nocedal 1989; backtracking along the projection: Bertsekas 1982.
**Differs from the paper:** |r|_2^2 for |r| (whose gradient is missing at r = 0, where every run would begin); an untargeted goal
is climbed to through its nearest rival by the gradients at the example (paper: a given wrong class); c starts a tenth below where
the linearised model would be held on its boundary, is doubled until a run fails or divided by ten until one succeeds, and
bisected on a logarithmic scale; later runs begin at the smallest success so far; every example has its own c, step and
curvature pairs.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Logits, PerExample, double, flat, like, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import planes_at_start, shortest_step
from hauberk.blocks.losses import cross_entropy
from hauberk.errors import SettingError
from hauberk.threat import Access, Classed, Differentiable, Goal, Norm, Region

__all__ = ["LBFGS", "lbfgs"]

_PAIRS = 10
_ARMIJO = 1e-4
_STILL = 1e-6
"""A step that lowers the objective by less than this share of it is the last."""
_TRIALS = 12
"""Halvings of one step before it is given up."""


@dataclass(frozen=True)
class LBFGS:
    """Box-constrained L-BFGS. Cost: at most `binary_search_steps` * `steps` + 1 forwards and 9 backwards more than that, an example;
    beside the victim's work, forty additions and multiplications for every value and query, and memory of twenty inputs an
    example.

    Args:
        binary_search_steps: runs, each with another c.
        steps: most queries of a run.
        initial_const: first c; where None, from the gradient at the example.
    """

    binary_search_steps: int = 10
    steps: int = 50
    initial_const: float | None = None

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "binary_search_steps", "steps", "initial_const")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        if not isinstance(goal, Classed):
            raise SettingError(
                f"lbfgs lowers the cross-entropy of a class and needs a goal about classes, got {type(goal).__name__}; "
                "use carlini_wagner, which follows any margin"
            )
        found = Closest(victim, x, goal, ball_of(self, region))
        if not len(found):
            return found.best
        goals, distances, lengths = planes_at_start(found, goal, 1)
        towards, first_step = goals[0], distances[:, 0].nan_to_num(1.0, 1.0, 1.0).clamp_min(1e-9)
        if found.space.grid is not None:  # a shorter one would be rounded away
            first_step = first_step.clamp_min(2 * shortest_step(found.space))
        # c |r|^2 + softplus(gap - |g| |r|) has its minimum on the boundary at c = |g| / (4 distance); beyond it is better than on it
        c = (0.9 * lengths[:, 0] / (4 * first_step)).nan_to_num(1.0, 1.0, 1.0).clamp(1e-9, 1e9)
        if self.initial_const is not None:
            c = torch.full_like(c, self.initial_const)
        reached, failed = (
            torch.zeros_like(c),
            torch.full_like(c, math.inf),
        )  # the largest c that did, the smallest that did not
        near, near_size = found.best.clone(), torch.full_like(c, math.inf)
        for _ in range(self.binary_search_steps):
            found.restart()
            found.compact()
            rows = found.rows
            if not len(rows):
                break
            won, points, sizes = self._run(
                found, near[rows], c, torch.where(near_size.isfinite(), 0.1, 1.0) * first_step, towards
            )
            better = sizes < near_size
            near, near_size = torch.where(wide(better, near), points, near), torch.where(better, sizes, near_size)
            reached, failed = torch.where(won, c, reached), torch.where(won, failed, c)
            middle = torch.where(failed.isinf(), 2 * c, torch.where(reached == 0, c / 10, (reached * failed).sqrt()))
            c = middle.clamp(1e-12, 1e12)
        return found.best

    def _run(
        self, found: Closest, start: Batch, c: PerExample, first_step: PerExample, towards: Goal
    ) -> tuple[Tensor, Batch, PerExample]:
        """Minimise from `start`, (live, *shape). Three of (n, ...): whether the minimum is a success, the smallest success of the
        run, and its size, inf where there is none."""
        won = torch.zeros_like(c, dtype=torch.bool)
        near, near_size = found.best.clone(), torch.full_like(c, math.inf)
        z, state = start, None
        for _ in range(self.steps):
            rows = found.rows
            if not len(rows):
                break
            margin, logits, vjp = found.look(z)
            change = z - found.x
            size = Norm.L2.size(change)
            reached = found.succeeds(margin, logits)
            better = reached & (size < near_size[rows])
            near[rows[better]], near_size[rows[better]] = z[better], size[better]
            loss, slope = _loss(logits, towards.take(rows))
            weight = c[rows]
            value = (loss + weight * flat(change).square().sum(dim=1)).to(loss)
            gradient = vjp(slope) + 2 * like(weight, z) * change
            if state is None:
                state = _Quasi(z, value, gradient)
            finished = state.judge(z, value, gradient)
            found.drop(finished)
            won[rows] = torch.where(state.accepted, reached, won[rows])
            state.turn(found.space.box, first_step[rows])
            z = found.inside(state.trial())
            (z, *parts) = found.compact(z, *state.parts())
            state.keep(parts)
        return won, near, near_size


class _Quasi:
    """Projected L-BFGS of each live example between two trials of a step.

    Attributes:
        at, value, gradient: (B, *shape), (B,), (B, *shape) the last accepted point, the objective and its gradient there.
        direction, length: (B, *shape), (B,) of the step that is tried.
        trials: (B,) how often it was halved.
        steps, turns: (B, pairs, D) differences of accepted points and of their gradients, the latest first; 0 where there is none.
    """

    def __init__(self, z: Batch, value: PerExample, gradient: Batch) -> None:
        self.at, self.value, self.gradient = z, value, gradient
        self.direction, self.length = torch.zeros_like(z), torch.ones_like(value)
        self.trials = torch.full_like(value, -1.0)  # the start itself is accepted
        self.steps = flat(z).new_zeros((len(z), _PAIRS, flat(z).shape[1]))
        self.turns = torch.zeros_like(self.steps)

    def judge(self, z: Batch, value: PerExample, gradient: Batch) -> Tensor:
        """Accept the trial point z or halve the step, row by row; (B,) bool: which rows are at their end."""
        step, turn = flat(z - self.at), flat(gradient - self.gradient)
        foretold = (flat(self.gradient) * step).sum(dim=1)
        first = self.trials < 0
        self.accepted = accepted = first | (value <= self.value + _ARMIJO * foretold.clamp_max(0))
        curved = accepted & ((step * turn).sum(dim=1) > 1e-10 * step.norm(dim=1) * turn.norm(dim=1)) & ~first
        push = curved[:, None, None]
        self.steps = torch.where(push, torch.cat((step[:, None], self.steps[:, :-1]), dim=1), self.steps)
        self.turns = torch.where(push, torch.cat((turn[:, None], self.turns[:, :-1]), dim=1), self.turns)
        flatter = accepted & ~first & (self.value - value <= _STILL * self.value.abs())
        self.at = torch.where(wide(accepted, z), z, self.at)
        self.gradient = torch.where(wide(accepted, z), gradient, self.gradient)
        self.value = torch.where(accepted, value, self.value)
        self.trials = torch.where(accepted, 0.0, self.trials + 1)
        # the projection of a step can climb although the step descends: then, and before the end, try the gradient itself
        plain = self.steps[:, 0].any(dim=1) & ((self.trials == _TRIALS) | flatter)
        self.steps, self.turns = (pairs.masked_fill(wide(plain, pairs), 0.0) for pairs in (self.steps, self.turns))
        self.trials = self.trials.masked_fill(plain, 0.0)
        self.anew = accepted | plain
        self.length = torch.where(self.anew, 1.0, self.length / 2)
        return ((flatter | (self.trials >= _TRIALS)) & ~plain) | ~value.isfinite()

    def turn(self, box: tuple[float, float], first_step: PerExample) -> None:
        """A new direction for the rows that accepted their point, or gave the last one up."""
        low, high = box
        free = flat(torch.where(self.gradient > 0, self.at > low, self.at < high))
        g = flat(self.gradient) * free
        tiny = torch.finfo(g.dtype).tiny
        curvature = (self.steps * self.turns).sum(dim=2)
        known = curvature > 0
        rho = torch.where(known, 1 / curvature.clamp_min(tiny), 0.0)
        q, alphas = g, []
        for pair in range(_PAIRS):
            alpha = rho[:, pair] * (self.steps[:, pair] * q).sum(dim=1)
            q = q - alpha[:, None] * self.turns[:, pair]
            alphas.append(alpha)
        newest = self.turns[:, 0].square().sum(dim=1)
        length = g.norm(dim=1).clamp_min(tiny)
        scale = torch.where(known[:, 0], curvature[:, 0] / newest.clamp_min(tiny), first_step.to(g) / length)
        q = q * scale[:, None]
        for pair in reversed(range(_PAIRS)):
            beta = rho[:, pair] * (self.turns[:, pair] * q).sum(dim=1)
            q = q + (alphas[pair] - beta)[:, None] * self.steps[:, pair]
        q = q * free
        descends = ((q * g).sum(dim=1) > 0) & q.isfinite().all(dim=1)
        q = torch.where(descends[:, None], q, g * (first_step.to(g) / length)[:, None])
        self.direction = torch.where(wide(self.anew, self.at), -q.reshape(self.at.shape), self.direction)

    def trial(self) -> Batch:
        """The points to try, before the box."""
        return self.at + like(self.length, self.at) * self.direction

    def parts(self) -> list[Tensor]:
        """Everything that has a row for each example."""
        fields = [self.at, self.value, self.gradient, self.direction, self.length, self.trials]
        return [*fields, self.steps, self.turns]

    def keep(self, parts: list[Tensor]) -> None:
        """What is left of `parts` after rows went."""
        self.at, self.value, self.gradient, self.direction, self.length, self.trials, self.steps, self.turns = parts


def _loss(logits: Logits, goal: Goal) -> tuple[PerExample, Logits]:
    """The cross-entropy that falls towards the goal, in float64, and its derivative by the logits."""
    with torch.enable_grad():
        leaf = logits.nan_to_num(0.0, 0.0, 0.0).detach().to(double(logits)).requires_grad_()
        loss = -cross_entropy(leaf, goal)
        (slope,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), slope.to(logits)


lbfgs = friendly(LBFGS)
