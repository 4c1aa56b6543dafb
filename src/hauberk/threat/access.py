"""What an attacker may ask of a victim, as types: `Labelled` < `Scored` < `Differentiable`.

Every question carries `rows`: for each row of the batch, the index of the example it is spent on. A meter charges by it.
"""

import enum
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows

__all__ = ["Access", "Differentiable", "Labelled", "Scored"]


class Access(enum.IntEnum):
    """How much an attacker sees; a larger level includes the smaller ones."""

    LABELS = 1
    SCORES = 2
    GRADIENTS = 3

    def __str__(self) -> str:
        return self.name.lower()


@runtime_checkable
class Labelled(Protocol):
    """Answers one label per row. Inputs live in `bounds`, on `device`, in `dtype`."""

    @property
    def name(self) -> str: ...
    @property
    def access(self) -> Access:
        """The most that may be asked."""
        ...

    @property
    def classes(self) -> int | None:
        """How many classes there are; None where that is not known."""
        ...

    @property
    def forwards_per_query(self) -> int:
        """What one query costs: 1, or more for an ensemble or a randomised model."""
        ...

    @property
    def bounds(self) -> tuple[float, float]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) predicted classes, -1 where the answer is not finite. One query per row."""
        ...

    def left(self, rows: Rows) -> PerExample:
        """(B,) int64: how many more queries each row's example may cost; a very large number where nothing limits it."""
        ...


@runtime_checkable
class Scored(Labelled, Protocol):
    """Answers one score per class."""

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) scores; their argmax is the label. One query per row."""
        ...


@runtime_checkable
class Differentiable(Scored, Protocol):
    """Answers scores and any number of vector-Jacobian products at the same points."""

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The scores, detached, and a function from a cotangent (B, classes) to the gradient (B, *shape).

        One query per row; `forwards_per_query` backwards per row at each call of the function.
        """
        ...
