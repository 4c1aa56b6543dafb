"""The examples an attack still works on, and the best point found for each: early stop, best-so-far and budget, once.

    frontier = Frontier(victim, x, goal, region)
    z = frontier.x
    while frontier:
        values, gradient = frontier.climb(z, loss)
        z, gradient = frontier.compact(z, gradient)          # rows that are broken, or cannot pay again, are gone
        z = frontier.region.project(frontier.region.step(z, gradient, size), frontier.x)
    return frontier.best

After `compact` every attribute speaks of the rows that are left: `rows` (their places in the batch), `x`, `goal`, `region`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, Rows
from hauberk.blocks.live import Live
from hauberk.blocks.losses import Loss, value_and_cotangent
from hauberk.threat import Goal, Region

__all__ = ["Frontier", "improves"]


def improves(found: PerExample, known: PerExample) -> Tensor:
    """(B,) bool: the value found is larger than the one known, or the first that is a number; NaN never improves."""
    return (found > known) | (known.isnan() & ~found.isnan())


class Frontier(Live[Region]):
    """Work on the examples that are not broken yet.

    Args:
        victim: who is asked, usually a meter.
        x: (n, *shape) the clean examples.
        goal: what is wanted; a row whose margin is > 0 leaves.
        region: what is allowed; every point is snapped to its grid before it is asked.
        early_stop: False keeps broken rows in, to find a larger margin at full cost; so it is with a victim that draws.

    Attributes:
        best: (n, *shape) the point of the largest margin asked so far; the clean example until one is asked.
        margin: (n,) that margin; -inf until a point is asked.
        copy: (live,) which of the rows of its example each row is; 0 but after `restart(copies=...)`.
    """

    copy: Tensor

    def __init__(self, victim: Any, x: Batch, goal: Goal, region: Region, *, early_stop: bool = True) -> None:
        super().__init__(victim, x, goal, region)
        # what a victim that draws answers is an estimate: the first margin above 0 is more likely luck than a majority
        self._early_stop = early_stop and not getattr(victim, "judge_samples", 0)
        self.best = x.clone()
        self.margin = x.new_full((len(x),), -torch.inf)
        self.restart()

    def restart(self, copies: int = 1, among: Tensor | None = None) -> None:
        """Work again on every example that is not broken and can still pay.

        Args:
            copies: rows for each of them, so that several climbs share their forwards; all leave once one is broken. `streams`
                draw for one copy at a time: see `each_copy`.
            among: (n,) bool, the examples to work on; all where None.
        """
        n = len(self.margin)
        rows = torch.arange(n, device=self.margin.device)
        alive = self.victim.left(rows) >= 1
        if among is not None:
            alive &= among
        if self._early_stop:
            alive &= ~(self.margin > 0)
        self._repeats, rows = copies > 1, rows[alive]
        self.copy = torch.arange(copies, device=rows.device).repeat_interleave(len(rows))
        self.work_on(rows.repeat(copies))
        if self._repeats:
            self.keep_only(self._can_pay(torch.ones_like(self.rows, dtype=torch.bool)))
            self.compact()

    def compact(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Drop the rows that need no more work, from here and from these per-row tensors."""
        self.copy, *kept = super().compact(self.copy, *tensors)
        return tuple(kept)

    def each_copy(self, draw: Callable[[int, Batch, Rows, Region], Batch]) -> Batch:
        """`draw(copy, x, rows, region)` for the first copy of every live example, then for the second, ..., as one batch."""
        if not self._repeats:
            return draw(0, self.x, self.rows, self.region)
        parts: list[Batch] = []
        for copy in self.copy.unique().tolist():  # the copies stand one after the other
            rows = self.rows[self.copy == copy]
            x, _, region = self._all
            parts.append(draw(copy, x[rows], rows, region.take(rows)))
        return torch.cat(parts) if parts else self.x

    def ask(self, z: Batch) -> PerExample:
        """The goal's margin at these points, one row per live example: one query each. +-1 from a victim of labels only."""
        points = self.region.snap(z, self.x)
        margin, _ = self._asked(points)
        self._record(points, margin)
        return margin

    def ask_each(self, z: Tensor, *, allowed: bool = True) -> Tensor:
        """(live, K) margins at K points of each live example, (live, K, *shape), asked in one batch: one query each.

        NaN where an answer is not finite, or the example cannot pay for so many. All K are asked, whether or not an earlier one
        breaks the example.

        Args:
            allowed: False where the points only probe the victim and none may be proposed: they are not snapped then.
        """
        count = z.shape[1]
        if not allowed:
            margin, _ = self.asked_each(z)
            self.keep_only(self._can_pay(torch.ones_like(self.rows, dtype=torch.bool)))
            return margin
        row = torch.arange(len(z), device=z.device).repeat_interleave(count)
        points = self.region.take(row).snap(z.flatten(0, 1), self.x[row]).reshape(z.shape)
        margin, _ = self.asked_each(points)
        best = margin.nan_to_num(-torch.inf).argmax(dim=1)
        every = torch.arange(len(z), device=z.device)
        self._record(points[every, best], margin[every, best])
        return margin

    def climb(
        self, z: Batch, loss: Loss, *, towards: Goal | None = None, allowed: bool = True
    ) -> tuple[PerExample, Batch]:
        """Losses and their gradients at these points: one query and one backward for each live example.

        A gradient entry that is not finite counts as 0.

        Args:
            towards: the goal that the loss climbs to, where it is not the one that counts as success.
            allowed: False where the points lie outside the region on purpose, so that none may be proposed.
        """
        points = self.region.snap(z, self.x) if allowed else z
        logits, vjp = self.victim.pullback(points, self.rows)
        values, cotangent = value_and_cotangent(loss, logits, self.goal if towards is None else towards)
        self._record(points, self._margin(logits) if allowed else torch.full_like(values, -torch.inf))
        return values, vjp(cotangent).nan_to_num_(0.0, 0.0, 0.0)

    def _record(self, points: Batch, margin: PerExample) -> None:
        margin = margin.detach().to(self.margin.dtype)
        known = self.margin[self.rows]
        better = improves(margin, known)
        if self._repeats:
            better = self._first_best(better, margin)
        if bool(better.any()):
            rows = self.rows[better]
            self.best[rows], self.margin[rows] = points[better].to(self.best.dtype), margin[better]
        keep = ~(self.margin[self.rows] > 0) if self._early_stop else torch.ones_like(self.rows, dtype=torch.bool)
        self.keep_only(self._can_pay(keep))

    def _first_best(self, better: Tensor, margin: PerExample) -> Tensor:
        """Of the better rows of each example, the one of the largest margin, the first of those."""
        most = torch.full_like(self.margin, -torch.inf).scatter_reduce(0, self.rows[better], margin[better], "amax")
        better = better & (margin == most[self.rows])
        place = torch.arange(len(better), device=better.device)
        first = torch.full_like(self.margin, len(better), dtype=torch.int64)
        first = first.scatter_reduce(0, self.rows[better], place[better], "amin")
        return better & (place == first[self.rows])

    def _can_pay(self, keep: Tensor) -> Tensor:
        """Of the rows to keep those whose example can pay for one more query each, the first copies first."""
        left = self.victim.left(self.rows)
        if not self._repeats:
            return keep & (left >= 1)
        counts = torch.zeros_like(self.margin, dtype=torch.int64).index_add_(0, self.rows, keep.to(torch.int64))
        if bool((left >= counts[self.rows]).all()):
            return keep
        before = torch.zeros_like(left)  # how many kept rows of the same example stand before each
        counts.zero_()
        for copy in self.copy.unique().tolist():
            here = self.copy == copy
            before[here] = counts[self.rows[here]]
            counts[self.rows[here & keep]] += 1
        return keep & (left > before)
