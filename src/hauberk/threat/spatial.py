"""Pictures turned, moved, grown and slanted: the rotations and translations of Engstrom et al., and the scale and shear of Fawzi.

    value of the new picture at p = value of x at  Shear^-1 Scale^-1 Rotation^-1 (p - translation)      p from the centre

    rotation     degrees, counter-clockwise        -> 1 parameter
    translation  shares of the side, right and down -> 2 parameters
    scale        grown or shrunk by this share: a factor from 1 / (1 + scale) to 1 + scale        -> 1 parameter
    shear        degrees that upright lines lean       -> 1 parameter

Parameters live in [-1, 1], 1 standing for the limit. Values between pixels are bilinear; what comes from outside the picture is
black (the low end of the victim's bounds), or the picture reflected at its edge.

Source: Engstrom, Tran, Tsipras, Schmidt, Madry 2019, "Exploring the landscape of spatial robustness", arXiv:1712.02779;
scale and shear: Fawzi, Frossard 2015, "Manitest: are classifiers really invariant?", arXiv:1507.06535.
**Differs from the papers:** translations are shares of the side, so that one threat fits every picture size (30 degrees and 3 of
28 or 32 pixels there: about 0.1); angles are true also where a picture is not square.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from hauberk._shapes import Batch
from hauberk.errors import ThreatError
from hauberk.threat.chart import check_limits, limits_text, unchanged

__all__ = ["PADDINGS", "Spatial"]

PADDINGS = {"zeros": "zeros", "reflect": "reflection"}
"""What comes from outside the picture -> the name that torch has for it."""


@dataclass(frozen=True)
class Spatial:
    """The chart of rotations, translations, scalings and shears within limits; a limit of 0 forbids them.

    Args:
        rotation: degrees, 0 to 180.
        translation: share of the side, 0 to 1.
        scale: share that the picture may grow or shrink by, 0 to 4.
        shear: degrees, 0 to 80.
        padding: what comes from outside the picture: `zeros` (the low end of the bounds) or `reflect`.
    """

    rotation: float = 0.0
    translation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    padding: str = "zeros"

    widest: ClassVar[dict[str, float]] = {"rotation": 180.0, "translation": 1.0, "scale": 4.0, "shear": 80.0}

    def __post_init__(self) -> None:
        check_limits("spatial", self.limits, self.widest)
        if self.padding not in PADDINGS:
            raise ThreatError(f"spatial pads with {' or '.join(PADDINGS)}, got padding={self.padding!r}")

    @property
    def limits(self) -> dict[str, float]:
        """The limit of each kind."""
        return {key: getattr(self, key) for key in self.widest}

    @property
    def names(self) -> tuple[str, ...]:
        kinds = [key for key, limit in self.limits.items() if limit > 0]
        return tuple(name for key in kinds for name in (("right", "down") if key == "translation" else (key,)))

    def box(self, bounds: tuple[float, float]) -> tuple[float, float]:
        return -1.0, 1.0

    def origin(self, x: Batch, bounds: tuple[float, float]) -> Batch:
        return unchanged(x, len(self.names))

    def values(self, z: Batch) -> Tensor:
        kinds = {"right": self.translation, "down": self.translation} | self.limits
        columns = [
            _factor(column * self.scale) if name == "scale" else column * kinds[name]
            for name, column in zip(self.names, z.unbind(dim=1), strict=True)
        ]
        return torch.stack(columns, dim=1)

    def render(self, z: Batch, x: Batch, bounds: tuple[float, float]) -> Batch:
        low, high = bounds
        where = self._sources(z, *x.shape[-2:])
        pictures = (x - low).reshape(len(x), math.prod(x.shape[1:-2]), *x.shape[-2:])
        drawn = grid_sample(pictures, where, padding_mode=PADDINGS[self.padding], align_corners=False)
        return (drawn.reshape(x.shape) + low).clamp(low, high)

    def _sources(self, z: Batch, height: int, width: int) -> Tensor:
        """(B, height, width, 2) where each value comes from, -1 to 1 from edge to edge."""
        columns = dict(zip(self.names, self.values(z).unbind(dim=1), strict=True))
        zero = torch.zeros_like(z[:, 0])

        def amount(name: str) -> Tensor:
            return columns.get(name, zero)[:, None, None]

        down, right = (torch.arange(side, dtype=z.dtype, device=z.device) - (side - 1) / 2 for side in (height, width))
        across = right[None, None, :] - amount("right") * width
        along = down[None, :, None] - amount("down") * height
        angle = torch.deg2rad(amount("rotation"))
        turned = angle.cos() * across - angle.sin() * along
        along = angle.sin() * across + angle.cos() * along
        factor = columns["scale"][:, None, None] if "scale" in columns else torch.ones_like(turned[:, :1, :1])
        turned, along = turned / factor, along / factor
        turned = turned - torch.deg2rad(amount("shear")).tan() * along
        return torch.stack((turned / (width / 2), along / (height / 2)), dim=3)

    def check(self, x: Batch) -> None:
        if x.ndim < 3 or min(x.shape[-2:]) < 2:
            raise ThreatError(
                f"spatial moves pictures whose last two axes are height and width, got examples of shape {tuple(x.shape[1:])}"
            )
        if x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
            raise ThreatError(
                f"spatial needs the channels first, got examples of shape {tuple(x.shape[1:])}; give them as (channels, height, width)"
            )

    def describe(self, radius: float) -> str:
        phrases = {
            "rotation": "turn the picture by at most {:.3g} degrees",
            "translation": "move it by at most {:.3g} of its sides",
            "scale": "grow or shrink it by at most {:.3g} of its size",
            "shear": "slant it by at most {:.3g} degrees",
        }
        return limits_text(self.limits, phrases, radius)


def _factor(share: Tensor) -> Tensor:
    """Grown by a share > 0, or shrunk by it: 1 + share, or 1 / (1 - share)."""
    return torch.where(share < 0, 1 / (1 - share.clamp_max(0)), 1 + share)
