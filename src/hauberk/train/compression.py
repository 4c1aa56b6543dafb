"""Compression: smaller weights, and what they do to robustness. Measured here, not claimed.

    prune      the share `sparsity` of all weights, those of least magnitude, become 0
    quantise   w -> round(w / s) * s,  s = max |w| / (2^(bits - 1) - 1) for each output channel

Source: magnitude pruning, Han, Pool, Tran, Dally 2015, arXiv:1506.02626; weights of 8 bits, symmetric, one scale for each
channel, Krishnamoorthi 2018, arXiv:1806.08342.

**Differs from the papers:** quantised weights are simulated: they are floats that 8-bit integers and one float a channel could
hold; what flows between layers stays as it is. No fine-tuning follows by itself: give `Prune` to a recipe's constraints, and
the net learns on with what is left.

**Status:** none; no defense. Examples made on a net carry over to its compressed self (Zhao et al. 2018, arXiv:1810.00208),
and rounding may enlarge the error that an attack causes (Lin, Gan, Han 2019, arXiv:1904.08444).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from hauberk.errors import SettingError
from hauberk.train._layers import Layer, layers
from hauberk.train._status import Status

__all__ = ["Prune", "Quantise", "sparsity"]


@dataclass(frozen=True)
class Prune:
    """Set the smallest weights of linear and convolutional layers to 0, in place; as a constraint, after each step anew.

    Args:
        sparsity: the share that becomes 0, in [0, 1).
        scope: `global`: over all layers together; `layer`: in each the same share.

    Raises:
        SettingError: a setting out of range.
        ModelError: when called: a layer whose weight cannot be written to.
    """

    status: ClassVar[Status] = Status("none")

    sparsity: float = 0.5
    scope: str = "global"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise SettingError(f"pruning needs a sparsity in [0, 1), got {self.sparsity}")
        if self.scope not in ("global", "layer"):
            raise SettingError(f"the scope of pruning is global or layer, got {self.scope!r}")

    def __call__(self, net: nn.Module) -> None:
        weights = [layer.weight for _, layer in layers(net)]
        for group in [weights] if self.scope == "global" else [[weight] for weight in weights]:
            self._prune(group)

    def _prune(self, weights: Sequence[torch.Tensor]) -> None:
        if not weights:
            return
        with torch.no_grad():
            flat = torch.cat([weight.flatten() for weight in weights])
            smallest = flat.abs().sort(stable=True).indices[: round(self.sparsity * len(flat))]
            flat[smallest] = 0.0
            for weight, part in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
                weight.copy_(part.reshape(weight.shape))


@dataclass(frozen=True)
class Quantise:
    """Round the weights of linear and convolutional layers to so many bits, in place; for after the training (arXiv:1806.08342).

    As a constraint it freezes what it rounds: steps of less than half a level are lost.

    Args:
        bits: from 2 to 16.

    Raises:
        SettingError: bits out of range.
        ModelError: when called: a layer whose weight cannot be written to.
    """

    status: ClassVar[Status] = Status("none")

    bits: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise SettingError(f"weights are quantised to 2 to 16 bits, got {self.bits}")

    def __call__(self, net: nn.Module) -> None:
        levels = 2 ** (self.bits - 1) - 1
        with torch.no_grad():
            for _, layer in layers(net):
                weight = layer.weight
                axes = [axis for axis in range(weight.ndim) if axis != _channels(layer)]
                scale = weight.abs().amax(dim=axes, keepdim=True) / levels
                weight.copy_(torch.where(scale > 0, (weight / scale).round() * scale, weight))


def _channels(layer: Layer) -> int:
    """The axis of the output channels."""
    transposed = not isinstance(layer, nn.Linear) and layer.transposed
    return 1 if transposed else 0


def sparsity(net: nn.Module) -> float:
    """The share of the weights of linear and convolutional layers that are exactly 0; 0 for a net without any."""
    weights = [layer.weight for _, layer in layers(net)]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / total if total else 0.0
