"""Blind spots: the ball around a picture that was scaled and shifted, alpha * x + beta, where training never looked.

A net that was trained against changes of its training pictures is robust around pictures like them. Scaled and shifted by a
constant, a picture is as easy to read and still classified correctly, but lies far from all of those.

    z in the ball of the threat's norm and radius around  clip(alpha * x + beta),  z in the box

Source: Zhang, Chen, Song, Boning, Dhillon, Hsieh 2019, "The limitations of adversarial training and the blind-spot attack",
arXiv:1901.04684.
**Differs from the paper:** inputs live in the victim's bounds, (0, 1) for most (there: -0.5 to 0.5), which moves beta; any norm
and attack (there: the L-inf attack of Carlini and Wagner); what leaves the bounds is clipped.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from hauberk._shapes import Batch
from hauberk.errors import ThreatError

__all__ = ["BlindSpot"]


@dataclass(frozen=True)
class BlindSpot:
    """The chart whose points are the input's own, around alpha * x + beta.

    Args:
        scale: alpha.
        shift: beta, in the units of the input.
    """

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.shift)):
            raise ThreatError(
                f"a blind spot needs a finite scale > 0 and a finite shift, got scale={self.scale:g}, shift={self.shift:g}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    def box(self, bounds: tuple[float, float]) -> tuple[float, float]:
        return bounds

    def origin(self, x: Batch, bounds: tuple[float, float]) -> Batch:
        return (self.scale * x + self.shift).clamp(*bounds)

    def render(self, z: Batch, x: Batch, bounds: tuple[float, float]) -> Batch:
        return z

    def values(self, z: Batch) -> Tensor:
        return z

    def check(self, x: Batch) -> None:
        return

    def describe(self, radius: float) -> str:
        return f"multiply every input value by {self.scale:g}, add {self.shift:g}, and then"
