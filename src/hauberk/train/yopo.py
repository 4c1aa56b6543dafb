"""YOPO-m-n, you only propagate once: the perturbation moves through the first layer alone while what lies behind it stands still.

With f = g o h, h up to and with the first layer that has weights, and d uniform in the region at first, m times:

    p = gradient of l(g(h(x + d)), y) by h(x + d); U <- U + gradient by the weights, from the same backward
    n times:  d <- project(d + step * steepest(p * dh/dx at x + d))

then the weights move once, along U / m. (From the maximum principle of optimal control: p is the costate, and n ascents of the
Hamiltonian <p, h(x + d)> cost next to nothing.)

Source: Zhang, Zhang, Lu, Zhu, Dong 2019, "You only propagate once: accelerating adversarial training via maximal principle",
arXiv:1905.00877, algorithm 1. The authors' settings: YOPO-5-3 with steps of 2/255 (CIFAR-10, 8/255), YOPO-5-10 with steps of
0.01 (MNIST, 0.3).

**Differs from the paper:** the mean over the m propagations, not their sum, so the learning rate need not be divided by m;
the authors' program adds to the first layer's gradient that of its Hamiltonian, applied by an optimiser of its own, for which it also
takes the n steps in the last round; any norm.

**Status:** holds within the norm and radius it was trained with (the table of AutoAttack, Croce, Hein 2020, arXiv:2003.01690, lowers
the authors' figure on CIFAR-10 from 48.0 to 44.8 %, as much as that of PGD-AT).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import ModelError, SettingError
from hauberk.train._adversarial import Adversarial
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Inner, InnerPGD

__all__ = ["Yopo"]


@dataclass(frozen=True, kw_only=True)
class Yopo(Adversarial):
    """Cost: `propagations` forwards and backwards an example, and (`propagations` - 1) * `inner_steps` of both through the first
    layer.

    Args:
        inner: not to be set: see above.
        mode: not to be set: one pass serves both, in training mode.
        propagations: m, >= 1.
        inner_steps: n, >= 1.
        step_size: in the units of the radius; None: radius / 4.
        layer: the name of the first layer, as `net.named_modules()` has it; "": the first module that has weights of its own.

    Raises:
        SettingError: a setting out of range, or a layer that the net does not have.
        ModelError: the layer is not run, more than once, or its output is no tensor that depends on the input.
    """

    status: ClassVar[Status] = Status("holds", "Croce, Hein 2020, arXiv:2003.01690")

    inner: Inner = field(default_factory=InnerPGD, init=False, repr=False, compare=False)
    mode: str = field(default="train", init=False, repr=False, compare=False)
    propagations: int = 5
    inner_steps: int = 3
    step_size: float | None = None
    layer: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.propagations < 1 or self.inner_steps < 1:
            raise SettingError(
                f"yopo needs propagations >= 1 and inner_steps >= 1, got {self.propagations} and {self.inner_steps}"
            )
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise SettingError(f"yopo needs a finite step_size > 0, got {self.step_size}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        layer, ball = self._first(net), self.ball
        weights = [value for value in net.parameters() if value.requires_grad]
        size = ball.reach / 4 if self.step_size is None else self.step_size
        z = ball.start(x, torch.arange(len(x), device=x.device), streams)
        summed: list[Tensor | None] = [None] * len(weights)
        value, last = x.new_zeros(()), None
        for turn in range(self.propagations):
            last, hidden = _propagate(net, layer, z)
            loss = F.cross_entropy(last, y)
            p, *gradients = torch.autograd.grad(loss, [hidden, *weights], allow_unused=True)
            summed = [_plus(kept, new) for kept, new in zip(summed, gradients, strict=True)]
            value = value + loss.detach() / self.propagations
            if turn + 1 == self.propagations:
                break
            for _ in range(self.inner_steps):
                leaf = z.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(_only_first(net, layer, leaf), leaf, p)
                z = ball.project(ball.step(z, gradient.nan_to_num_(0.0, 0.0, 0.0), size), x)
        assert last is not None
        pulls = [(w * g).sum() / self.propagations for w, g in zip(weights, summed, strict=True) if g is not None]
        pull = torch.stack(pulls).sum()
        return Losses(value + (pull - pull.detach()), last.detach())  # a number with this value and the gradient U / m

    def _first(self, net: nn.Module) -> nn.Module:
        modules = dict(net.named_modules())
        if self.layer:
            if self.layer not in modules:
                raise SettingError(
                    f"yopo needs a layer of the net, got {self.layer!r}; it has {', '.join(filter(None, modules))}"
                )
            return modules[self.layer]
        for module in modules.values():
            if any(True for _ in module.parameters(recurse=False)):
                return module
        raise SettingError("yopo needs a net with a layer that has weights, got none")


def _plus(kept: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if kept is None else kept if new is None else kept + new


class _EnoughError(Exception):
    """The first layer has answered."""


@contextmanager
def _listening(layer: nn.Module, *, stop: bool) -> Iterator[list[Tensor]]:
    """The outputs of `layer`; with `stop` the forward ends at the first."""
    heard: list[Tensor] = []

    def hear(module: nn.Module, given: Any, answer: Any) -> Tensor:
        if not isinstance(answer, Tensor):
            raise ModelError(
                f"yopo needs a first layer that answers a tensor, got {type(answer).__name__}; name another layer"
            )
        heard.append(answer)
        if stop:
            raise _EnoughError
        return answer.clone()  # what follows may write to it in place

    handle = layer.register_forward_hook(hear)
    try:
        yield heard
    except _EnoughError:
        pass
    finally:
        handle.remove()


def _propagate(net: nn.Module, layer: nn.Module, z: Batch) -> tuple[Tensor, Tensor]:
    """The scores and the first layer's output, attached to the weights."""
    with _listening(layer, stop=False) as heard:
        logits = net(z)
    if len(heard) != 1:
        raise ModelError(f"yopo needs a first layer that runs once in a forward, got {len(heard)} runs; name another")
    if not heard[0].requires_grad:
        raise ModelError("yopo needs a first layer with weights that learn, got frozen ones; name another layer")
    return logits, heard[0]


def _only_first(net: nn.Module, layer: nn.Module, z: Batch) -> Tensor:
    """The first layer's output; what lies behind it is not run."""
    with _listening(layer, stop=True) as heard:
        net(z)
    if not heard[0].requires_grad:
        raise ModelError("yopo needs a first layer whose output depends on the input, got one that does not")
    return heard[0]
