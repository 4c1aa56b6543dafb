"""An objective plus regularisers: their losses are added.

    Regularised(objective=FastAdversarial(), regularisers=(GradAlign(weight=0.2),))

**Status:** that of its objective and regularisers; it adds no claim.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._objective import Around, Losses, Moment, Objective
from hauberk.train._status import Status

__all__ = ["Regularised", "Regulariser"]


class Regulariser(Protocol):
    """A frozen dataclass of settings, its weight among them; its repr is part of the training's name."""

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Tensor:
        """The 0-d number to add to the loss of one batch of clean examples, attached to the graph of the weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class Regularised(Around):
    """Cost: the sum of its parts'. Each regulariser draws from streams of its own, so adding one changes no other draw.

    Args:
        objective: what is regularised.
        regularisers: at least one.

    Raises:
        SettingError: no regulariser.
    """

    status: ClassVar[Status] = Status("none")

    objective: Objective
    regularisers: tuple[Regulariser, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "regularisers", tuple(self.regularisers))
        if not self.regularisers:
            raise SettingError("a regularised objective needs at least one regulariser, got none; use the objective")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        losses = self.objective(net, x, y, streams=streams, at=at)
        total, measures = losses.total, dict(losses.measures)
        for name, regulariser in zip(_names(self.regularisers), self.regularisers, strict=True):
            value = regulariser(net, x, y, streams=streams.child(name), at=at)
            total = total + value
            measures[name] = value.item()
        return Losses(total, losses.logits, measures)


def _names(regularisers: Iterable[Regulariser]) -> list[str]:
    """A name for each: that of its file, numbered where it repeats."""
    names: list[str] = []
    for regulariser in regularisers:
        plain = type(regulariser).__module__.rsplit(".", 1)[-1]
        count = sum(name.split("/")[0] == plain for name in names)
        names.append(f"{plain}/{count + 1}" if count else plain)
    return names
