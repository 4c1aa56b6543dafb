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
- tau is bisected between the largest that failed twice and the smallest change, and c doubled after each failure (paper: tau times
  0.9, and c doubled until that succeeds);
- in L0 half of the values in use are held after a success, a smaller share after each failure (paper: one value).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope
from hauberk.blocks.confident import with_confidence
from hauberk.blocks.constant_search import ConstantSearch, Run
from hauberk.blocks.tanh_space import TanhSpace
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["CarliniWagner", "carlini_wagner"]

_REACH = 0.9
_TRIES = 1
"""More runs at a tau that failed, with c doubled, before it counts as failed: a run may fail for its c alone."""
Penalty = Callable[[Batch, Tensor], tuple[PerExample, Batch]]
"""(change, rows) -> its penalty and the gradient of that."""


@dataclass(frozen=True)
class CarliniWagner:
    """Carlini and Wagner's attacks. Cost in L2: at most (max(`rivals`, 1) + `binary_search_steps`) * `steps` + 1 forwards and 9 backwards
    more than that, an example. In L-inf and L0 the search for tau, or for the values to hold, takes some ten to twenty runs.

    Args:
        binary_search_steps: runs of the L2 attack, each with another c, after those towards the rivals.
        steps: most steps of Adam in a run.
        learning_rate: first step of a run, in units of w.
        initial_const: first c; where None, from the gradient at the example.
        rivals: nearest other classes that an untargeted attack first runs towards, one after the other; 0 makes that one run by
            its margin, towards whichever class is ahead.
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
            search.towards_rivals(self.rivals, search.first, partial(search.run, penalty=squares))
            search.bisect(self.binary_search_steps, partial(search.run, penalty=squares))
        elif found.region.norm is Norm.LINF:
            search.towards_rivals(self.rivals, search.first, partial(search.run, penalty=search.beyond_tau))
            search.for_tau()
        else:
            search.towards_rivals(self.rivals, search.first, partial(search.run, penalty=squares), norm=Norm.L2)
            search.for_values()
        return found.best


class _Search(ConstantSearch):
    """The runs on one batch, and what they know of each of its examples; `near_size` is in L-inf there, else in L2.

    Attributes:
        tau: (n,) of the next run.
        free: (n, *shape) bool, the values that L0 does not hold.
    """

    def __init__(self, settings: CarliniWagner, found: Closest, goal: Goal) -> None:
        super().__init__(found, goal, confidence=settings.confidence, initial=settings.initial_const)
        self.settings = settings
        self.space = TanhSpace(found.region.box, _REACH)
        self.tau = torch.full_like(found.size, math.inf)
        self.measure = Norm.LINF if found.region.norm is Norm.LINF else Norm.L2
        self.free = torch.ones_like(found.best, dtype=torch.bool)

    def first(self, distances: PerExample, lengths: PerExample) -> PerExample:
        """The first c towards a rival; in L-inf the first tau is set beside it."""
        if self.measure is Norm.L2:
            return 8 * distances / lengths
        self.tau = 1.1 * distances
        return math.prod(self.found.best.shape[1:]) / (10 * lengths)

    def for_tau(self) -> None:
        """L-inf: the search for the smallest tau that holds, until it is known to 1 %; where none has held yet, tau doubles up to the
        width of the box."""
        size, failed = self.near_size, torch.zeros_like(self.tau)
        tries = torch.zeros_like(self.tau)
        width = self.found.region.box[1] - self.found.region.box[0]
        for _ in range(self.settings.searches):
            lower = torch.maximum(0.9 * size, (failed + size) / 2)
            self.tau = torch.where(size.isfinite(), lower, 2 * self.tau)
            rows = self.work_on(torch.where(size.isfinite(), size - failed > 0.01 * size, failed < width))
            if not len(rows):
                return
            self.run(self.near[rows], self.goal.take(rows), penalty=self.beyond_tau, enough=self.tau)
            won = size <= self.tau
            again = ~won & (tries < _TRIES)
            failed[rows] = torch.where(won | again, failed, self.tau)[rows]
            self.c[rows] = torch.where(won, self.c, 2 * self.c)[rows]
            tries[rows] = torch.where(again, tries + 1, 0.0)[rows].to(tries)

    def for_values(self) -> None:
        """L0: hold more and more values, until four runs in a row failed or no value is left to hold."""
        found = self.found
        share, failures = torch.full_like(found.size, 0.5), torch.zeros_like(found.size)
        free = self.free.clone()
        for _ in range(self.settings.searches):
            rows = self.work_on(self.near_size.isfinite() & (failures < 4))
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
            self.run(torch.where(self.free[rows], z, found.x), self.goal.take(rows), penalty=squares)
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

    def run(self, start: Batch, towards: Goal, *, penalty: Penalty, enough: PerExample | None = None) -> Tensor:
        """One run of Adam; (n,) bool, as `RunOnce` has it.

        Args:
            start: (live, *shape).
            towards: what the loss climbs to.
            penalty: of the change.
            enough: (n,) a success of this size, as `near_size` has it, ends the run.
        """
        found, settings, space = self.found, self.settings, self.space
        run = Run(self, towards, settings.steps)
        w, home = space.enter(start), space.leave(space.enter(found.x))[0]
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        width = found.region.box[1] - found.region.box[0]
        speed = (self.tau[found.rows] / width).clamp(1e-4, settings.learning_rate)
        for step in range(settings.steps):
            rows = found.rows
            if not len(rows):
                break
            z, rate = space.leave(w)
            z = torch.where(self.free[rows], found.inside(found.x + (z - home)), found.x)  # x itself, not nearly
            change = z - found.x
            cost, pull = penalty(change, rows)
            gradient = rate * (pull + run.step(z, self.measure.size(change), cost))
            if enough is not None:
                found.drop(self.near_size[rows] <= enough[rows])
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient.square()
            pace = (1 + math.cos(math.pi * step / settings.steps)) / 2
            pace *= math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            w = space.hold(w - pace * like(speed, w) * mean / (square.sqrt() + 1e-8))
            w, home, mean, square, speed = run.compact(w, home, mean, square, speed)
        return run.won


def squares(change: Batch, rows: Tensor) -> tuple[PerExample, Batch]:
    """The squared L2 size."""
    return flat(change).square().sum(dim=1), 2 * change


carlini_wagner = friendly(CarliniWagner)
