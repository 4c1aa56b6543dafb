"""What certifying gives for each example: the radius that is proven, the change that breaks it, and how both are known."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample
from hauberk.errors import ContradictionError

__all__ = ["Certificates", "joined", "none_yet"]


@dataclass(frozen=True, eq=False)
class Certificates:
    """Proven <= true <= attacked, one entry for each example.

    Attributes:
        lower: (n,) float64, a radius within which no change alters the decision: proven; 0 where nothing is.
        upper: (n,) float64, the size of the smallest change found that does; inf where none was found, 0 where the example itself is
            classified wrongly.
        witness: (n, *shape) the example with that change; the example itself where there is none.
        status: of each, `misclassified`, `broken`, `proven` or `undecided` at the threat's radius; without a radius `broken`
            where a change was found, else `undecided`.
        method: of each, what set its status, or without a radius its lower end.
        exact: (n,) bool, nothing is left open: decided at the threat's radius, or, without one, both ends meet to a part in a hundred.
        seconds: (n,) float64, an equal share of the time of what was done for many together.
    """

    lower: PerExample
    upper: PerExample
    witness: Batch
    status: list[str]
    method: list[str]
    exact: Tensor
    seconds: PerExample

    def __post_init__(self) -> None:
        if bool((self.lower > self.upper).any()):
            worst = int((self.lower - self.upper).argmax())
            raise ContradictionError(
                f"example {worst} is proven within {float(self.lower[worst]):g} and broken by a change of {float(self.upper[worst]):g}: "
                "one of the two is wrong; please report it"
            )

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(Counter(self.status).items()))
        return f"Certificates({counts}; {float(self.seconds.sum()):.1f} s)"

    def certified_accuracy(self, radius: float) -> float:
        """The share of the examples that are proven within this radius."""
        return float((self.lower >= radius).double().mean()) if radius > 0 else 1 - self._share("misclassified")

    def _share(self, status: str) -> float:
        return self.status.count(status) / max(1, len(self.status))


def none_yet(x: Batch) -> tuple[Tensor, Tensor]:
    """Lower and upper ends before anything is known."""
    return torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), torch.inf, dtype=torch.float64)


def joined(parts: Sequence[Certificates]) -> Certificates:
    """The certificates of several batches, one after the other."""
    return Certificates(
        torch.cat([part.lower for part in parts]),
        torch.cat([part.upper for part in parts]),
        torch.cat([part.witness for part in parts]),
        [status for part in parts for status in part.status],
        [name for part in parts for name in part.method],
        torch.cat([part.exact for part in parts]),
        torch.cat([part.seconds for part in parts]),
    )
