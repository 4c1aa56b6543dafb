"""Nets that begin with strided convolutions, computed without the strides: gradients at a multiple of the speed on a CPU."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._shapes import Batch
from hauberk.victims.meter import Meter
from hauberk.victims.torch import TorchVictim

__all__ = ["in_phases", "phased"]


@contextmanager
def in_phases(victim: Any, x: Batch) -> Iterator[None]:
    """While it is entered, a victim whose net begins with strided convolutions computes them without strides, where that is the
    cheaper way; the same function, up to rounding. Meters around it go on counting."""
    while isinstance(victim, Meter):
        victim = victim.victim
    # other precisions and devices have other kernels, whose transposed convolutions do not suffer from strides
    ours = isinstance(victim, TorchVictim) and victim.dtype == torch.float32 and victim.device.type == "cpu"
    if not ours or victim.description["compile"] or not torch.backends.mkldnn.is_available():
        yield
        return
    with victim.opened(x) as net:
        forward = phased(net, tuple(x.shape[1:]))
        if forward is None:
            yield
            return
        net.forward = forward
        try:
            yield
        finally:
            del net.forward


def phased(net: nn.Module, shape: tuple[int, ...]) -> Callable[[Batch], Tensor] | None:
    """The forward of a sequence of layers whose first convolutions, up to the last one with a stride, are computed without strides.

    A picture is kept as its phases, `factor` ** 2 small pictures: phase (a, b) has the pixels (factor i + a, factor j + b). Then a
    convolution with a stride is one without, from more channels to more channels and with fewer taps; the last one of them leaves
    the picture whole again. Gradients are computed by forward convolutions with turned kernels. oneDNN runs these at several
    times the speed of the transposed convolutions that strides otherwise ask for, in which a net's few first channels are also
    filled up to 16 (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009).

    Args:
        net: weights frozen, in evaluation mode.
        shape: of an example.

    Returns:
        None where the net does not begin so, or where more would be multiplied than before.
    """
    parts = _parts(net)
    convs: list[nn.Conv2d] = []
    count = 0  # of the convolutions, with ReLUs between them, up to the last one with a stride
    for place, part in enumerate(parts[::2]):
        between = parts[2 * place - 1] if place else None
        if not _simple(part) or (between is not None and (type(between) is not nn.ReLU or _hooked(between))):
            break
        assert isinstance(part, nn.Conv2d)
        convs.append(part)
        count = len(convs) if part.stride[0] > 1 else count
    convs = convs[:count]
    if not convs or len(shape) != 3 or shape[0] != convs[0].in_channels:
        return None
    sizes: list[tuple[int, ...]] = [shape[1:]]
    plain = cost = 0  # products, of all layers
    for conv in convs:
        k, s, p = _settings(conv)
        sizes.append(tuple((size + 2 * p - k) // s + 1 for size in sizes[-1]))
        if min(sizes[-1]) < 1:
            return None
        plain += math.prod(sizes[-1]) * _filled(conv.in_channels) * _filled(conv.out_channels) * k * k
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    factor, before, grid = 1, 0, sizes[-1]
    for conv, size in zip(reversed(convs), reversed(sizes[1:]), strict=True):
        k, s, p = _settings(conv)
        whole, taps = s * factor, (s * (factor - 1) + k - 1) // (s * factor) + 1
        outs, ins = factor**2 * conv.out_channels, whole**2 * conv.in_channels
        cost += math.prod(size + taps - 1 for size in grid) * _filled(outs) * _filled(ins) * taps**2
        if cost > plain:
            return None
        shift = _shift(conv, factor, before, grid, size)
        place = torch.zeros(factor, whole, taps, k, dtype=conv.weight.dtype)
        for a in range(factor):
            for u in range(k):
                tap, phase = divmod(s * a + u, whole)
                place[a, phase, tap, u] = 1.0
        weight = torch.einsum("aptu,bqrv,ocuv->abopqctr", place, place, conv.weight)
        weight = weight.reshape(outs, ins, taps, taps).contiguous(memory_format=torch.channels_last)
        turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        steps.insert(0, (weight, turned, shift))
        factor, before, grid = whole, s * before + p, tuple(size + taps - 1 for size in grid)
    rest = _rest(parts[2 * count - 1 :], (convs[-1].out_channels, *sizes[-1]))
    (high, wide), (height, width) = grid, shape[1:]
    edges = (before, factor * wide - before - width, before, factor * high - before - height)

    def forward(x: Batch) -> Tensor:
        cells = F.pad(x, edges).reshape(len(x), shape[0], high, factor, wide, factor)
        z = cells.permute(0, 2, 4, 3, 5, 1).reshape(len(x), high, wide, -1).permute(0, 3, 1, 2)
        for place, (weight, turned, shift) in enumerate(steps):
            z = _Valid.apply(z.relu() if place else z, weight, turned) + shift
        return rest(z)

    return forward


class _Valid(torch.autograd.Function):
    """A convolution of stride 1 without padding, the gradient of which is a forward convolution with the turned kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, turned: Tensor) -> Tensor:
        ctx.turned = turned
        return F.conv2d(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return F.conv2d(grads[0], ctx.turned, padding=ctx.turned.shape[2] - 1), None, None


def _rest(parts: list[nn.Module], shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """The layers behind, for a picture of this shape whose memory has the channels last."""
    exactly = [type(part) for part in parts[:3]] == [nn.ReLU, nn.Flatten, nn.Linear] and not any(
        map(_hooked, parts[:3])
    )
    match parts:
        case [_, nn.Flatten(start_dim=1, end_dim=-1), nn.Linear() as linear, *others] if exactly:
            weight = linear.weight.reshape(-1, *shape).permute(0, 2, 3, 1).flatten(1).contiguous()
            behind = nn.Sequential(*others)
            return lambda z: behind(F.linear(z.relu().permute(0, 2, 3, 1).flatten(1), weight, linear.bias))
    whole = nn.Sequential(*parts)
    return lambda z: whole(z.contiguous())


def _parts(net: nn.Module) -> list[nn.Module]:
    """The layers of a sequence, those of sequences in it among them, without what does nothing; of anything else itself."""
    if type(net) is nn.Identity and not _hooked(net):
        return []
    if type(net) is not nn.Sequential or _hooked(net):
        return [net]
    return [part for inner in net for part in _parts(inner)]


def _hooked(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def _simple(part: nn.Module) -> bool:
    """A convolution alike along both axes, which phases can be made of."""
    if type(part) is not nn.Conv2d or _hooked(part) or part.padding_mode != "zeros" or isinstance(part.padding, str):
        return False
    alike = all(len(set(pair)) == 1 for pair in (part.kernel_size, part.stride, part.padding))
    return alike and part.groups == 1 and part.dilation == (1, 1)


def _settings(conv: nn.Conv2d) -> tuple[int, int, int]:
    """Kernel, stride and padding along either axis."""
    assert not isinstance(conv.padding, str)
    return conv.kernel_size[0], conv.stride[0], conv.padding[0]


def _filled(channels: int) -> int:
    """What oneDNN computes with: blocks of 16 channels."""
    return 16 * -(-channels // 16)


def _shift(conv: nn.Conv2d, factor: int, before: int, grid: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """(1, phases * channels, *grid) the biases, and -inf where a phase reaches beyond the picture: the ReLU behind makes it 0."""
    inside = []
    for cells, pixels in zip(grid, size, strict=True):
        pixel = factor * torch.arange(cells) + torch.arange(factor)[:, None] - before
        inside.append((pixel >= 0) & (pixel < pixels))
    valid = inside[0][:, None, None, :, None] & inside[1][None, :, None, None, :]
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    shift = torch.where(valid, bias[:, None, None], -math.inf)
    return shift.reshape(1, -1, *grid).contiguous(memory_format=torch.channels_last)
