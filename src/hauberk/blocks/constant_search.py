"""The search of Carlini and Wagner for the weight c of each example: how much the goal counts beside the size of the change.

    minimise  size(z - x) + c * f(z),   f = max(confidence - margin, 0),   in runs of an optimiser, each with another c

    search = ConstantSearch(found, goal, confidence=0.0)
    search.towards_rivals(3, first, run)      # a run towards each of the nearest rivals, all from the example
    search.bisect(4, run)                     # then by the goal's own margin, from the smallest success so far

where `run(start, towards)` moves z from `start` with the gradients of `Run.step`. c is ten times larger after a run without a
success, else halfway to the largest that failed. An example leaves a run once its objective stops falling.

Source: Carlini and Wagner 2017, arXiv:1608.04644, section V; early abort as in their code, here for each example.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample
from hauberk.blocks.boundaries import margin_slope, planes_at_start
from hauberk.blocks.closest import Closest
from hauberk.blocks.confident import with_confidence
from hauberk.threat import Goal, Norm

__all__ = ["ConstantSearch", "First", "Run", "RunOnce"]

_CHECKS = 10
_STILL = 0.9999
"""Where the least objective of a tenth of the steps is more than this share of that of the tenth before, it has stopped falling."""

First: TypeAlias = Callable[[PerExample, PerExample], PerExample]
"""(distances, gradients' lengths) of one rival at the examples, (n,) -> the first c."""
RunOnce: TypeAlias = Callable[[Batch, Goal], Tensor]
"""(start, what to climb to), a row for each live example -> (n,) bool, which had a success in the last tenth of its steps."""


class ConstantSearch:
    """The runs on one batch, and what they know of each of its examples.

    Args:
        found: whose examples.
        goal: of the batch, without the confidence.
        confidence: margin that counts as success.
        initial: first c of every run towards a rival, where it is given.

    Attributes:
        c: (n,) of the next run.
        near, near_size: (n, *shape), (n,) the best success, whatever the radius, and how good it is by the measure of the runs; later
            runs start there.
    """

    def __init__(self, found: Closest, goal: Goal, *, confidence: float, initial: float | None) -> None:
        self.found, self.goal, self.confidence, self.initial = found, goal, confidence, initial
        self.c = torch.full_like(found.size, initial or 1.0)
        self.near, self.near_size = found.best.clone(), found.size.clone()

    def towards_rivals(self, count: int, first: First, run: RunOnce, *, norm: Norm | None = None) -> None:
        """The first runs, all from the example: towards each of the `count` nearest rivals in this norm (that of the region where
        None), or, where `count` is 0 or the goal names no true class, one by the goal's own margin. The c of the best is kept."""
        if not len(self.found):
            return
        goals, distances, lengths = planes_at_start(self.found, self.goal, max(count, 1), norm=norm)
        kept = self.c
        for place, goal in enumerate(goals if count else [self.goal]):
            rows = self.work_on()
            c = first(distances[:, place], lengths[:, place]).nan_to_num(1.0, 1.0, 1.0).clamp(1e-6, 1e6)
            self.c = c if self.initial is None else torch.full_like(kept, self.initial)
            before = self.near_size.clone()
            run(self.found.x, goal.take(rows))
            kept = torch.where((self.near_size < before) | before.isinf(), self.c, kept)
        self.c = kept

    def bisect(self, times: int, run: RunOnce) -> None:
        """The binary search for c, in so many runs."""
        won = self.near_size.isfinite()
        low, high = torch.zeros_like(self.c), torch.full_like(self.c, math.inf)
        for _ in range(times):
            low, high = torch.where(won, low, self.c), torch.where(won, self.c, high)
            self.c = torch.where(high.isinf(), 10 * self.c, (low + high) / 2)
            rows = self.work_on()
            won = run(self.near[rows], self.goal.take(rows))

    def work_on(self, wanted: Tensor | None = None) -> Tensor:
        """Take up the examples that are not done, among those wanted, (n,) bool; their rows."""
        self.found.restart()
        if wanted is not None:
            self.found.drop(~wanted[self.found.rows])
        self.found.compact()
        return self.found.rows


class Run:
    """What each step of a run does, whatever the optimiser: ask, remember successes, weigh, let examples go that stand still.

    Args:
        search: of which this is one run.
        towards: what the loss climbs to, a row for each live example.
        steps: of the run.

    Attributes:
        won: (n,) bool, the examples whose last tenth of the steps had a success, of any size.
    """

    def __init__(self, search: ConstantSearch, towards: Goal, steps: int) -> None:
        self._search, self._towards = search, towards
        self._began = search.found.rows
        self._every = max(steps // _CHECKS, 1)
        self._step = 0
        self.won = torch.zeros_like(search.c, dtype=torch.bool)
        self._lately = self.won[self._began]
        self._before = self._lowest = search.c.new_full((len(self._began),), math.inf)

    def step(self, z: Batch, size: PerExample, cost: PerExample) -> Batch:
        """The gradient of c * f at z; call `compact` next.

        Args:
            z: (live, *shape) where to ask.
            size: (live,) by which successes are compared.
            cost: (live,) the rest of the objective.
        """
        search, found = self._search, self._search.found
        rows = found.rows
        margin, logits, vjp = found.look(z)
        reached = found.succeeds(margin, logits)
        nearer = reached & (size < search.near_size[rows])
        search.near[rows[nearer]], search.near_size[rows[nearer]] = z[nearer], size[nearer]
        wanted = with_confidence(self._towards.take(torch.searchsorted(self._began, rows)), search.confidence)
        value, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), wanted)
        weight = search.c[rows]
        gradient = vjp(slope * (-weight * (value <= 0))[:, None].to(slope))
        self._lately |= reached
        self._lowest = torch.minimum(self._lowest, cost + weight * (-value).clamp_min(0))
        self._step += 1
        if self._step % self._every == 0:
            found.drop(~(self._lowest <= _STILL * self._before))
            self._before, self._lowest = self._lowest, torch.full_like(self._lowest, math.inf)
            self.won[rows], self._lately = self._lately, torch.zeros_like(self._lately)
        return gradient

    def compact(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Drop the rows that are at their end, from here and from these per-row tensors."""
        self._before, self._lowest, self._lately, *kept = self._search.found.compact(
            self._before, self._lowest, self._lately, *tensors
        )
        return tuple(kept)
