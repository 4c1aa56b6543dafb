"""The box without walls: every point of it is a tanh, so that an optimiser without constraints stays inside.

    z = middle + width / 2 * tanh(w) / reach          w = atanh(reach * (z - middle) / (width / 2))

With `reach` 1, the paper's map, a value at a wall has w = inf and a derivative of 0: it never moves, and in many pictures most
values stand there. Here the walls lie at the finite w = +-atanh(reach), where the derivative by w is (1 - reach^2) / reach of
half the width, and w is held between them.

Source: Carlini and Wagner 2017, arXiv:1608.04644, section V-B.
"""

import math

from torch import Tensor

from hauberk._shapes import Batch

__all__ = ["TanhSpace"]


class TanhSpace:
    """The change of variables for one box.

    Args:
        box: its walls.
        reach: in (0, 1), the tanh that a wall has; the nearer to 1, the less a value at a wall moves at first.
    """

    def __init__(self, box: tuple[float, float], reach: float) -> None:
        low, high = box
        self._box, self._middle, self._scale = box, (low + high) / 2, (high - low) / (2 * reach)
        self._wall = math.atanh(reach)

    def enter(self, z: Batch) -> Tensor:
        """The w of a point of the box."""
        return self.hold(((z - self._middle) / self._scale).atanh())

    def leave(self, w: Tensor) -> tuple[Batch, Tensor]:
        """The point of the box, and its derivative by w."""
        t = w.tanh()
        return (self._middle + self._scale * t).clamp_(*self._box), self._scale * (1 - t * t)

    def hold(self, w: Tensor) -> Tensor:
        """The nearest w between the walls."""
        return w.clamp(-self._wall, self._wall)
