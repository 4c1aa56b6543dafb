"""When an attack for the smallest change lets an example go: nothing smaller for a while."""

import torch

from hauberk.blocks.closest import Closest

__all__ = ["Patience"]

_GAIN = 1e-4
"""A smaller share than this by which the size fell counts as nothing."""


class Patience:
    """Drops the examples whose smallest success shrank by less than 1e-4 of itself in `steps` checks in a row.

    Args:
        found: whose examples.
        steps: how many checks; None drops nothing.
    """

    def __init__(self, found: Closest, steps: int | None) -> None:
        self._found, self._steps = found, steps
        self._waited = torch.zeros_like(found.size)
        self._known = torch.full_like(found.size, torch.inf)

    def check(self) -> None:
        """Count one step for each live example, and drop those that waited long enough; call it before `compact`."""
        if self._steps is None:
            return
        rows = self._found.rows
        size, known = self._found.size[rows], self._known[rows]
        smaller = size < known * (1 - _GAIN)
        waited = torch.where(smaller | size.isinf(), 0.0, self._waited[rows] + 1)
        self._known[rows], self._waited[rows] = torch.where(smaller, size, known), waited.to(self._waited)
        self._found.drop(waited >= self._steps)
