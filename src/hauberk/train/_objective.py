"""What training minimises, as a type: an objective turns one batch into a loss and the scores that it was computed from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Logits

__all__ = ["Around", "Losses", "Moment", "Objective", "finish", "prepare", "visits"]


@dataclass(frozen=True)
class Moment:
    """Where a training stands, for what changes as it goes on.

    Args:
        step: optimiser steps made before this batch.
        steps: of the whole training.
        epoch: passes over the data made before this one.
        epochs: of the whole training.
        visit: how often this batch was seen in a row before, see `Objective`.
        memory: what an objective keeps from one step to the next; it may write to it, and every checkpoint holds it.
    """

    step: int = 0
    steps: int = 1
    epoch: int = 0
    epochs: int = 1
    visit: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """How much of the training is over, from 0 to less than 1."""
        return self.step / self.steps


@dataclass(frozen=True)
class Losses:
    """What an objective found on one batch.

    Args:
        total: 0-d, attached to the graph of the weights: the number to minimise.
        logits: (B, classes) scores of the inputs that the weights learn from (perturbed ones in adversarial training).
        measures: further numbers for the records of the epoch, each a mean over the batch.
    """

    total: Tensor
    logits: Logits
    measures: Mapping[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A frozen dataclass of settings; its repr names it in checkpoints, so equal settings must have equal reprs.

    An objective that has an attribute `visits` (an int) sees each batch that often in a row, with an optimiser step after each.

    An objective may have two methods more, both found through the functions of these names below. `prepare(net)` is called once
    before the training and gives the net that is trained, which may be another than its argument; a net that is ready it gives
    back as it is. `finish(net)` is called with the trained net and gives the one to export; a net with nothing to finish it gives
    back as it is. An objective that is made of others passes both on, as `Around` does.
    """

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        """The loss of one batch.

        Args:
            net: in training mode; it answers (B, classes) logits.
            x: (B, *shape) clean examples.
            y: (B,) int64 labels.
            streams: one stream per row, the same for an example in an epoch however the batches were cut.
            at: where the training stands.
        """
        ...


def prepare(objective: object, net: nn.Module) -> nn.Module:
    """The net that `objective` trains, made of this one: the net itself where the objective asks for nothing else."""
    ready = getattr(objective, "prepare", None)
    return net if ready is None else ready(net)


def finish(objective: object, net: nn.Module) -> nn.Module:
    """The net to export, made of the one that `objective` trained: the net itself where there is nothing to take off."""
    done = getattr(objective, "finish", None)
    return net if done is None else done(net)


def visits(objective: object) -> int:
    """How often `objective` sees each batch in a row."""
    return getattr(objective, "visits", 1)


class Around:
    """What an objective that stands around another passes on of it, unless it has its own."""

    objective: Any  # each says which kind

    @property
    def visits(self) -> int:
        """How often the objective sees each batch in a row."""
        return visits(self.objective)

    def prepare(self, net: nn.Module) -> nn.Module:
        """The net that the objective needs, made of this one."""
        return prepare(self.objective, net)

    def finish(self, net: nn.Module) -> nn.Module:
        """The net without what the objective added."""
        return finish(self.objective, net)
