"""A decoder of changes, trained offline on unlabelled pictures, for attacks that search in its codes.

    minimise  mean |D(E(t)) - t|^2    over t = a - b, two pictures, since what is sought is a difference of two

    E: convolution, tanh, mean over blocks, convolution        to `channels` small pictures of `side` x `side`, the code
    D: convolution, tanh, interpolation, convolution, tanh, convolution        back to the picture

No layer has a bias, and tanh is odd: a code of zeros draws nothing, and the opposite code draws the opposite. Codes are scaled to the
root mean square of the differences, so that steps are of one size in a code and in a picture. No victim is asked.

Source: Tu et al. 2019, "AutoZOOM", arXiv:1805.11770, section 3.3. **Differs from the paper:** it learns differences (paper: pictures), and
has no biases.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, mse_loss

from hauberk._shapes import Batch
from hauberk.blocks.subspaces import Decoder
from hauberk.errors import DataError, SettingError

__all__ = ["train_decoder"]


def train_decoder(
    x: Batch,
    *,
    side: int = 7,
    channels: int | None = None,
    width: int = 16,
    steps: int = 500,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> Decoder:
    """Train on unlabelled pictures; some seconds on a CPU. The same seed gives the same decoder, and no global generator is used.

    Args:
        x: (n, channels, height, width) pictures like those to be attacked, n >= 2, but not those themselves.
        side: rows and columns of a code, at most those of a picture.
        channels: of a code; None for those of a picture.
        width: channels inside.
        steps: of Adam, each on `batch_size` differences of two pictures drawn at random.
        learning_rate: its first step, which falls to 0 as a cosine.
        seed: of weights and batches.

    Raises:
        DataError: x is no batch of two or more pictures, or not finite.
        SettingError: a setting is no whole number >= 1, or the side is longer than the picture's.
    """
    if x.ndim != 4 or len(x) < 2 or not x.is_floating_point() or not bool(x.isfinite().all()):
        raise DataError(
            f"a decoder is trained on two or more finite pictures (n, channels, height, width), got {tuple(x.shape)} of {x.dtype}"
        )
    channels = x.shape[1] if channels is None else channels
    settings = {"side": side, "channels": channels, "width": width, "steps": steps, "batch_size": batch_size}
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingError(f"a decoder needs {name} to be a whole number >= 1, got {name}={value!r}")
    if side > min(x.shape[2:]):
        raise SettingError(f"a code of {side} x {side} is larger than pictures of {tuple(x.shape[2:])}; choose less")
    generator = torch.Generator().manual_seed(seed)
    encoder = _Encoder(x.shape[1], width, channels, side).to(x)
    net = _Decoder(channels, width, x.shape[1], tuple(x.shape[2:])).to(x)
    weights = [weight for part in (encoder, net) for weight in part.parameters()]
    with torch.no_grad():
        for weight in weights:
            drawn = torch.empty(weight.shape).normal_(0, weight[0].numel() ** -0.5, generator=generator)
            weight.copy_(drawn)
    optimiser = torch.optim.Adam(weights, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.enable_grad():
        for _ in range(steps):
            t = _differences(x, batch_size, generator)
            loss = mse_loss(net(encoder(t)), t)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        t = _differences(x, min(4 * batch_size, 1024), generator)
        net.scale.fill_(_spread(encoder(t)) / _spread(t))
    return Decoder(net.eval().requires_grad_(False), (channels, side, side))


class _Encoder(nn.Module):
    def __init__(self, inputs: int, width: int, channels: int, side: int) -> None:
        super().__init__()
        self.first, self.last, self.side = _convolution(inputs, width), _convolution(width, channels), side

    def forward(self, t: Tensor) -> Tensor:
        return self.last(adaptive_avg_pool2d(self.first(t).tanh(), self.side))


class _Decoder(nn.Module):
    scale: Tensor

    def __init__(self, channels: int, width: int, outputs: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.middle = _convolution(channels, width), _convolution(width, width)
        self.last, self.size = _convolution(width, outputs), size
        self.register_buffer("scale", torch.ones(()))

    def forward(self, code: Tensor) -> Tensor:
        coarse = self.first(code * self.scale).tanh()
        fine = interpolate(coarse, size=self.size, mode="bilinear", align_corners=False)
        return self.last(self.middle(fine).tanh())


def _convolution(inputs: int, outputs: int) -> nn.Module:
    """3 x 3 without a bias; its weights are set by the caller, from a generator of its own."""
    return nn.utils.skip_init(nn.Conv2d, inputs, outputs, 3, padding=1, bias=False)


def _differences(x: Batch, count: int, generator: torch.Generator) -> Tensor:
    """(count, *shape) of two different pictures each."""
    first = torch.randint(len(x), (count,), generator=generator)
    other = (first + torch.randint(1, len(x), (count,), generator=generator)) % len(x)
    return x[first.to(x.device)] - x[other.to(x.device)]


def _spread(values: Tensor) -> float:
    """The root mean square; the least number above 0 where all are 0."""
    return max(math.sqrt(values.square().mean().item()), torch.finfo(values.dtype).tiny)
