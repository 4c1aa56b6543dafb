"""The rows of a batch that an attack still works on, and how they are asked: what `Frontier` and `Closest` share."""

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from hauberk._shapes import Batch, Logits, PerExample, Rows
from hauberk.threat import Access, Goal, Region

__all__ = ["Live"]

Space = TypeVar("Space", bound=Region)


class Live(Generic[Space]):
    """Examples in work; `compact` drops those that need none any more.

    Attributes:
        rows: (live,) the places of the live examples in the batch.
        x, goal, region: theirs, row by row.
    """

    rows: Rows
    x: Batch
    goal: Goal
    region: Space
    _repeats = False  # whether an example may have more than one row

    def __init__(self, victim: Any, x: Batch, goal: Goal, region: Space) -> None:
        self.victim = victim
        self._all = (x, goal, region)
        self._labels_only = victim.access < Access.SCORES
        self._keep: Tensor | None = None
        self.work_on(torch.arange(len(x), device=x.device))

    def __len__(self) -> int:
        return len(self.rows)

    def compact(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Drop the rows that need no more work, from here and from these per-row tensors."""
        keep = self._keep
        if keep is None:
            return tensors
        self.work_on(self.rows[keep])
        return tuple(tensor[keep] for tensor in tensors)

    def work_on(self, rows: Tensor) -> None:
        """Work on these rows of the batch; in ascending order where there are as many as examples."""
        x, goal, region = self._all
        whole = len(rows) == len(x) and not self._repeats
        self.rows, self._keep = rows, None
        self.x = x if whole else x[rows]
        self.goal = goal if whole else goal.take(rows)
        self.region = region if whole else region.take(rows)  # type: ignore[assignment]  # a region's part is of its kind

    def _asked(self, points: Batch) -> tuple[PerExample, Logits | None]:
        """The goal's margin at these points, and the scores; +-1 and None from a victim of labels only."""
        if not self._labels_only:
            logits = self.victim.logits(points, self.rows)
            return self._margin(logits), logits
        labels = self.victim.labels(points, self.rows)
        margin = self.goal.reached(labels).to(self.x.dtype) * 2 - 1
        return torch.where(labels < 0, torch.nan, margin), None  # the scores behind such a label are not finite

    def asked_each(self, points: Tensor) -> tuple[Tensor, Tensor | None]:
        """The goal's margin at several points of each live example, (live, K, *shape), and the scores: (live, K) and (live, K, classes).

        All are asked in one batch. Points that an example can no longer pay for are not asked, the last ones first: NaN.
        """
        live, count = points.shape[:2]
        place = torch.arange(live * count, device=points.device)
        paid = self.victim.left(self.rows)[place // count] > place % count
        row = (place // count)[paid]
        asked, goal = points.flatten(0, 1)[paid], self.goal.take(row)
        margin = self.x.new_full((live * count,), torch.nan)
        if self._labels_only:
            labels = self.victim.labels(asked, self.rows[row])
            reached = goal.reached(labels).to(margin) * 2 - 1
            margin[paid] = torch.where(labels < 0, torch.nan, reached)
            return margin.reshape(live, count), None
        logits = self.victim.logits(asked, self.rows[row])
        margin[paid] = torch.where(logits.isfinite().all(dim=1), goal.margin(logits), torch.nan).to(margin)
        scores = logits.new_full((live * count, logits.shape[1]), torch.nan)
        scores[paid] = logits
        return margin.reshape(live, count), scores.reshape(live, count, -1)

    def _margin(self, logits: Logits) -> PerExample:
        """The goal's margin; NaN where an answer is not finite, which the judge will not accept either."""
        return torch.where(logits.isfinite().all(dim=1), self.goal.margin(logits), torch.nan)

    def keep_only(self, keep: Tensor) -> None:
        """At the next `compact` drop all but these of the live rows, (live,) bool."""
        self._keep = None if bool(keep.all()) else keep
