"""A climb that sets its own step sizes: what Auto-PGD and the automatic conjugate gradient method share.

    at checkpoints: halve eta and go back to the best point, where fewer than rho of the steps since the last checkpoint
    raised the loss, or neither eta nor the best loss has changed since it

Source: Croce and Hein 2020, arXiv:2003.01690, section 3.
"""

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, wide
from hauberk.blocks.frontier import improves
from hauberk.blocks.live import Live

__all__ = ["AdaptiveClimb", "checkpoints"]


class AdaptiveClimb:
    """Per-example state of a climb, dropped row by row with the frontier.

    Args:
        z: (live, *shape) where the climb stands.
        values, gradient: the loss and its gradient there.
        eta: (live,) the first step sizes.

    Attributes:
        z, before, gradient, value, eta: the point, the one before it, the gradient and the loss there, the step size.
        best, best_gradient, best_value: the point of the largest loss.
        extra: tensors with one row for each live example that are to be dropped with it.
    """

    def __init__(self, z: Batch, values: PerExample, gradient: Batch, eta: PerExample) -> None:
        self.z, self.before, self.gradient, self.eta = z, z, gradient, eta
        self.best, self.best_gradient, self.best_value = z, gradient, values
        self.value = values
        self.rises = torch.zeros_like(values)
        self.value_at_check = values
        self.halved = torch.ones_like(values, dtype=torch.bool)
        self.extra: list[Tensor] = []

    def move(self, z: Batch, values: PerExample, gradient: Batch) -> Tensor:
        """Stand at z, where loss and gradient are these; (live,) bool: where that is the best point so far."""
        self.before, self.z, self.gradient = self.z, z, gradient
        self.rises = self.rises + (values > self.value)
        self.value = values
        better = improves(values, self.best_value)
        self.best = torch.where(wide(better, z), z, self.best)
        self.best_gradient = torch.where(wide(better, z), gradient, self.best_gradient)
        self.best_value = torch.where(better, values, self.best_value)
        return better

    def check(self, rho: float, window: int) -> Tensor:
        """What is due at a checkpoint after `window` steps; (live,) bool: where eta was halved and the climb went back."""
        stuck = ~self.halved & (self.value_at_check >= self.best_value)
        halve = (self.rises <= rho * window) | stuck
        self.eta = torch.where(halve, self.eta / 2, self.eta)
        self.halved, self.value_at_check, self.rises = halve, self.best_value, torch.zeros_like(self.rises)
        self.back_to_best(halve)
        return halve

    def back_to_best(self, which: Tensor) -> None:
        """Stand at the best point again, where `which`."""
        self.z = torch.where(wide(which, self.z), self.best, self.z)
        self.gradient = torch.where(wide(which, self.z), self.best_gradient, self.gradient)

    def compact(self, live: Live) -> None:  # type: ignore[type-arg]  # of any region
        """Drop the rows that `live` drops."""
        fields = [self.z, self.before, self.gradient, self.eta, self.best, self.best_gradient, self.best_value]
        fields += [self.value, self.rises, self.value_at_check, self.halved, *self.extra]
        kept = live.compact(*fields)
        self.z, self.before, self.gradient, self.eta, self.best, self.best_gradient, self.best_value = kept[:7]
        self.value, self.rises, self.value_at_check, self.halved = kept[7:11]
        self.extra = list(kept[11:])


def checkpoints(steps: int) -> dict[int, int]:
    """Step -> length of the window that ends there: 22 % of the steps, each 3 % shorter than the last, at least 6 %."""
    window, least, less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    marks: dict[int, int] = {}
    at = window
    while at <= steps:
        marks[at] = window
        window = max(window - less, least)
        at += window
    return marks
