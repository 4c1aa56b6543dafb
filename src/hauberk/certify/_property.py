"""What a verifier is asked, and what it answers."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hauberk.errors import DataError

__all__ = ["BOX_TOLERANCE", "Case", "Property", "Stacked", "Status", "Verdict"]

Numbers: TypeAlias = NDArray[np.float64]
Status: TypeAlias = Literal["holds", "violated", "unknown"]

BOX_TOLERANCE = 1e-6
"""How far an input may stand outside its box, by the larger of 1 and the bound: inputs are rounded to float32. Outputs get none."""


@dataclass(frozen=True, eq=False)
class Case:
    """One way to violate a property: an input of the box for which C y + d <= 0 in every row.

    Attributes:
        lower, upper: (n,) float64, the box.
        C, d: (k, m) and (k,) float64, over the m outputs; no rows: every output violates.
    """

    lower: Numbers
    upper: Numbers
    C: Numbers
    d: Numbers

    def contains(self, x: ArrayLike) -> bool:
        """x is in the box, up to `BOX_TOLERANCE`."""
        at = np.asarray(x, dtype=np.float64).reshape(-1)
        below, above = (BOX_TOLERANCE * np.maximum(1, np.abs(bound)) for bound in (self.lower, self.upper))
        return bool(np.all(at >= self.lower - below) and np.all(at <= self.upper + above))

    def holds(self, y: ArrayLike) -> bool:
        """C y + d <= 0 in every row, in float64 without tolerance."""
        return bool(np.all(self.C @ np.asarray(y, dtype=np.float64).reshape(-1) + self.d <= 0))


@dataclass(frozen=True, eq=False)
class Property:
    """What must not happen: the union of these cases, of which there is at least one."""

    cases: tuple[Case, ...]

    @property
    def inputs(self) -> int:
        return len(self.cases[0].lower)

    @property
    def outputs(self) -> int:
        return self.cases[0].C.shape[1]

    def violated(self, x: ArrayLike, y: ArrayLike) -> bool:
        """Whether input x (n numbers in any shape) with output y (m numbers) is a counterexample, in float64; x may stand outside its box
        by `BOX_TOLERANCE`.

        Raises:
            DataError: they have not n and m numbers.
        """
        for what, wanted, given in (("inputs", self.inputs, np.size(x)), ("outputs", self.outputs, np.size(y))):
            if wanted != given:
                raise DataError(f"the property is about {wanted} {what}, got {given}; give one example")
        return any(case.contains(x) and case.holds(y) for case in self.cases)

    def by_box(self) -> list["Stacked"]:
        """The cases that share a box, together."""
        groups: dict[tuple[bytes, bytes], list[Case]] = {}
        for case in self.cases:
            groups.setdefault((case.lower.tobytes(), case.upper.tobytes()), []).append(case)
        return [Stacked.of(cases) for cases in groups.values()]


@dataclass(frozen=True, eq=False)
class Stacked:
    """Cases over one box, their rows one below the other.

    Attributes:
        lower, upper: (n,) float64.
        C, d: (K, m) and (K,) float64.
        case: (K,) which case a row belongs to.
        count: how many cases.
    """

    lower: Tensor
    upper: Tensor
    C: Tensor
    d: Tensor
    case: Tensor
    count: int

    @classmethod
    def of(cls, cases: list[Case]) -> "Stacked":
        """Cases of one box. One without rows, which every output satisfies, gets the row 0 <= 0."""
        rows = [(case.C, case.d) if len(case.d) else (np.zeros((1, case.C.shape[1])), np.zeros(1)) for case in cases]
        return cls(
            torch.tensor(cases[0].lower),
            torch.tensor(cases[0].upper),
            torch.tensor(np.concatenate([C for C, _ in rows])),
            torch.tensor(np.concatenate([d for _, d in rows])),
            torch.tensor(np.repeat(np.arange(len(cases)), [len(d) for _, d in rows])),
            len(cases),
        )

    def worst(self, values: Tensor) -> Tensor:
        """(D, count) the largest of each case's rows, from (D, K): above 0 where the case is refuted, if the values are lower bounds;
        at most 0 where it holds, if they are values."""
        least = values.new_full((len(values), self.count), -torch.inf)
        return least.scatter_reduce(1, self.case.to(values.device).expand(len(values), -1), values, "amax")


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a verifier found.

    Attributes:
        status: `holds`, `violated` or `unknown`.
        method: what decided it, or was tried last.
        witness: (n,) float32, an input that violates the property; None unless violated.
        seconds: spent.
        domains: how many parts of the problem were bounded.
        bound: the least lower bound of what is left; above 0 where the property holds.
        reason: why another verifier's answer is not taken; empty for our own.
    """

    status: Status
    method: str
    witness: NDArray[np.float32] | None = None
    seconds: float = 0.0
    domains: int = 0
    bound: float = float("-inf")
    reason: str = ""
