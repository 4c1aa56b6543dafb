"""Steps that shrink where nothing is gained: one length for each example, divided when its loss stands still."""

import torch

from hauberk._shapes import PerExample

__all__ = ["Plateaus"]

_LEAST = 0.01


class Plateaus:
    """The lengths of the steps of live examples.

    Args:
        step: (live,) the first lengths.
        value: (live,) the losses before the first step.
        patience: steps after which a loss that is no larger is a plateau.
        drop: what the length is divided by then; it never falls below a hundredth of the first.

    Attributes:
        step: (live,) the lengths now. Compact it and `past` with the rest.
        past: (live, `patience` + 3) the least length, the steps seen since the last change, and the losses of the last steps.
    """

    def __init__(self, step: PerExample, value: PerExample, patience: int, drop: float) -> None:
        self.step, self.drop = step, drop
        losses = value.to(step).nan_to_num(-torch.inf)[:, None].repeat(1, patience + 1)
        self.past = torch.cat((_LEAST * step[:, None], torch.zeros_like(step)[:, None], losses), dim=1)

    def see(self, value: PerExample) -> None:
        """The losses after one more step."""
        least, seen, losses = self.past[:, 0], self.past[:, 1] + 1, self.past[:, 2:]
        losses = torch.cat((losses[:, 1:], value.to(losses).nan_to_num(-torch.inf)[:, None]), dim=1)
        stands = (seen >= losses.shape[1] - 1) & (losses[:, -1] <= losses[:, 0])
        self.step = torch.where(stands, torch.maximum(self.step / self.drop, least), self.step)
        self.past = torch.cat((least[:, None], torch.where(stands, 0.0, seen)[:, None], losses), dim=1)
