"""Spectral normalisation: each weight divided by its largest singular value, in the forward pass.

    W_used = W / sigma(W),    sigma(W) ~ u^T W v,    v <- W^T u / |W^T u|,  u <- W v / |W v|  at each forward in training

so sigma is followed by one step of power iteration at a time. Convolutions are normalised as unfolded kernels.

Source: Miyato, Kataoka, Koyama, Yoshida 2018, "Spectral normalization for generative adversarial networks", arXiv:1802.05957,
algorithm 1; for classifiers under attack Farnia, Zhang, Tse 2018, arXiv:1811.07457.

**Differs from the paper:** none known; it is torch's own. The norm of a convolution may exceed that of its kernel by the
square root of the kernel's size; see `SpectralProjection` for a bound on layers.

**Status:** partial; it helps adversarial training to generalise (Farnia, Zhang, Tse 2018, arXiv:1811.07457) and alone stops no
attack: norms say little of the margin.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.utils import parametrizations, parametrize

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import ModelError
from hauberk.train._adversarial import in_mode
from hauberk.train._draws import private_draws
from hauberk.train._layers import layers
from hauberk.train._objective import Around, Losses, Moment, Objective, finish, prepare
from hauberk.train._status import Status

__all__ = ["SpectralNorm", "spectral_norm", "without_spectral_norm"]


def spectral_norm(net: nn.Module) -> nn.Module:
    """A copy of the net whose linear and convolutional layers divide their weights by their spectral norms.

    A net that has been normalised is given back as it is. The first vectors of the power iteration are drawn alike each time.

    Raises:
        ModelError: the net has no such layer.
    """
    if _normalised(net):
        return net
    net = copy.deepcopy(net)
    found = list(layers(net))
    if not found:
        raise ModelError(f"spectral_norm needs linear or convolutional layers, got {type(net).__name__} without any")
    device = found[0][1].weight.device
    with private_draws("spectral norm", device=device):
        for _, layer in found:
            parametrizations.spectral_norm(layer)
    return net


def without_spectral_norm(net: nn.Module) -> nn.Module:
    """A copy of the net that holds the normalised weights as ordinary ones, and answers the same in evaluation mode."""
    if not _normalised(net):
        return net
    net = copy.deepcopy(net)
    with in_mode(net, training=False):  # in training, reading a weight would move it
        for layer in _normalised(net):
            kind = type(layer)  # torch gave the layer a class of its own, which the copy shares and the removal changes
            own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            layer.__class__ = type(kind.__name__, kind.__bases__, own)  # type: ignore[assignment]
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return net


def _normalised(net: nn.Module) -> list[nn.Module]:
    kind = parametrizations._SpectralNorm
    return [
        module
        for module in net.modules()
        if parametrize.is_parametrized(module, "weight")
        and any(isinstance(part, kind) for part in module.parametrizations["weight"])  # type: ignore[index]
    ]


@dataclass(frozen=True, kw_only=True)
class SpectralNorm(Around):
    """Trains the spectrally normalised net with an objective, and exports a plain one. Cost: the objective's, and little more.

    Args:
        objective: what is minimised.
    """

    status: ClassVar[Status] = Status("partial", "Farnia, Zhang, Tse 2018, arXiv:1811.07457")

    objective: Objective

    def prepare(self, net: nn.Module) -> nn.Module:
        """The normalised copy of the net that the objective needs."""
        return spectral_norm(prepare(self.objective, net))

    def finish(self, net: nn.Module) -> nn.Module:
        """A copy of the net with ordinary weights."""
        return finish(self.objective, without_spectral_norm(net))

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        return self.objective(net, x, y, streams=streams, at=at)
