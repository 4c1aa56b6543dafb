"""The smallest successful point found for each example: what `Frontier` is to attacks with a radius, for those without.

    found = Closest(victim, x, goal, region)
    z = found.x
    while len(found):
        margin, logits, vjp = found.look(z)                  # asked, judged and, where it is the smallest, remembered
        gradient = vjp(cotangent)                            # 0 where the mask forbids a change or the entry is not finite
        z, gradient = found.compact(z, gradient)
        z = found.inside(z + ...)                            # back into box and mask, not into the radius
    return found.best

A victim that draws (`hauberk.victims.eot`) is asked for a vote on each point that would be the smallest.

With an infinite radius a row leaves when its own example is misclassified, can pay no more, or was dropped by the attack
(`drop`). With a finite one it leaves as soon as a point inside the radius reaches the goal, so that an attack for the
smallest change is also one for a radius.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Logits, PerExample, like
from hauberk.blocks.frontier import improves
from hauberk.blocks.live import Live
from hauberk.blocks.losses import Loss, value_and_cotangent
from hauberk.threat import Ball, Goal

__all__ = ["Closest"]


class Closest(Live[Ball]):
    """Work on the examples whose smallest change is sought.

    Args:
        victim: who is asked, usually a meter.
        x: (n, *shape) the clean examples.
        goal: what is wanted.
        region: a ball; its norm measures the changes. Points are snapped to its grid before they are asked.

    Attributes:
        best: (n, *shape) the smallest successful point asked so far; where there is none the allowed point of the largest
            margin, at first the example.
        size: (n,) the size of that success; inf where there is none.
        space: the live rows' ball without its radius: box, mask and grid.
    """

    def __init__(self, victim: Any, x: Batch, goal: Goal, region: Ball) -> None:
        self._finite = region.finite
        self._everywhere = region.with_radius(torch.inf)
        self.best = x.clone()
        self.size = x.new_full((len(x),), torch.inf)
        self._largest = x.new_full((len(x),), -torch.inf)
        self._spread = x.new_zeros(len(x))  # the widest scores seen of each example
        self._draws = bool(getattr(victim, "judge_samples", 0))
        super().__init__(victim, x, goal, region)
        self.restart()

    def restart(self) -> None:
        """Work again on every example that can still pay and is not done."""
        rows = torch.arange(len(self.size), device=self.size.device)
        self.work_on(rows[(self.victim.left(rows) >= 1) & ~self.is_done(self.size)])

    def ask(self, z: Batch, loss: Loss | None = None) -> PerExample:
        """The goal's margin at these points: one query for each live example. +-1 from a victim of labels only.

        Args:
            loss: what to return of the scores, where there are any, in the place of the margin.
        """
        points, goal = self.space.snap(z, self.x), self.goal
        margin, logits = self._asked(points)
        self._record(points, margin, logits)
        if loss is None or logits is None:
            return margin
        return torch.where(margin.isnan(), margin, loss(logits.nan_to_num(0.0, 0.0, 0.0), goal).to(margin))

    def ask_each(self, z: Tensor, *, allowed: bool = True) -> Tensor:
        """(live, K) margins at K points of each live example, (live, K, *shape), asked in one batch: one query each; NaN where an
        answer is not finite, or the example cannot pay for so many.

        Args:
            allowed: False where the points only probe the victim and none may be kept: they are not snapped then.
        """
        count = z.shape[1]
        row = torch.arange(len(z), device=z.device).repeat_interleave(count)
        points = self.space.take(row).snap(z.flatten(0, 1), self.x[row]).reshape(z.shape) if allowed else z
        margin, logits = self.asked_each(points)
        if allowed:
            for k in range(count):
                self._record(
                    points[:, k], margin[:, k], None if logits is None else logits[:, k].nan_to_num(0.0, 0.0, 0.0)
                )
        else:
            self.keep_only((self.victim.left(self.rows) >= 1) & ~self.is_done(self.size[self.rows]))
        return margin

    def look(self, z: Batch, *, snap: bool = True) -> tuple[PerExample, Logits, Callable[[Logits], Batch]]:
        """The goal's margin and the scores at these points, and the function from a cotangent to a gradient, as often as wanted:
        one query, and one backward for each call, for each live example. Without `snap` the points may lie off the grid; such a
        one is never kept."""
        points = self.space.snap(z, self.x) if snap else z
        logits, vjp = self.victim.pullback(points, self.rows)
        margin = self._margin(logits)
        self._record(points, margin, logits)
        mask = self.space.mask

        def free(cotangent: Logits) -> Batch:
            gradient = vjp(cotangent).nan_to_num_(0.0, 0.0, 0.0)
            return gradient if mask is None else gradient * mask.to(gradient.device)

        return margin, logits, free

    def climb(self, z: Batch, loss: Loss, *, towards: Goal | None = None) -> tuple[PerExample, Batch]:
        """The goal's margin, and the direction of the gradient of a loss (the gradient itself where the loss is `margin`, but for
        goals of the caller's own, whose slope by the scores is scaled to a largest entry of 1)."""
        margin, logits, vjp = self.look(z)
        _, cotangent = value_and_cotangent(loss, logits, self.goal if towards is None else towards)
        return margin, vjp(cotangent)

    def inside(self, z: Batch) -> Batch:
        """The nearest point of the box that changes nothing the mask protects."""
        return self.space.project(z, self.x)

    def succeeds(self, margin: PerExample, logits: Logits | None = None) -> Tensor:
        """(live,) bool: a margin beyond doubt by rounding."""
        return margin > (0.0 if logits is None else self.doubt(logits))

    def doubt(self, logits: Logits) -> PerExample:
        """(live,) the margin up to which a success is none: kernels round differently with the batch, in float64 too, and a point
        exactly on the boundary would not survive being asked again.

        32 units of rounding of the widest spread of scores seen of the example (near the boundary of two classes the scores
        themselves may all be near 0), and 2 of their magnitude, which is what a number added to all of them costs.
        """
        unit = 2.0**-52 if self.x.dtype == torch.float64 else 2.0**-23
        low, high = logits.detach().aminmax(dim=1)
        spread = (high - low).to(self._spread).nan_to_num(0.0, 0.0, 0.0).maximum(self._spread[self.rows])
        self._spread[self.rows] = spread
        return unit * (32 * spread + 2 * high.abs().maximum(low.abs()).to(spread))

    def drop(self, finished: Tensor) -> None:
        """Let these live rows go at the next `compact`: the attack has no more use for them."""
        self.keep_only(~finished if self._keep is None else self._keep & ~finished)

    def tighten(self, steps: int = 8) -> None:
        """Bisect between each example and its smallest success: one query a step, on every example that has one."""
        self.restart()
        with_success = self.size[self.rows].isfinite()
        self.drop(~with_success)
        self.compact()
        low, high = (torch.full_like(self.size[self.rows], end) for end in (0.0, 1.0))
        far = self.best[self.rows]
        for _ in range(steps):
            if not len(self):
                return
            middle = (low + high) / 2
            points = self.space.snap(self.x + like(middle, far) * (far - self.x), self.x)
            margin, logits = self._asked(points)
            reached = self.succeeds(margin, logits)
            self._record(points, margin, logits)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
            low, high, far = self.compact(low, high, far)

    def is_done(self, size: PerExample) -> Tensor:
        """Found within the radius; without one, only where the example itself reaches the goal."""
        return size.isfinite() if self._finite else size == 0

    def _carried(self, points: Batch, claimed: Tensor) -> Tensor:
        """Of the successes claimed against a victim that draws, those whose vote is beyond doubt by chance: one more query each.

        The smallest of many averages is a lucky one; a majority whose interval ends above one half is not.
        """
        asked = (claimed & (self.victim.left(self.rows) >= 1)).nonzero().flatten()
        carried = torch.zeros_like(claimed)
        if len(asked):
            low, _ = self.victim.votes(points[asked], self.rows[asked]).interval(self.goal.take(asked))
            carried[asked] = (low > 0.5).to(carried.device)
        return carried

    def work_on(self, rows: Tensor) -> None:
        super().work_on(rows)
        self.space = self._everywhere if len(rows) == len(self.best) else self._everywhere.take(rows)

    def _record(self, points: Batch, margin: PerExample, logits: Logits | None) -> None:
        margin = margin.detach()
        points = points.to(self.best.dtype)
        allowed = self.region.contains(points, self.x)
        size = self.region.size(points, self.x)
        success = self.succeeds(margin, logits) & allowed
        known = self.size[self.rows]
        smaller = success & (size < known)
        if self._draws and bool(smaller.any()):
            smaller = self._carried(points, smaller)
        fallback = known.isinf() & ~smaller & allowed & improves(margin.to(self._largest), self._largest[self.rows])
        better = smaller | fallback
        if bool(better.any()):
            rows = self.rows[better]
            self.best[rows] = points[better]
            self._largest[rows] = margin[better].to(self._largest)
            self.size[rows] = torch.where(smaller, size, known)[better].to(self.size)
        self.keep_only((self.victim.left(self.rows) >= 1) & ~self.is_done(self.size[self.rows]))
