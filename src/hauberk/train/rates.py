"""Optimisers and learning rates as values: the rate of a step depends on its number alone, so resuming needs no state."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from hauberk.errors import SettingError

__all__ = ["SGD", "Adam", "Constant", "Cyclic", "OneCycle", "Optimiser", "Piecewise", "Rate"]


class Rate(Protocol):
    """A learning rate for each step."""

    def __call__(self, step: int, steps: int) -> float:
        """The rate of step number `step`, 0 <= step < steps."""
        ...


class Optimiser(Protocol):
    """Settings that make a torch optimiser; the rate is set anew before each step."""

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


def _check(peak: float, rise: float = 0.5) -> None:
    if not (math.isfinite(peak) and peak > 0):
        raise SettingError(f"a learning rate is a finite number > 0, got {peak}")
    if not 0 < rise < 1:
        raise SettingError(f"the rising part of a cycle is a fraction between 0 and 1, got {rise}")


def _check_decay(decay: float) -> None:
    if not (math.isfinite(decay) and decay >= 0):
        raise SettingError(f"a weight decay is a finite number >= 0, got {decay}")


@dataclass(frozen=True)
class Constant:
    """The same rate at every step."""

    peak: float

    def __post_init__(self) -> None:
        _check(self.peak)

    def __call__(self, step: int, steps: int) -> float:
        return self.peak


@dataclass(frozen=True)
class Piecewise:
    """`peak`, times `factor` from each of the shares `drops` of the training on: how CIFAR nets are usually hardened.

    Source: Rice, Wong, Kolter 2020, arXiv:2002.11569: 0.1 with SGD, divided by 10 after one half and three quarters.

    >>> [round(Piecewise(1.0)(step, 8), 3) for step in range(8)]
    [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """

    peak: float
    drops: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check(self.peak)
        if not all(0 < drop < 1 for drop in self.drops) or not (math.isfinite(self.factor) and self.factor > 0):
            raise SettingError(
                f"a rate that falls needs drops between 0 and 1 and a factor > 0, got drops={self.drops} and factor={self.factor}"
            )

    def __call__(self, step: int, steps: int) -> float:
        return self.peak * self.factor ** sum(step / steps >= drop for drop in self.drops)


@dataclass(frozen=True)
class Cyclic:
    """Linear from 0 up to `peak`, reached after the fraction `rise` of all steps, and linear down to 0.

    The first step already learns: step k of n takes the value at (k + 1) / (n + 1), so neither end is exactly 0.

    >>> [round(Cyclic(1.0, rise=0.4)(step, 9), 2) for step in range(9)]
    [0.25, 0.5, 0.75, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17]
    """

    peak: float
    rise: float = 0.4

    def __post_init__(self) -> None:
        _check(self.peak, self.rise)

    def __call__(self, step: int, steps: int) -> float:
        at = (step + 1) / (steps + 1)
        return self.peak * (at / self.rise if at < self.rise else (1 - at) / (1 - self.rise))


@dataclass(frozen=True)
class OneCycle:
    """Half a cosine from `peak` / 25 up to `peak`, and half a cosine down to `peak` / 250,000.

    Source: Smith, Topin 2017, "Super-convergence", arXiv:1708.07120; the divisors are those torch's OneCycleLR starts from.
    """

    peak: float
    rise: float = 0.3

    def __post_init__(self) -> None:
        _check(self.peak, self.rise)

    def __call__(self, step: int, steps: int) -> float:
        at = step / max(1, steps - 1)
        if at < self.rise:
            low, share = self.peak / 25, at / self.rise
        else:
            low, share = self.peak / 250_000, (1 - at) / (1 - self.rise)
        return low + (self.peak - low) * (1 - math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Adam:
    """Kingma, Ba 2014, arXiv:1412.6980, without weight decay unless asked for.

    Args:
        betas: how much of the mean gradient, and of its mean square, each step keeps; both from 0 to less than 1.
        weight_decay: >= 0; this times each weight is added to its gradient.

    Raises:
        SettingError: a setting out of range.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise SettingError(f"Adam needs two betas from 0 to less than 1, such as (0.9, 0.999), got {self.betas}")
        _check_decay(self.weight_decay)

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=1.0, betas=self.betas, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Args:
        momentum: >= 0; how much of the step before is in each step.
        nesterov: look ahead by the momentum, which must then be > 0.
        weight_decay: >= 0; this times each weight is added to its gradient.

    Raises:
        SettingError: a setting out of range.
    """

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.momentum) and self.momentum >= 0):
            raise SettingError(f"SGD needs a finite momentum >= 0, such as 0.9, got {self.momentum}")
        if self.nesterov and not self.momentum:
            raise SettingError(f"nesterov needs a momentum > 0, such as 0.9, got {self.momentum}")
        _check_decay(self.weight_decay)

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=1.0, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )
