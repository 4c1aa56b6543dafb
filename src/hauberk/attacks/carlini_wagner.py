"""Carlini and Wagner's attacks: the margin as a penalty on the size of the change, weighed by a searched constant.

    L2      minimise |z - x|^2 + c * f(z),  z in tanh space, by Adam          f = max(confidence - margin, 0)
            c: ten times larger after a run without a success, else halfway to the largest that failed
    L-inf   minimise sum max(|z_i - x_i| - tau, 0) + c * f(z), and tau falls below each change found
    L0      the L2 attack on fewer and fewer values: after a success those of the least |gradient_i * change_i| are held

Source: Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks", arXiv:1608.04644, sections V and VI.
**Differs from the paper:**

- a wall of the box lies at a finite w (`blocks.tanh_space`): under the paper's tanh a value at 0 or 1 never moves, and when it
  is first shrunk by 1e-6, as usual, it needs hundreds of steps to begin to;
- an untargeted attack first runs towards each of the `rivals` nearest rivals by the gradients at the example, and only then
  towards any class from the best of these (paper: one targeted run for each class, or any class from the example);
- the first c is four times the least that holds the nearest point of the linearised boundary, in L-inf a tenth of one over the
  mean gradient (paper: 0.001);
- runs are of 200 steps (paper: 10,000): the step falls to 0 over each as a cosine, and later ones start at the smallest
  success so far (paper: at the example);
- every example has its own c, tau, and held values, and leaves a run once its loss stops falling, asked after each tenth of
  the steps (paper's code: the batch as a whole);
- tau is bisected between the largest that failed and the smallest change, and c doubled after a failure (paper: tau times 0.9,
  and c doubled until that succeeds);
- in L0 half of the values in use are held after a success, a smaller share after each failure (paper: one value).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, planes_at_start
from hauberk.blocks.confident import with_confidence
from hauberk.blocks.tanh_space import TanhSpace
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["CarliniWagner", "carlini_wagner"]

_REACH = 0.9
_CHECKS = 10
_STILL = 0.9999
"""Where the least loss of a tenth of the steps is more than this share of that of the tenth before, it has stopped falling."""
Penalty = Callable[[Batch, Tensor], tuple[PerExample, Batch]]
"""(change, rows) -> its penalty and the gradient of that."""


@dataclass(frozen=True)
class CarliniWagner:
    """Carlini and Wagner's attacks. Cost in L2: at most (`rivals` + `binary_search_steps`) * `steps` + 1 forwards and 9 backwards
    more than that, an example. In L-inf and L0 the search for tau, or for the values to hold, takes some ten to twenty runs.

    Args:
        binary_search_steps: runs of the L2 attack, each with another c, after those towards the rivals.
        steps: most steps of Adam in a run.
        learning_rate: first step of a run, in units of w.
        initial_const: first c; where None, from the gradient at the example.
        rivals: nearest other classes that an untargeted attack first runs towards.
        searches: most runs for tau or for the values to hold; both searches end by themselves.
        confidence: margin of the logits that counts as success.
    """

    binary_search_steps: int = 3
    steps: int = 200
    learning_rate: float = 0.05
    initial_const: float | None = None
    rivals: int = 3
    searches: int = 60
    confidence: float = 0.0

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF, Norm.L0})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "binary_search_steps", "steps", "learning_rate", "initial_const")
        not_negative(self, "rivals", "searches", "confidence")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, with_confidence(goal, self.confidence), ball_of(self, region))
        search = _Search(self, found, goal)
        if found.region.norm is Norm.L2:
            search.towards_rivals(squares)
            search.for_const()
        elif found.region.norm is Norm.LINF:
            search.towards_rivals(search.beyond_tau)
            search.for_tau()
        else:
            search.towards_rivals(squares)
            search.for_values()
        return found.best


class _Search:
    """The runs on one batch, and what they know of each of its examples.

    Attributes:
        c, tau: (n,) of the next run.
        near, near_size: (n, *shape), (n,) the smallest success of any size, which later runs start from, and its size: in L-inf,
            else in L2.
        free: (n, *shape) bool, the values that L0 does not hold.
    """

    def __init__(self, settings: CarliniWagner, found: Closest, goal: Goal) -> None:
        self.settings, self.found, self.goal = settings, found, goal
        self.space = TanhSpace(found.region.box, _REACH)
        self.c = torch.full_like(found.size, settings.initial_const or 1.0)
        self.tau = torch.full_like(found.size, math.inf)
        self.measure = Norm.LINF if found.region.norm is Norm.LINF else Norm.L2
        self.near, self.near_size = found.best.clone(), found.size.clone()
        self.free = torch.ones_like(found.best, dtype=torch.bool)

    def towards_rivals(self, penalty: "Penalty") -> None:
        """The first runs, all from the example: towards each of the nearest rivals, or where the goal names no true class
        towards the goal. The c of the run that found the smallest change is kept."""
        if not len(self.found):
            return
        norm = self.found.region.norm
        goals, distances, lengths = planes_at_start(
            self.found, self.goal, max(self.settings.rivals, 1), norm=Norm.L2 if norm is Norm.L0 else norm
        )
        kept = self.c
        for run, goal in enumerate(goals):
            live = self._work_on()
            first = self.settings.initial_const
            if norm is Norm.LINF:
                self.tau = 1.1 * distances[:, run]
                self.c = math.prod(self.found.best.shape[1:]) / (10 * lengths[:, run])
            else:
                self.c = 8 * distances[:, run] / lengths[:, run]
            self.c = (
                self.c.nan_to_num(1.0, 1.0, 1.0).clamp(1e-6, 1e6) if first is None else torch.full_like(kept, first)
            )
            before = self.near_size.clone()
            self._run(self.found.x, penalty, goal.take(live))
            kept = torch.where((self.near_size < before) | before.isinf(), self.c, kept)
        self.c = kept

    def for_const(self) -> None:
        """L2: the binary search for c."""
        won = self.near_size.isfinite()
        low, high = torch.zeros_like(self.c), torch.full_like(self.c, math.inf)
        for _ in range(self.settings.binary_search_steps):
            low, high = torch.where(won, low, self.c), torch.where(won, self.c, high)
            self.c = torch.where(high.isinf(), 10 * self.c, (low + high) / 2)
            rows = self._work_on()
            won = self._run(self.near[rows], squares)

    def for_tau(self) -> None:
        """L-inf: the search for the smallest tau that holds, until it is known to 1 %; where none has held yet, tau doubles up to the
        width of the box."""
        size, failed = self.near_size, torch.zeros_like(self.tau)
        width = self.found.region.box[1] - self.found.region.box[0]
        for _ in range(self.settings.searches):
            lower = torch.maximum(0.9 * size, (failed + size) / 2)
            self.tau = torch.where(size.isfinite(), lower, 2 * self.tau)
            rows = self._work_on(torch.where(size.isfinite(), size - failed > 0.01 * size, failed < width))
            if not len(rows):
                return
            self._run(self.near[rows], self.beyond_tau, enough=self.tau)
            failed[rows] = torch.where(size <= self.tau, failed, self.tau)[rows]
            self.c[rows] = torch.where(size <= self.tau, self.c, 2 * self.c)[rows]

    def for_values(self) -> None:
        """L0: hold more and more values, until four runs in a row failed or no value is left to hold."""
        found = self.found
        share, failures = torch.full_like(found.size, 0.5), torch.zeros_like(found.size)
        free = self.free.clone()
        for _ in range(self.settings.searches):
            rows = self._work_on(self.near_size.isfinite() & (failures < 4))
            if not len(rows):
                return
            z = self.near[rows]
            _, logits, vjp = found.look(z)
            _, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), found.goal)
            worth = flat(vjp(slope) * (z - found.x)).abs()
            (z, worth) = found.compact(z, worth)
            rows = found.rows
            if not len(rows):
                return
            count = flat(free[rows]).sum(dim=1)
            worth = worth.masked_fill(~flat(free[rows]), -1.0)
            left = torch.minimum((worth > 0).sum(dim=1), (count * (1 - share[rows])).ceil().to(count)).minimum(
                count - 1
            )
            place = worth.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            self.free[rows] = (place < left[:, None]).reshape(z.shape)
            self.near_size[rows] = math.inf
            before = self.near.clone()
            self._run(torch.where(self.free[rows], z, found.x), squares)
            won = self.near_size.isfinite()
            free[rows] = torch.where(wide(won[rows], z), self.free[rows], free[rows])
            self.near[rows] = torch.where(wide(won[rows], z), self.near[rows], before[rows])
            self.near_size[rows] = 0.0
            failures[rows] = torch.where(won, 0.0, failures + 1)[rows].to(failures)
            share[rows] = torch.where(won, share, share / 2)[rows]
            self.c[rows] = torch.where(won, self.c, 4 * self.c)[rows]

    def beyond_tau(self, change: Batch, rows: Tensor) -> tuple[PerExample, Batch]:
        """What the values have beyond tau, summed."""
        beyond = change.abs() - like(self.tau[rows], change)
        return flat(beyond.clamp_min(0)).sum(dim=1), change.sign() * (beyond > 0)

    def _work_on(self, wanted: Tensor | None = None) -> Tensor:
        """Take up the examples that are not done; the rows."""
        self.found.restart()
        if wanted is not None:
            self.found.drop(~wanted[self.found.rows])
        self.found.compact()
        return self.found.rows

    def _run(
        self, start: Batch, penalty: "Penalty", towards: Goal | None = None, *, enough: PerExample | None = None
    ) -> Tensor:
        """One run of Adam; (n,) bool: the examples whose last tenth of the steps had a success, of any size.

        Args:
            start: (live, *shape).
            towards: what the loss climbs to, the goal itself where None.
            enough: (n,) a success of this size, as `near_size` has it, ends the run.
        """
        found, settings, space = self.found, self.settings, self.space
        won = torch.zeros_like(self.c, dtype=torch.bool)
        w, home = space.enter(start), space.leave(space.enter(found.x))[0]
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        before = lowest = self.c.new_full((len(w),), math.inf)
        lately = won[found.rows]
        began = found.rows
        width = self.found.region.box[1] - self.found.region.box[0]
        speed = (self.tau[began] / width).clamp(1e-4, settings.learning_rate)
        every = max(settings.steps // _CHECKS, 1)
        for step in range(settings.steps):
            rows = found.rows
            if not len(rows):
                break
            z, rate = space.leave(w)
            z = torch.where(self.free[rows], found.inside(found.x + (z - home)), found.x)  # x itself, not nearly
            margin, logits, vjp = found.look(z)
            reached = found.succeeds(margin, logits)
            lately |= reached
            if towards is None:
                wanted = found.goal
            else:
                wanted = with_confidence(towards.take(torch.searchsorted(began, rows)), settings.confidence)
            value, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), wanted)
            weight = self.c[rows]
            change = z - found.x
            size = self.measure.size(change)
            nearer = reached & (size < self.near_size[rows])
            self.near[rows[nearer]], self.near_size[rows[nearer]] = z[nearer], size[nearer]
            cost, pull = penalty(change, rows)
            gradient = rate * (pull + vjp(slope * (-weight * (value <= 0))[:, None].to(slope)))
            lowest = torch.minimum(lowest, cost + weight * (-value).clamp_min(0))
            if step % every == every - 1:
                found.drop(~(lowest <= _STILL * before))
                before, lowest = lowest, torch.full_like(lowest, math.inf)
                won[rows], lately = lately, torch.zeros_like(lately)
            if enough is not None:
                found.drop(self.near_size[rows] <= enough[rows])
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient.square()
            pace = (1 + math.cos(math.pi * step / settings.steps)) / 2
            pace *= math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            w = space.hold(w - pace * like(speed, w) * mean / (square.sqrt() + 1e-8))
            w, home, mean, square, speed, before, lowest, lately = found.compact(
                w, home, mean, square, speed, before, lowest, lately
            )
        return won


def squares(change: Batch, rows: Tensor) -> tuple[PerExample, Batch]:
    """The squared L2 size."""
    return flat(change).square().sum(dim=1), 2 * change


carlini_wagner = friendly(CarliniWagner)
