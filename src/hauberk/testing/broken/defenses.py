"""How each of the ten defenses is built, on what data, and under which threat it is looked at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import nn

from hauberk import zoo
from hauberk._shapes import Batch, Labels
from hauberk.data import load
from hauberk.errors import UnknownNameError
from hauberk.testing.broken.layers import (
    Jpeg,
    KWinners,
    NoiseLayer,
    Prune,
    ResizeAndPad,
    Rounded,
    Scaled,
    Squeeze,
    Thermometer,
)
from hauberk.threat import ThreatModel
from hauberk.train import Cyclic, Distillation, Examples, Natural, Objective, Recipe, Teacher, collect, fit, initialise
from hauberk.victims import TorchVictim, wrap

__all__ = ["BROKEN", "BrokenDefense", "build", "honest"]

_HELD_OUT = {"digits": 500, "mnist5k": 1000}
"""The first examples of each data set, which no net here has seen."""
_SURE = 50.0
"""By this the logits of two nets are multiplied. Small nets are less sure of themselves than those of the papers."""


@dataclass(frozen=True, eq=False)
class BrokenDefense:
    """A defense, and where to look at it.

    Attributes:
        model: what a user would hand to hauberk: inputs in [0, 1], in evaluation mode.
        threat: under which an undefended net keeps next to nothing.
        data: (x, y) that the model has not seen.
        paper: that proposed it.
        broken_by: how it falls, and where that is shown.
    """

    name: str
    model: nn.Module
    threat: str
    data: tuple[Batch, Labels]
    paper: str
    broken_by: str

    @property
    def radius(self) -> float:
        """The threat's radius."""
        return ThreatModel.parse(self.threat).radius

    @property
    def victim(self) -> TorchVictim:
        """The model, wrapped as a user would wrap it; a new victim each time."""
        return wrap(self.model, name=self.name)


@dataclass(frozen=True)
class _Recipe:
    """How a defense is made."""

    make: Callable[[int], nn.Module]
    data: str
    threat: str
    paper: str
    broken_by: str


def build(name: str, *, n: int = 200, seed: int = 0) -> BrokenDefense:
    """The defense `name`, with the first n held-out examples of its data; the same for the same seed.

    Cost: seconds; a minute for `k-winners`.

    Raises:
        UnknownNameError: there is no such defense.
        MissingExtraError: the packages that bring the data are not installed.
    """
    if name not in BROKEN:
        raise UnknownNameError.of("broken defense", name, BROKEN)
    return BROKEN[name](n=n, seed=seed)


def honest() -> dict[str, nn.Module]:
    """The nets of the zoo that hide nothing, for the other error: an audit must find nothing in them."""
    return {name: _zoo(name) for name in zoo.names()}


def _training(data: str) -> Examples:
    whole = collect(load(data))
    return whole.take(torch.arange(_HELD_OUT[data], len(whole)))


def _trained(
    make: Callable[[], nn.Module], data: str, seed: int, epochs: int, rate: float, objective: Objective | None = None
) -> nn.Module:
    batch = 32 if data == "digits" else 64
    recipe = Recipe(epochs=epochs, batch_size=batch, seed=seed, rate=Cyclic(rate))
    return fit(initialise(make, seed=seed), _training(data), objective or Natural(), recipe).net.eval()


def _mlp(features: int = 64) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 10))


def _zoo(name: str) -> nn.Sequential:
    """A net of the zoo; the initial weights that its own replace are drawn in private."""
    net = initialise(lambda: zoo.net(name), seed=0)
    assert isinstance(net, nn.Sequential)
    return net


def _after_relu(net: nn.Module, layer: Callable[[], nn.Module]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for part in net.children():
        parts += [part, layer()] if isinstance(part, nn.ReLU) else [part]
    return nn.Sequential(*parts)


def _distillation(seed: int) -> nn.Module:
    teacher = _trained(_mlp, "digits", seed, 30, 5e-2, Distillation(temperature=100.0))
    student = Distillation(temperature=100.0, teacher=Teacher(teacher))
    return _trained(_mlp, "digits", seed + 1, 30, 5e-2, student)


def _thermometer(seed: int) -> nn.Module:
    return _trained(lambda: nn.Sequential(Thermometer(16), *_mlp(16 * 64)), "digits", seed, 10, 2e-3)


def _squeeze(seed: int) -> nn.Module:
    return nn.Sequential(Squeeze(1), _zoo("digits-mlp"))


def _jpeg(seed: int) -> nn.Module:
    return nn.Sequential(Jpeg(75), _zoo("mnist-natural"))


def _pruning(seed: int) -> nn.Module:
    return Scaled(_after_relu(_zoo("mnist-natural"), lambda: Prune(1.0)), _SURE)


def _resize(seed: int) -> nn.Module:
    return nn.Sequential(ResizeAndPad(29, 32, 28), _zoo("mnist-natural"))


def _k_winners(seed: int) -> nn.Module:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            KWinners(0.02),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            KWinners(0.02),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 100),
            KWinners(0.1),
            nn.Linear(100, 10),
        )

    return Scaled(_trained(make, "mnist5k", seed, 5, 4e-3), _SURE)


