"""Adversarial weight perturbation: take the loss where weights nearby, as well as inputs nearby, are worst.

    min_w max_{|v_l| <= gamma |w_l| for each layer l}  E  loss(w + v; x, z, y),    z found by the objective at w

v is one step of ascent on the batch: v_l = gamma * |w_l| * g_l / |g_l|, g the gradient of the objective's own loss by the
weights. The gradient at w + v then moves w. Layers are the weights of two or more axes; biases and the scales of batch norm
stay.

Source: Wu, Xia, Wang 2020, "Adversarial weight perturbation helps robust generalization", arXiv:2004.05884, algorithm 1 with
one step of ascent (K2 = 1), as their programs have it. The authors' settings: gamma 0.005, without warm-up for PGD-AT and
with 10 of 200 epochs of it for TRADES.

**Differs from the paper:** none in the step. While v is sought, the running statistics of batch norm stay as they are.

**Status:** holds; it narrows the gap between training and test robustness of the objective that it wraps (AutoAttack figures
in RobustBench, arXiv:2010.09670).
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._adversarial import Adversarial
from hauberk.train._objective import Around, Losses, Moment
from hauberk.train._status import Status

__all__ = ["AWP"]


@dataclass(frozen=True, kw_only=True)
class AWP(Around):
    """Sharpens an objective of adversarial training. Cost: the objective's, and once more that of its loss.

    Args:
        objective: any that keeps `perturb` and `loss` apart, as `Adversarial` has them.
        gamma: the size of v against that of the weights, > 0.
        warm_up: epochs at the beginning that leave the weights unperturbed, >= 0.

    Raises:
        SettingError: an objective of another kind, or a setting out of range.
    """

    status: ClassVar[Status] = Status("holds", "Croce et al. 2021, RobustBench, arXiv:2010.09670")

    objective: Adversarial
    gamma: float = 0.005
    warm_up: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Adversarial) or type(self.objective).__call__ is not Adversarial.__call__:
            raise SettingError(
                f"awp needs an objective that perturbs first and takes the loss then, got {type(self.objective).__name__}; "
                "use for example PGDAT, Trades or Mart"
            )
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise SettingError(f"awp needs a finite gamma > 0, got {self.gamma}")
        if self.warm_up < 0:
            raise SettingError(f"awp needs a warm_up >= 0 epochs, got {self.warm_up}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        z = self.objective.perturb(net, x, y, streams=streams, at=at)
        if at.epoch < self.warm_up:
            return self.objective.loss(net, x, z, y, at=at)
        shift = self._shift(net, x, z, y, at)
        return self.objective.loss(_Shifted(net, shift), x, z, y, at=at)

    def _shift(self, net: nn.Module, x: Batch, z: Batch, y: Labels, at: Moment) -> dict[str, Tensor]:
        """v, by the names of the weights."""
        weights = {name: value for name, value in net.named_parameters() if value.ndim > 1 and value.requires_grad}
        zero = {name: torch.zeros_like(value).requires_grad_() for name, value in weights.items()}
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        trial = replace(at, memory=dict(at.memory))  # what this forward would remember, the real one remembers
        losses = self.objective.loss(_Shifted(net, zero, buffers), x, z, y, at=trial)
        gradients = torch.autograd.grad(losses.total, list(zero.values()), materialize_grads=True)
        shift: dict[str, Tensor] = {}
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            size = gradient.norm()
            ratio = torch.where(size > 0, weight.detach().norm() / size, torch.zeros_like(size))
            shift[name] = self.gamma * ratio * gradient
        return shift


class _Shifted(nn.Module):
    """The net with weights w + v; gradients reach w, which is never written to."""

    def __init__(self, net: nn.Module, shift: dict[str, Tensor], buffers: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.net = net
        self.shift, self.buffers_apart = shift, buffers or {}
        self.training = net.training

    def forward(self, x: Batch) -> Tensor:
        named = dict(self.net.named_parameters())
        moved = {name: named[name] + v for name, v in self.shift.items()}
        return functional_call(self.net, {**moved, **self.buffers_apart}, (x,))
