"""A victim that remembers: did an attack pass through a point that reaches the goal, and propose another one?

Silent success (I3 of Pintor et al. 2022, arXiv:2106.09947; their cure, to keep the best point of the path, is done here for attacks
that are not hauberk's own).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels, Logits, Rows
from hauberk.threat import Goal, Region

__all__ = ["Witness", "is_foreign"]


def is_foreign(attack: object) -> bool:
    """The attack is not one of hauberk's, which all keep the best point they see."""
    return not type(attack).__module__.startswith("hauberk.")


class Witness:
    """A victim around what an attack asks.

    Args:
        victim: who answers; everything but the three questions is its own.
        x: (n, *shape) where the attack begins.
        goal, region: of these examples.

    Attributes:
        points: (n, *shape) the last allowed point of each example that was answered as wanted; x where there was none.
        seen: (n,) bool, there was one.
    """

    def __init__(self, victim: Any, x: Batch, goal: Goal, region: Region) -> None:
        self._victim, self._x, self._goal, self._region = victim, x.clone(), goal, region
        self.points = x.clone()
        self.seen = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._victim, name)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        answer = self._victim.labels(x, rows)
        self._look(x, rows, self._goal.take(rows).reached(answer) & (answer >= 0))
        return answer

    def logits(self, x: Batch, rows: Rows) -> Logits:
        answer = self._victim.logits(x, rows)
        self._look(x, rows, self._reached(answer, rows))
        return answer

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        answer, vjp = self._victim.pullback(x, rows)
        self._look(x, rows, self._reached(answer, rows))
        return answer, vjp

    def _reached(self, answer: Logits, rows: Rows) -> Tensor:
        return (self._goal.take(rows).margin(answer) > 0) & answer.isfinite().all(dim=1)

    def _look(self, x: Batch, rows: Rows, reached: Tensor) -> None:
        if not bool(reached.any()):
            return
        rows, x = rows[reached], x[reached].detach()
        inside = self._region.take(rows).contains(x, self._x[rows])
        self.points[rows[inside]] = x[inside].to(self.points)
        self.seen[rows[inside]] = True
