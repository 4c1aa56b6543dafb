"""Whose turn it is: the coordinates that are measured next, in passes of random order or by importance.

    a pass          every coordinate once, in an order of each example's own; what may not change comes last
    by importance   with chances that grow with the largest change next to a coordinate, and never fall to 0

Source of the second: Chen et al. 2017, "ZOO", arXiv:1708.03999, section 3.4: there with chances of 0 where nothing changed.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from hauberk._rng import Streams
from hauberk._shapes import Rows, flat
from hauberk.blocks.canvas import Canvas

__all__ = ["Turns"]

_SHARE = 0.8
"""Of the chances that goes by importance; the rest is the same for all."""


class Turns:
    """The turns of every example of a batch in one space.

    Args:
        streams: where orders are drawn.
        free: (n, *numbers) bool, False where a measurement is of no use.
        samples: coordinates of a turn; the last of a pass has what is left.
    """

    def __init__(self, streams: Streams, free: Tensor, samples: int) -> None:
        self._streams, self._free = streams, flat(free)
        self.size = math.prod(free.shape[1:])
        self.samples = min(samples, max(self.size, 1))
        self._order = torch.zeros_like(self._free, dtype=torch.int64)

    @property
    def each_pass(self) -> int:
        """Turns of a pass."""
        return -(-self.size // self.samples)

    def next(self, rows: Rows, turn: int, change: Tensor | None = None) -> Tensor:
        """(live, K) places among the numbers, seen as a vector.

        Args:
            rows: of the live examples.
            turn: 0, 1, 2, ...; a pass begins at the multiples of `each_pass`.
            change: (live, *numbers) by which importance goes; None for a pass in random order.
        """
        if change is not None:
            return self._important(rows, change)
        place = turn % self.each_pass
        if place == 0:
            self._order[rows] = (self._uniform(rows) + ~self._free[rows]).argsort(dim=1)
        return self._order[rows, place * self.samples : (place + 1) * self.samples]

    def _important(self, rows: Rows, change: Tensor) -> Tensor:
        """A draw without replacement, by Gumbel's numbers (Kool, van Hoof, Welling 2019, arXiv:1903.06059)."""
        canvas = Canvas(change)
        size = canvas.picture(change.abs())
        largest = max_pool2d(size, (min(3, 2 * canvas.height - 1), 3), 1, (int(canvas.height > 1), 1))
        weight = flat(largest)
        weight = weight / weight.mean(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        chance = (_SHARE * weight + 1 - _SHARE).to(torch.float64) * self._free[rows]
        return (chance.log() - (-self._uniform(rows).clamp_min(1e-300).log()).log()).topk(self.samples, dim=1).indices

    def _uniform(self, rows: Rows) -> Tensor:
        return self._streams.uniform(rows, (self.size,), dtype=torch.float64)