def _noise(seed: int) -> nn.Module:
    return nn.Sequential(NoiseLayer(0.1, 100.0), _zoo("mnist-natural"))


class _Probabilities(nn.Module):
    """Answers probabilities, through a function rather than a last module that could be taken off."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Batch) -> Batch:
        return F.softmax(self.net(x), dim=1)


def _softmax(seed: int) -> nn.Module:
    return _Probabilities(Scaled(_zoo("mnist-natural"), _SURE))


def _rounded(seed: int) -> nn.Module:
    parts = list(_zoo("mnist-natural").children())
    return nn.Sequential(*parts[:6], Rounded(1.0), *parts[6:])


_OBFUSCATED = "Athalye, Carlini, Wagner 2018, arXiv:1802.00420"
_RECIPES: dict[str, _Recipe] = {
    "distillation": _Recipe(
        _distillation,
        "digits",
        "linf:0.2",
        "Papernot, McDaniel, Wu, Jha, Swami 2016, arXiv:1511.04508",
        "a margin on the logits: Carlini, Wagner 2017, arXiv:1608.04644",
    ),
    "thermometer": _Recipe(
        _thermometer,
        "digits",
        "linf:0.2",
        'Buckman, Roy, Raffel, Goodfellow 2018, ICLR, "Thermometer encoding"',
        f"a substitute for the encoding's backward pass (BPDA): {_OBFUSCATED}",
    ),
    "squeeze": _Recipe(
        _squeeze,
        "digits",
        "linf:0.45",
        "Xu, Evans, Qi 2018, arXiv:1704.01155",
        "the identity for the backward pass of rounding: He, Wei, Chen, Carlini, Song 2017, arXiv:1706.04701",
    ),
    "jpeg": _Recipe(
        _jpeg,
        "mnist5k",
        "linf:0.2",
        "Dziugaite, Ghahramani, Roy 2016, arXiv:1608.00853; Guo, Rana, Cisse, van der Maaten 2018, arXiv:1711.00117",
        f"the identity for its backward pass (BPDA): {_OBFUSCATED}",
    ),
    "pruning": _Recipe(
        _pruning,
        "mnist5k",
        "linf:0.3",
        "stochastic activation pruning: Dhillon et al. 2018, arXiv:1803.01442",
        f"gradients averaged over draws (EOT): {_OBFUSCATED}",
    ),
    "resize": _Recipe(
        _resize,
        "mnist5k",
        "linf:0.3",
        "Xie, Wang, Zhang, Ren, Yuille 2018, arXiv:1711.01991",
        f"gradients averaged over draws (EOT), straight through the rounding (BPDA): {_OBFUSCATED}",
    ),
    "k-winners": _Recipe(
        _k_winners,
        "mnist5k",
        "linf:0.25",
        "Xiao, Zhong, Zheng 2020, arXiv:1905.10510",
        "scores alone, or gradients averaged over a neighbourhood: Tramer, Carlini, Brendel, Madry 2020, arXiv:2002.08347",
    ),
    "noise": _Recipe(
        _noise,
        "mnist5k",
        "linf:0.3",
        "random self-ensemble: Liu, Cheng, Zhang, Hsieh 2018, arXiv:1712.00673",
        f"gradients averaged over draws (EOT): {_OBFUSCATED}",
    ),
    "softmax": _Recipe(
        _softmax,
        "mnist5k",
        "linf:0.2",
        "none: a model that answers saturated probabilities, as many do",
        "the scores before the softmax: Carlini, Wagner 2017, arXiv:1608.04644",
    ),
    "rounded": _Recipe(
        _rounded,
        "mnist5k",
        "linf:0.2",
        "none: activations rounded to whole numbers, as quantised nets have them",
        f"the identity for the backward pass of rounding (BPDA): {_OBFUSCATED}",
    ),
}


def _factory(name: str) -> Callable[..., BrokenDefense]:
    def make(*, n: int = 200, seed: int = 0) -> BrokenDefense:
        recipe = _RECIPES[name]
        held_out = collect(load(recipe.data, n=min(n, _HELD_OUT[recipe.data])))
        return BrokenDefense(
            name,
            recipe.make(seed).eval(),
            recipe.threat,
            (held_out.x, held_out.y),
            recipe.paper,
            recipe.broken_by,
        )

    return make


BROKEN: Mapping[str, Callable[..., BrokenDefense]] = MappingProxyType({name: _factory(name) for name in _RECIPES})
"""The ten, by name; each function takes n and seed as `build` does."""
