"""What each example was asked: a hard limit over a whole suite, and the trace that curves against queries are drawn from.

A query is a row that the victim answers about an example: the look at it as it is, whatever the attacks ask, and the judge's look at
each proposal. The audit asks about a few examples of its own, before, and is not in these numbers.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import SettingError
from hauberk.threat import Goal, Norm, Region

__all__ = ["Spending", "Trace", "Traced", "query_curve"]

_MOST = 10**7


@dataclass(frozen=True)
class Spending:
    """How many queries an example may cost, and what a query costs.

    Args:
        limit: the most that may be asked about any one example by the attacks and the judge, with the look at the clean example; None
            for as many as the suite asks.
        price: of a query, in whatever currency; None where nobody cares.
    """

    limit: int | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and (
            isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 3
        ):
            raise SettingError(
                f"expected max_queries to be a whole number >= 3 (the example, an attack, the judge), got max_queries={self.limit!r}"
            )
        if self.price is not None and not (math.isfinite(self.price) and self.price >= 0):
            raise SettingError(f"expected price to be a number >= 0, got price={self.price!r}")

    def allowance(self, spent: Tensor, share: float, looks: int) -> Tensor | None:
        """(n,) int64 queries that an attack may ask, of examples that have cost this much; None for no limit.

        Args:
            share: of what is left of the limit.
            looks: of the judge, which are kept back.
        """
        if self.limit is None:
            return None
        left = (self.limit - spent).clamp_min(0)
        return (left if share >= 1 else (left * share).to(left.dtype)) - looks

    @property
    def marks(self) -> tuple[int, ...]:
        """Numbers of queries at which curves are drawn: about ten a decade, up to the limit."""
        far = _MOST if self.limit is None else self.limit
        steps = (round(10 ** (k / 10)) for k in range(10 * math.ceil(math.log10(far)) + 1))
        return (*sorted({step for step in steps if step < far}), far)


class Trace:
    """Of the examples of a chunk: after how many queries each was first broken, and the smallest success by each mark.

    Attributes:
        marks: numbers of queries, ascending.
        sizes: (n, marks) float64, the smallest success found up to each mark; infinite before the first.
        first: (n,) int64, the query that first met the goal inside the largest radius; -1 where none did.
    """

    def __init__(self, n: int, marks: Sequence[int]) -> None:
        self.marks = tuple(marks)
        self.sizes = torch.full((n, len(self.marks)), torch.inf, dtype=torch.float64)
        self.first = torch.full((n,), -1, dtype=torch.int64)

    def keep(self, rows: Sequence[int], counts: Sequence[int], sizes: Sequence[float], inside: Sequence[bool]) -> None:
        """Remember successes: the example, the number of its query, its size, and whether it lies inside the radius."""
        for row, count, size, within in zip(rows, counts, sizes, inside, strict=True):
            place = bisect_left(self.marks, count)
            if place < len(self.marks) and size < self.sizes[row, place]:
                self.sizes[row, place] = size
            if within and not 0 <= self.first[row] <= count:
                self.first[row] = count

    def to_json(self, broken: Tensor, right: Tensor, spent: Tensor) -> dict[str, Any]:
        """As plain values: of each example that is right whether and when it was broken, what it cost and its smallest successes.

        What the judge does not call broken is not, whatever was met on the way.
        """
        smallest = self.sizes.cummin(dim=1).values
        after = torch.where(self.first >= 0, self.first, spent.cpu())
        rows = right.cpu().nonzero()[:, 0].tolist()
        fell = broken.cpu()
        return {
            "marks": list(self.marks),
            "broken_after": [int(after[row]) if fell[row] else None for row in rows],
            "spent": [int(spent[row]) for row in rows],
            "sizes": [[size if math.isfinite(size) else None for size in smallest[row].tolist()] for row in rows],
        }


class Traced:
    """A victim around what an attack asks, for a trace: which of its queries meet the goal, and how far from the example they lie.

    Args:
        victim: who answers; everything but the questions is its own.
        trace: of the chunk.
        places: (live,) where the examples of this victim's rows stand in the chunk.
        before: (live,) queries that each has cost so far.
        x, goal, region: of the live examples.
        norm: that sizes are measured in.
    """

    def __init__(
        self,
        victim: Any,
        trace: Trace,
        places: Rows,
        before: Tensor,
        x: Batch,
        goal: Goal,
        region: Region,
        norm: Norm,
    ) -> None:
        self._victim, self._trace, self._places = victim, trace, places
        self._x, self._goal, self._region, self._norm = x.clone(), goal, region, norm
        self._counts = before.clone()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._victim, name)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        answer = self._victim.labels(x, rows)
        self._look(x, rows, self._goal.take(rows).reached(answer) & (answer >= 0))
        return answer

    def logits(self, x: Batch, rows: Rows) -> Logits:
        answer = self._victim.logits(x, rows)
        self._look(x, rows, self._met(answer, rows))
        return answer

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        answer, vjp = self._victim.pullback(x, rows)
        self._look(x, rows, self._met(answer, rows))
        return answer, vjp

    def votes(self, x: Batch, rows: Rows) -> Any:
        self._counts.index_add_(0, rows, torch.ones_like(rows))
        return self._victim.votes(x, rows)

    def _met(self, answer: Logits, rows: Rows) -> Tensor:
        return (self._goal.take(rows).margin(answer) > 0) & answer.isfinite().all(dim=1)

    def _look(self, x: Batch, rows: Rows, met: Tensor) -> None:
        numbers = self._counts[rows] + _occurrence(rows) + 1
        self._counts.index_add_(0, rows, torch.ones_like(rows))
        if not bool(met.any()):
            return
        rows, x = rows[met], x[met].detach()
        inside = self._region.take(rows).contains(x, self._x[rows])
        sizes = self._norm.size((x - self._x[rows]).to(torch.float64 if x.device.type != "mps" else x.dtype))
        self._trace.keep(self._places[rows].tolist(), numbers[met].tolist(), sizes.tolist(), inside.tolist())


def _occurrence(rows: Rows) -> PerExample:
    """(B,) int64: how many rows before each one speak of the same example."""
    order = rows.argsort(stable=True)
    ranked = rows[order]
    first = torch.searchsorted(ranked, ranked)
    place = torch.arange(len(rows), device=rows.device)
    return torch.empty_like(rows).scatter_(0, order, place - first)


def query_curve(parts: Sequence[Mapping[str, Any]], asked: int, spending: Spending) -> dict[str, Any]:
    """From the traces of all chunks, as `Trace.to_json` leaves them, what the result says of queries.

    Args:
        asked: in all, the audit among them.
    """
    after = sorted(count for part in parts for count in part["broken_after"] if count is not None)
    spent = [count for part in parts for count in part["spent"]]
    right, far = len(spent), max(spent, default=0)
    marks = parts[0]["marks"] if parts else []
    shown = marks[: bisect_left(marks, far) + 1] if far else []
    by_mark = list(zip(*(sizes for part in parts for sizes in part["sizes"]), strict=True))[: len(shown)]

    def within(share: float) -> int | None:
        wanted = math.ceil(share * right)
        return after[wanted - 1] if 0 < wanted <= len(after) else None

    cost = None if spending.price is None else asked * spending.price
    return {
        "limit": spending.limit,
        "asked": asked,
        "price": spending.price,
        "cost": cost,
        "cost_per_broken": None if cost is None or not after else cost / len(after),
        "right": right,
        "broken": len(after),
        "mean": sum(after) / len(after) if after else None,
        "median": _median([float(count) for count in after]),
        "to_half": within(0.5),
        "to_nine_tenths": within(0.9),
        "curve": [
            {
                "queries": mark,
                "broken": bisect_left(after, mark + 1),
                "median_size": _median([math.inf if size is None else size for size in sizes]),
            }
            for mark, sizes in zip(shown, by_mark or [()] * len(shown), strict=True)
        ],
    }


def _median(values: Sequence[float]) -> float | None:
    """The lower median; None where it is infinite or there are no values."""
    if not values:
        return None
    middle = sorted(values)[(len(values) - 1) // 2]
    return middle if math.isfinite(middle) else None
