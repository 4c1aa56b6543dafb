"""WRM, Wasserstein robust training by the penalty gamma, and the certificate that comes with it.

    phi(x, y) = sup_z  l(f(z), y) - gamma * |z - x|_2^2        min_w  E phi_w(x, y)

z is free: no ball and no range holds it, only the cost of moving does. It is sought from x by `steps` ascents of length
1 / (2 gamma sqrt(t)), t = 1, 2, ... . If gamma is so large that z -> l(f(z), y) - gamma |z - x|^2 is strongly concave, this finds the
supremum. By duality then, for every radius rho and every distribution Q within it of the distribution P of the examples,

    E_Q l <= gamma * rho + E_P phi            W(Q, P) = inf over couplings of E |z - x|_2^2 <= rho, labels kept

with equality for the Q that moves each example to its z, at rho = E_P |z - x|^2. That is `wrm_certificate`.

Source: Sinha, Namkoong, Volpi, Duchi 2018, "Certifying some distributional robustness with principled adversarial training",
arXiv:1710.10571, algorithm 1 and the certificate of section 3 (duality: Blanchet, Murthy 2016, arXiv:1604.01446). The authors'
program for MNIST: an ELU net, gamma 1 / 2.6, 16 steps, label smoothing 0.1.

**Differs from the paper:**

- the certificate is for P the given examples; the paper adds a term for the distribution they came from;
- a certificate counts as proven only if the net's smoothness is bounded, gamma exceeds half of it, and what the ascent may
  have left is added; the paper takes the ascent's values for phi;
- the reported loss is E phi itself, whose gradient by the weights is that of the loss at z.

**Status:** partial; the bound is on a mean over the data and for changes that are small in L2 on average, it weakens fast as
gamma falls below the smoothness, and vouches for no single answer.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample, flat, wide
from hauberk.errors import ModelError, SettingError
from hauberk.train._adversarial import in_mode
from hauberk.train._examples import collect
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import ascent_direction

__all__ = ["Wrm", "WrmCertificate", "smoothness_bound", "wrm_certificate"]


def _refuse_gamma(gamma: float) -> None:
    if not (math.isfinite(gamma) and gamma > 0):
        raise SettingError(f"wrm needs a finite gamma > 0, got {gamma}")


@dataclass(frozen=True, kw_only=True)
class Wrm:
    """Cost: `steps` + 1 forwards and backwards an example.

    Args:
        gamma: the price of moving an example, per squared L2 length, > 0; the smaller, the more robustness is asked for.
        steps: of ascent, >= 1.
        mode: `eval` or `train`: what batch norm and dropout do while it climbs.

    Raises:
        SettingError: a setting out of range.
    """

    status: ClassVar[Status] = Status("partial", "Sinha et al. 2018, arXiv:1710.10571")

    gamma: float = 1.0
    steps: int = 15
    mode: str = "eval"

    def __post_init__(self) -> None:
        _refuse_gamma(self.gamma)
        if self.steps < 1:
            raise SettingError(f"wrm needs steps >= 1, got {self.steps}")
        if self.mode not in ("eval", "train"):
            raise SettingError(f"the mode of the inner maximiser is eval or train, got {self.mode!r}")

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        """(B, *shape) the points that are worst at this price, detached; nothing is drawn."""
        rows, z = torch.arange(len(x), device=x.device), x.clone()
        with in_mode(net, training=self.mode == "train"):
            for step in range(1, self.steps + 1):
                _, gradient = ascent_direction(
                    lambda z, rows: F.cross_entropy(net(z), y, reduction="none") - self.gamma * _moved(z, x), z, rows
                )
                z = z + gradient / (2 * self.gamma * math.sqrt(step))
        return z

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        z = self.perturb(net, x, y, streams=streams, at=at)
        logits, moved = net(z), _moved(z, x).mean()
        return Losses(F.cross_entropy(logits, y) - self.gamma * moved, logits, {"transport": moved.item()})


def _moved(z: Batch, x: Batch) -> PerExample:
    return flat(z - x).square().sum(dim=1)


@dataclass(frozen=True)
class WrmCertificate:
    """For every distribution within `rho` of the examples, in mean squared L2 length, labels kept: its mean cross-entropy.

    Args:
        gamma: the price it was computed at.
        rho: the radius; a squared length.
        bound: gamma * rho + mean phi; an upper bound where `proven`, an estimate that may lie below one otherwise.
        loss: the mean cross-entropy of the examples themselves.
        transport: the mean squared length to the worst points that were found: the radius at which the bound is tight.
        slack: what was added to mean phi for what the ascent may have left; infinite where no bound on that is known.
        smoothness: the bound on the input gradient's Lipschitz constant; None: unknown.
        proven: whether the bound holds, in exact arithmetic; rounding is not accounted for.
        note: why not, or "".
    """

    gamma: float
    rho: float
    bound: float
    loss: float
    transport: float
    slack: float
    smoothness: float | None
    proven: bool
    note: str = ""


def wrm_certificate(
    net: nn.Module,
    data: object,
    gamma: float,
    rho: float,
    *,
    steps: int = 200,
    smoothness: float | None = None,
    batch_size: int = 256,
) -> WrmCertificate:
    """Bound the mean cross-entropy of every distribution close to the data.

    Args:
        net: answers (B, classes) logits; used in evaluation mode. For a proof its activations must be smooth (ELU, softplus,
            tanh, sigmoid): with ReLU no gamma makes the ascent's problem concave.
        data: a pair of tensors (x, y), a `hauberk.data.Source`, or `Examples`.
        gamma: the price, > 0. Any gamma gives a bound; for each rho one is best.
        rho: the radius in mean squared L2 length, >= 0.
        steps: of ascent, >= 1.
        smoothness: a bound on the Lipschitz constant of x -> d l(f(x), y) / dx, if one is known, > 0; by default
            `smoothness_bound(net)` where the net allows it.
        batch_size: how many examples are worked on at once, >= 1.

    Returns:
        The certificate. Where 2 * gamma exceeds the smoothness S, phi lies at most |grad|^2 / (2 (2 gamma - S)) above the
        value that was found, by strong concavity; the mean of that is added, and the bound is proven.

    Raises:
        DataError: data that cannot be used.
        SettingError: a setting out of range.

    Cost: `steps` + 1 forwards and backwards an example.
    """
    _refuse_gamma(gamma)
    if not (math.isfinite(rho) and rho >= 0):
        raise SettingError(f"a wrm certificate needs a finite rho >= 0, got {rho}")
    if steps < 1 or batch_size < 1:
        raise SettingError(f"a wrm certificate needs steps >= 1 and batch_size >= 1, got {steps} and {batch_size}")
    if smoothness is not None and not (math.isfinite(smoothness) and smoothness >= 0):
        raise SettingError(f"a wrm certificate needs a finite smoothness >= 0, got {smoothness}")
    note = ""
    if smoothness is None:
        try:
            smoothness = smoothness_bound(net)
        except ModelError as error:
            note = str(error)
    if smoothness is not None and smoothness >= 2 * gamma:
        note = f"gamma is {gamma:g}, and a proof needs it above half the smoothness bound, {smoothness / 2:g}"
    proven = not note
    examples, weight = collect(data), next(net.parameters())
    sums = torch.zeros(4, dtype=torch.float64)
    with in_mode(net, training=False):
        for part in torch.arange(len(examples)).split(batch_size):
            x, y = examples.x[part].to(weight), examples.y[part].to(weight.device)
            found = _supremum(net, x, y, gamma, steps, smoothness if proven else None)
            sums += torch.stack([value.double().sum().cpu() for value in found])
    loss, phi, transport, left = (sums / len(examples)).tolist()
    slack = left / (2 * (2 * gamma - (smoothness or 0.0))) if proven else math.inf
    bound = gamma * rho + phi + (slack if proven else 0.0)
    return WrmCertificate(gamma, rho, bound, loss, transport, slack, smoothness, proven, note)


def _supremum(
    net: nn.Module, x: Batch, y: Labels, gamma: float, steps: int, smoothness: float | None
) -> tuple[PerExample, PerExample, PerExample, PerExample]:
    """The loss at x; the largest l - gamma |z - x|^2 found; |z - x|^2 and the squared gradient there."""

    def climb(z: Batch, rows: Tensor) -> PerExample:
        return F.cross_entropy(net(z), y, reduction="none") - gamma * _moved(z, x)

    rows, z = torch.arange(len(x), device=x.device), x.clone()
    values, gradient = ascent_direction(climb, z, rows)
    loss, best, where, slope = values, values, z, gradient
    for step in range(1, steps + 1):
        # the gradient has Lipschitz constant at most 2 gamma + S, for which this step never falls
        size = 1 / (2 * gamma * math.sqrt(step)) if smoothness is None else 1 / (2 * gamma + smoothness)
        z = z + size * gradient
        values, gradient = ascent_direction(climb, z, rows)
        higher = values > best
        best = torch.where(higher, values, best)
        where, slope = torch.where(wide(higher, z), z, where), torch.where(wide(higher, z), gradient, slope)
    return loss, best, _moved(where, x), flat(slope).square().sum(dim=1)


_SMOOTH: dict[type[nn.Module], tuple[float, float]] = {
    nn.Identity: (1.0, 0.0),
    nn.Flatten: (1.0, 0.0),
    nn.Dropout: (1.0, 0.0),  # in evaluation mode
    nn.Sigmoid: (0.25, 1 / (6 * math.sqrt(3))),
    nn.Tanh: (1.0, 4 / (3 * math.sqrt(3))),
}
"""Of what acts on each value alone: the largest slope, and the largest slope of the slope."""


def smoothness_bound(net: nn.Module) -> float:
    """A bound on the Lipschitz constant, in L2, of the gradient of the cross-entropy by the input, at any point and label.

    Layer by layer, with a the Lipschitz constant of what lies before, b that of its Jacobian, W a layer's weights:
    linear, a <- |W| a and b <- |W| b; activation of slope s and curvature c, b <- c a^2 + s b and then a <- s a. The cross-entropy has a
    gradient of length at most sqrt(2) by the scores and curvature at most 1/2: in all, a^2 / 2 + sqrt(2) b.

    Args:
        net: nested `nn.Sequential` of linear layers, `Flatten`, `Dropout` and ELU (alpha 1), softplus (threshold 20 or more), tanh or
            sigmoid, these very classes.

    Raises:
        ModelError: another module, or weights that are not finite.

    The bound is sound but for rounding and torch's softplus, which jumps by 2e-9 / beta at its threshold of 20. It grows with the
    product of the layers' norms, so it is loose for deep nets. Source: the paper's appendix on Lipschitz constants has the recursion.
    """
    steep, curved = 1.0, 0.0
    for module in _layers(net):
        if type(module) is nn.Linear:  # a subclass may answer otherwise
            size = float(torch.linalg.matrix_norm(module.weight.detach().double().cpu(), 2))
            steep, curved = size * steep, size * curved
            continue
        slope, curvature = _activation(module)
        curved = curvature * steep**2 + slope * curved
        steep = slope * steep
    bound = steep**2 / 2 + math.sqrt(2) * curved
    if not math.isfinite(bound):
        raise ModelError(f"a bound on the smoothness needs finite weights, got a bound of {bound}")
    return bound


def _layers(net: nn.Module) -> list[nn.Module]:
    return [layer for part in net for layer in _layers(part)] if type(net) is nn.Sequential else [net]


def _activation(module: nn.Module) -> tuple[float, float]:
    if type(module) is nn.Softplus and module.threshold >= 20:  # below, torch goes over to a line with a jump
        return 1.0, module.beta / 4
    if type(module) is nn.ELU and module.alpha == 1:
        return 1.0, 1.0
    if type(module) in _SMOOTH:
        return _SMOOTH[type(module)]
    raise ModelError(
        "a bound on the smoothness needs a Sequential of linear layers and ELU (alpha 1), softplus (threshold >= 20), tanh or sigmoid, "
        f"got {type(module).__name__}; give smoothness= if you know a bound"
    )
