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

from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample
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
        early_stop: False keeps broken rows in, to find a larger margin at full cost.

    Attributes:
        best: (n, *shape) the point of the largest margin asked so far; the clean example until one is asked.
        margin: (n,) that margin; -inf until a point is asked.
    """

    def __init__(self, victim: Any, x: Batch, goal: Goal, region: Region, *, early_stop: bool = True) -> None:
        super().__init__(victim, x, goal, region)
        self._early_stop = early_stop
        self.best = x.clone()
        self.margin = x.new_full((len(x),), -torch.inf)
        self.restart()

    def restart(self) -> None:
        """Work again on every example that is not broken and can still pay."""
        n = len(self.margin)
        rows = torch.arange(n, device=self.margin.device)
        alive = self.victim.left(rows) >= 1
        if self._early_stop:
            alive &= ~(self.margin > 0)
        self._set(rows[alive])

    def ask(self, z: Batch) -> PerExample:
        """The goal's margin at these points, one row per live example: one query each. +-1 from a victim of labels only."""
        points = self.region.snap(z, self.x)
        margin, _ = self._asked(points)
        self._record(points, margin)
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
        if bool(better.any()):
            rows = self.rows[better]
            self.best[rows], self.margin[rows] = points[better].to(self.best.dtype), margin[better]
        keep = self.victim.left(self.rows) >= 1
        if self._early_stop:
            keep &= ~(margin > 0)
        self._keep_only(keep)
