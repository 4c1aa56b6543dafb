"""The only counter: a victim that charges each example for what is asked on its behalf, and refuses past the budget.

A *query* is one row answered to the attacker, whatever the answer; a *forward* one row through the network (an ensemble
or a randomised victim costs several a query); a *backward* one row's vector-Jacobian product.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels, Logits, Rows
from hauberk.errors import AccessError, BudgetError
from hauberk.threat import Access
from hauberk.victims.victim import cost_of_pullback

__all__ = ["Meter"]


class Meter:
    """A victim that counts per example.

    Args:
        victim: who is asked.
        examples: how many examples the rows speak of; rows are 0 .. examples - 1.
        budget: the most queries for any one example, or (examples,) int64 the most for each; None for no limit.
        access: the most that may be asked; the victim's own access where None.

    Attributes:
        queries, forwards, backwards: (examples,) int64.
    """

    def __init__(
        self, victim: Any, examples: int, *, budget: int | Tensor | None = None, access: Access | None = None
    ) -> None:
        self.victim = victim
        self.budget = None if budget is None else torch.as_tensor(budget, device=victim.device).expand(examples)
        self.access = victim.access if access is None else min(access, victim.access)
        self.queries = torch.zeros(examples, dtype=torch.int64, device=victim.device)
        self.forwards, self.backwards = torch.zeros_like(self.queries), torch.zeros_like(self.queries)

    @property
    def name(self) -> str:
        return self.victim.name

    @property
    def bounds(self) -> tuple[float, float]:
        return self.victim.bounds

    @property
    def device(self) -> torch.device:
        return self.victim.device

    @property
    def dtype(self) -> torch.dtype:
        return self.victim.dtype

    @property
    def classes(self) -> int | None:
        return self.victim.classes

    @property
    def forwards_per_query(self) -> int:
        return self.victim.forwards_per_query

    @property
    def judge_samples(self) -> int:
        """How many draws vote on a point; 0 where the victim answers alike each time it is asked."""
        return getattr(self.victim, "judge_samples", 0)

    def left(self, rows: Rows) -> Tensor:
        """(B,) how many more queries each row's example may cost: what the victim itself allows, and no more than the budget. A victim that
        shares out what it has, with enough for all that the budget allows, holds nobody back."""
        left: Tensor = self.victim.left(rows)
        if self.budget is None:
            return left
        own = self.budget - self.queries
        if bool((left >= own[rows]).all()):
            return own[rows]
        everyone = torch.arange(len(own), device=own.device)
        enough = int(own.clamp(min=0).sum()) <= int(self.victim.left(everyone).sum())
        return own[rows] if enough else torch.minimum(left, own[rows])

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) predicted classes, charged."""
        self._charge(rows, Access.LABELS)
        return self.victim.labels(x, rows)

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) scores, charged."""
        self._charge(rows, Access.SCORES)
        return self.victim.logits(x, rows)

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The scores and the gradient function, charged: a forward now, a backward at each call of the function."""
        forwards, backwards = cost_of_pullback(self.victim)
        self._charge(rows, Access.GRADIENTS, forwards)
        logits, vjp = self.victim.pullback(x, rows)

        def charged(cotangent: Logits) -> Batch:
            self.backwards.index_add_(0, rows, torch.full_like(rows, backwards))
            return vjp(cotangent)

        return logits, charged

    def votes(self, x: Batch, rows: Rows) -> Any:
        """The votes of a randomised victim, charged: one query, and the forwards of every draw."""
        self._charge(rows, Access.LABELS, self.victim.forwards_per_vote)
        return self.victim.votes(x, rows)

    def _charge(self, rows: Rows, access: Access, forwards: int | None = None) -> None:
        if access > self.access:
            raise AccessError(
                f"this method needs {access} of {self.name!r}, which gives {self.access} only; "
                "use an attack for that access, or allow more in the threat"
            )
        if len(rows) == 0:
            return
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        each: int = self.victim.forwards_per_query if forwards is None else forwards
        self.forwards.index_add_(0, rows, torch.full_like(rows, each))
        if self.budget is None:
            return
        over = self.queries[rows] > self.budget[rows]
        if bool(over.any()):
            raise BudgetError(
                f"a method asked for more than its budget of {int(self.budget[rows][over][0])} queries an example; ask `left` first"
            )
