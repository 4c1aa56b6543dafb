"""Pictures in other colours: hue, saturation and brightness within limits, as the hexcone (HSV) has them.

    hue         in turns: hue + z, so that 1/3 makes red green, green blue and blue red
    saturation  saturation * (1 + z), at most 1
    brightness  brightness * (1 + z), at most 1
    contrast    mean + (1 + z) * (value - mean), clipped, with the picture's mean over all pixels and channels

Parameters live in [-1, 1], 1 standing for the limit. Pictures of one channel have brightness and contrast alone.

Source: Hosseini, Poovendran 2018, "Semantic adversarial examples", arXiv:1804.00499 (hue and saturation, by random search); the
hexcone: Smith 1978, "Color gamut transform pairs". Hue in turns and the other limits as shares are what
`torchvision.transforms.ColorJitter` takes.
**Differs from the paper:** limits, where it shifts without any; gradients; brightness and contrast.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._shapes import Batch, flat, wide
from hauberk.errors import ThreatError
from hauberk.threat.chart import check_limits, limits_text, unchanged

__all__ = ["Colour"]


@dataclass(frozen=True)
class Colour:
    """The chart of colour shifts within limits; a limit of 0 forbids them.

    Args:
        hue: turns, 0 to 0.5.
        saturation, brightness, contrast: the share that each may fall or grow by, 0 to 1.
    """

    hue: float = 0.0
    saturation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    widest: ClassVar[dict[str, float]] = {"hue": 0.5, "saturation": 1.0, "brightness": 1.0, "contrast": 1.0}

    def __post_init__(self) -> None:
        check_limits("colour", self.limits, self.widest)

    @property
    def limits(self) -> dict[str, float]:
        """The limit of each kind."""
        return {key: getattr(self, key) for key in self.widest}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(key for key, limit in self.limits.items() if limit > 0)

    def box(self, bounds: tuple[float, float]) -> tuple[float, float]:
        return -1.0, 1.0

    def origin(self, x: Batch, bounds: tuple[float, float]) -> Batch:
        return unchanged(x, len(self.names))

    def values(self, z: Batch) -> Tensor:
        shifts = [column * self.limits[name] for name, column in zip(self.names, z.unbind(dim=1), strict=True)]
        return torch.stack([s if name == "hue" else 1 + s for name, s in zip(self.names, shifts, strict=True)], dim=1)

    def render(self, z: Batch, x: Batch, bounds: tuple[float, float]) -> Batch:
        low, high = bounds
        change = {name: wide(v, x) for name, v in zip(self.names, self.values(z).unbind(dim=1), strict=True)}
        picture = (x - low) / (high - low)
        if "hue" in change or "saturation" in change:
            picture = _repaint(picture, change.get("hue"), change.get("saturation"), change.get("brightness"))
        elif "brightness" in change:
            top = picture.amax(dim=1, keepdim=True)  # all channels of a pixel by one factor: its colour stays
            picture = picture * torch.minimum(change["brightness"], 1 / top.clamp_min(torch.finfo(x.dtype).tiny))
        if "contrast" in change:
            mean = wide(flat(picture).mean(dim=1), x)
            picture = mean + change["contrast"] * (picture - mean)
        return (picture * (high - low) + low).clamp(low, high)

    def check(self, x: Batch) -> None:
        colour = x.ndim == 4 and x.shape[1] == 3
        if (self.hue or self.saturation) and not colour:
            raise ThreatError(
                f"hue and saturation need pictures of shape (3, height, width), got examples of shape {tuple(x.shape[1:])}; "
                "allow brightness and contrast alone"
            )
        if not colour and not (x.ndim == 3 or (x.ndim == 4 and x.shape[1] == 1)):
            raise ThreatError(
                f"colour changes pictures of one or three channels, channels first, got examples of shape {tuple(x.shape[1:])}"
            )

    def describe(self, radius: float) -> str:
        phrases = {
            "hue": "turn the hue by at most {:.3g} of a full turn",
            "saturation": "change the saturation by at most {:.3g} of itself",
            "brightness": "change the brightness by at most {:.3g} of itself",
            "contrast": "change the contrast by at most {:.3g} of itself",
        }
        return limits_text(self.limits, phrases, radius)


def _repaint(picture: Batch, hue: Tensor | None, saturation: Tensor | None, brightness: Tensor | None) -> Batch:
    """(B, 3, H, W) in [0, 1] through the hexcone and back, with hues added to and the others multiplied."""
    top, bottom = picture.amax(dim=1, keepdim=True), picture.amin(dim=1, keepdim=True)
    chroma = top - bottom
    tiny = torch.finfo(picture.dtype).tiny
    red, green, blue = picture.split(1, dim=1)
    width = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sector = torch.where(
        top == red,
        (green - blue) / width,
        torch.where(top == green, 2 + (blue - red) / width, 4 + (red - green) / width),
    )
    grey = chroma / top.clamp_min(tiny)
    if hue is not None:
        sector = sector + 6 * hue
    if saturation is not None:
        grey = (grey * saturation).clamp_max(1)
    if brightness is not None:
        top = (top * brightness).clamp_max(1)
    place = picture.new_tensor([5.0, 3.0, 1.0]).reshape(1, 3, 1, 1)
    along = (place + sector).remainder(6)
    return top - top * grey * torch.minimum(along, 4 - along).clamp(0, 1)
