"""The linear and convolutional layers of a net as matrices, and how far the norm of a layer may exceed that of its matrix.

A convolution applies its matrix W, (channels out) x (channels in * kernel), to every window. An input value lies in at most
n windows, so the squares of all windows sum to at most n times that of the input, and

    |layer|_2 <= sqrt(n) * |W|_2,    n = product over the axes of ceil(kernel / (stride / gcd(stride, dilation)))

(Cisse et al. 2017, arXiv:1704.08847, have it for stride 1: n is the kernel's size). Padding with zeros adds nothing.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hauberk.errors import ModelError

__all__ = ["Layer", "change_matrices", "layers", "overlap"]

_Conv = nn.modules.conv._ConvNd
Layer: TypeAlias = nn.Linear | _Conv
"""A layer with a weight of two or more axes."""


def layers(net: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Each linear and convolutional layer by name, in the order of the net.

    Raises:
        ModelError: a layer whose weight is computed from others, so that it cannot be written to.
    """
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear | _Conv):
            if parametrize.is_parametrized(module, "weight"):
                raise ModelError(
                    f"expected layers with plain weights, got {name or 'a layer'} whose weight is computed from others; "
                    "export the net first, or leave out spectral_norm"
                )
            yield name, module


def overlap(layer: Layer) -> float:
    """sqrt(n): |layer|_2 <= sqrt(n) * |its matrix|_2; 1 for a linear layer.

    Raises:
        ModelError: a convolution that pads with anything but zeros, which has no such bound.
    """
    if isinstance(layer, nn.Linear):
        return 1.0
    if layer.padding_mode != "zeros":
        raise ModelError(
            f"the norm of a convolution is bounded for padding with zeros, got padding_mode={layer.padding_mode!r}"
        )
    sides = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    return math.sqrt(math.prod(-(-k // (s // math.gcd(s, d))) for k, s, d in sides))


def change_matrices(net: nn.Module, change: Callable[[Tensor, float], Tensor]) -> None:
    """Replace, in place, the matrix of each layer by `change(matrix, sqrt(n))`; matrices are (groups, rows, columns)."""
    with torch.no_grad():
        for _, layer in layers(net):
            groups = 1 if isinstance(layer, nn.Linear) else layer.groups
            matrix = layer.weight.reshape(groups, len(layer.weight) // groups, -1)
            layer.weight.copy_(change(matrix, overlap(layer)).reshape(layer.weight.shape))
