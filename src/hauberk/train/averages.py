"""Averages of the weights over the steps of a training; the averaged net is the one that is handed out.

Source: EMA, Polyak, Juditsky 1992, "Acceleration of stochastic approximation by averaging", in its exponential form; SWA, Izmailov,
Podoprikhin, Garipov, Vetrov, Wilson 2018, "Averaging weights leads to wider optima and better generalization", arXiv:1803.05407.
For robust training both are known to lessen robust overfitting: Gowal et al. 2020, arXiv:2010.03593; Chen et al. 2021 (ICLR).
The recipe's constraints are applied to an average before it is looked at or handed out, and spectral norms follow it.
**Differs from the papers:** SWA leaves the learning rate to the recipe (the paper holds it constant or makes it cyclic).
"""

from dataclasses import dataclass
from typing import Protocol

from hauberk.errors import SettingError

__all__ = ["EMA", "SWA", "Average"]


class Average(Protocol):
    """How the weights at one moment enter the average."""

    @property
    def each(self) -> str:
        """When: after each `step`, or at the end of each `epoch`."""
        ...

    def share(self, count: int, progress: float) -> float:
        """The share of the new weights, after `count` that are in the average, `progress` of the training being over; 0: left out."""
        ...


@dataclass(frozen=True)
class EMA:
    """After each step: average <- d * average + (1 - d) * weights, with d = min(decay, (1 + k) / (10 + k)) at step k.

    The smaller d of the first steps keeps the initial weights from being remembered. Statistics of batch norm are averaged alike.

    Args:
        decay: the part that is kept, 0 < decay < 1; 0.999 remembers about 1,000 steps.

    Raises:
        SettingError: a decay out of range.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise SettingError(f"the decay of an average is between 0 and 1, such as 0.999, got {self.decay}")

    @property
    def each(self) -> str:
        return "step"

    def share(self, count: int, progress: float) -> float:
        return 1 - min(self.decay, (1 + count) / (10 + count))


@dataclass(frozen=True)
class SWA:
    """At the end of each epoch from `start` on: the plain mean of the weights. Statistics of batch norm are estimated anew for it,
    on the training examples as they are.

    Args:
        start: the share of the training that must be over, 0 <= start < 1.

    Raises:
        SettingError: a start out of range.
    """

    start: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise SettingError(
                f"averaging starts after a share of the training from 0 to less than 1, got {self.start}"
            )

    @property
    def each(self) -> str:
        return "epoch"

    def share(self, count: int, progress: float) -> float:
        return 1 / (count + 1) if progress >= self.start else 0.0
