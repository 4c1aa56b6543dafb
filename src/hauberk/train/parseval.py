"""Parseval networks: after each step, weights are drawn towards matrices that keep lengths.

    W <- (1 + beta) W - beta W W^T W        for each layer's matrix W

moves each singular value s to (1 + beta) s - beta s^3, whose one attractor is 1. For a convolution W is the kernel unfolded,
times the square root of the number of windows that an input value lies in: then the whole layer, and not only its matrix,
lengthens nothing.

Source: Cisse, Bojanowski, Grave, Dauphin, Usunier 2017, "Parseval networks: improving robustness to adversarial examples",
arXiv:1704.08847, algorithm 1.

**Differs from the paper:**

- every row is updated at each step (the authors update a random subset of the rows, to save time);
- where they divide the answer of a convolution by the square root of its kernel's size, the weight holds that factor here, so
  the net stays an ordinary one; a stride above 1 is counted in it;
- their third part, sums of branches replaced by convex combinations, changes the architecture and is not done: a residual
  block of a layer of norm 1 and the identity has norm up to 2.

Scales of batch norm stay as they are, and may undo the bound.

**Status:** partial; it slows attacks without stopping them, and a product of norms says little of the margin (Huster, Chiang,
Chadha 2018, arXiv:1807.09705).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hauberk.errors import SettingError
from hauberk.train._layers import change_matrices
from hauberk.train._status import Status

__all__ = ["Parseval"]


@dataclass(frozen=True)
class Parseval:
    """A constraint: one step towards matrices whose singular values are all 1. It lets the norm of a layer be near 1, not exactly.

    Args:
        beta: the size of the step, 0 < beta <= 0.5; small against the learning rate it is a weak pull.
        repeats: steps in a row, >= 1.

    Raises:
        SettingError: a setting out of range.
        ModelError: when called: a layer of which no norm is known, see `hauberk.train._layers`.
    """

    status: ClassVar[Status] = Status("partial", "Huster, Chiang, Chadha 2018, arXiv:1807.09705")

    beta: float = 0.001
    repeats: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and 0 < self.beta <= 0.5):
            raise SettingError(f"parseval needs 0 < beta <= 0.5, got {self.beta}")
        if self.repeats < 1:
            raise SettingError(f"parseval needs repeats >= 1, got {self.repeats}")

    def __call__(self, net: nn.Module) -> None:
        change_matrices(net, self._retract)

    def _retract(self, matrix: Tensor, overlap: float) -> Tensor:
        v = matrix * overlap
        for _ in range(self.repeats):
            v = (1 + self.beta) * v - self.beta * v @ v.mT @ v
        return v / overlap
