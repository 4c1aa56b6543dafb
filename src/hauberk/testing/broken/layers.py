"""The layers that ten published defenses put into a network, as small as they can be written; each was broken.

All take and give (B, *shape) inputs in [0, 1] unless they say otherwise. Those that draw do so from torch's global generator, as
the defenses do.
"""

import io
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Jpeg", "KWinners", "NoiseLayer", "Prune", "ResizeAndPad", "Rounded", "Scaled", "Squeeze", "Thermometer"]


class Scaled(nn.Module):
    """A net whose logits are multiplied by a constant."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.factor


class Thermometer(nn.Module):
    """(B, C, H, W) to (B, C * levels, H, W) of zeros and ones: is the value above 0, 1/levels, ... ?"""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(levels) / levels)

    def forward(self, x: Tensor) -> Tensor:
        steps: Any = self.steps
        return (x[:, :, None] > steps.to(x)[:, None, None]).to(x.dtype).flatten(1, 2)


class Squeeze(nn.Module):
    """Values rounded to `bits` bits."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.steps = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x * self.steps) / self.steps


class Jpeg(nn.Module):
    """Each picture (1, H, W) written as a JPEG file and read back."""

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        import numpy as np
        from PIL import Image

        pictures = []
        for picture in (x.detach() * 255).round().to(torch.uint8).cpu():
            file = io.BytesIO()
            Image.fromarray(picture[0].numpy()).save(file, "JPEG", quality=self.quality)
            with Image.open(file) as read:
                pictures.append(torch.tensor(np.asarray(read))[None])
        return torch.stack(pictures).to(x) / 255


class Prune(nn.Module):
    """Keep only the activations drawn, with replacement and in proportion to their size, and divide by the chance to be kept."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1)
        draws = max(1, round(self.share * values.shape[1]))
        chance = values.detach().abs() / values.detach().abs().sum(dim=1, keepdim=True).clamp_min(1e-12)
        drawn = torch.multinomial(chance.clamp_min(1e-12), draws, replacement=True)
        kept = torch.zeros_like(values).scatter_(1, drawn, 1.0)
        return (values * kept / (1 - (1 - chance) ** draws).clamp_min(1e-6)).reshape(x.shape)


class ResizeAndPad(nn.Module):
    """All pictures of a batch resized to a random side in [low, high], at a random place of a black canvas of side `high` + 1.

    As in a pipeline on image files, the resized values are rounded to 8 bits; the canvas is then brought to the side `out`.
    """

    def __init__(self, low: int, high: int, out: int) -> None:
        super().__init__()
        self.low, self.high, self.out = low, high, out

    def forward(self, x: Tensor) -> Tensor:
        side = int(torch.randint(self.low, self.high + 1, ()))
        room = self.high + 1 - side
        left, top = (int(value) for value in torch.randint(room + 1, (2,)))
        small = nn.functional.interpolate(x, size=(side, side), mode="nearest")
        canvas = nn.functional.pad(torch.round(small * 255) / 255, (left, room - left, top, room - top))
        return nn.functional.adaptive_avg_pool2d(canvas, self.out)


class KWinners(nn.Module):
    """Keep the largest `share` of each example's activations, and set the others to zero."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1)
        kept = max(1, round(self.share * values.shape[1]))
        least = values.detach().topk(kept, dim=1).values[:, -1:]
        return torch.where(values >= least, values, torch.zeros_like(values)).reshape(x.shape)


class NoiseLayer(nn.Module):
    """Noise added to what passes: `size` times the sine of a random phase, for each value anew.

    The phase is 2 pi u + turns * x with u uniform, so that the noise has the same distribution whatever x is. Autograd cannot
    know that: it differentiates the phase, and a gradient of one draw is 1 + size * turns * cos(phase), mostly noise; its
    expectation is 1.
    """

    def __init__(self, size: float, turns: float) -> None:
        super().__init__()
        self.size, self.turns = size, turns

    def forward(self, x: Tensor) -> Tensor:
        return x + self.size * torch.sin(2 * torch.pi * torch.rand_like(x) + self.turns * x)


class Rounded(nn.Module):
    """Values rounded to multiples of `step`."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x / self.step) * self.step
