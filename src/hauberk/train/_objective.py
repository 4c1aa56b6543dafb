"""What training minimises, as a type: an objective turns one batch into a loss and the scores that it was computed from."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Logits

__all__ = ["Losses", "Objective"]


@dataclass(frozen=True)
class Losses:
    """What an objective found on one batch.

    Args:
        total: 0-d, attached to the graph of the weights: the number to minimise.
        logits: (B, classes) scores of the inputs that the weights learn from (perturbed ones in adversarial training).
    """

    total: Tensor
    logits: Logits


class Objective(Protocol):
    """A frozen dataclass of settings; its repr names it in checkpoints, so equal settings must have equal reprs."""

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams) -> Losses:
        """The loss of one batch.

        Args:
            net: in training mode; it answers (B, classes) logits.
            x: (B, *shape) clean examples.
            y: (B,) int64 labels.
            streams: one stream per row, the same for an example in an epoch however the batches were cut.
        """
        ...
