"""Dynamic adversarial training: the inner maximiser works until a first-order condition is met, more closely as training goes on.

With g the gradient of the loss at a point z of the region around x,

    c(z) = max_{u in region} <u - z, g>          (L-infinity without a range of the input: eps * |g|_1 - <z - x, g>)

is 0 exactly where no first-order move within the region climbs. Steps are made from a random start while c(z) > c_t, at most
`steps`, with

    c_t = c_max * (1 - share of the training / `control`), at least 0.

An example that has met the condition leaves the batch, so its further steps are not paid for. The measure `inner steps` is
their mean; `fosc` is the mean of the last c that was looked at.

Source: Wang, Ma, Bailey, Yi, Zhou, Gu 2019, "On the convergence and robustness of adversarial training", ICML 2019,
arXiv:2112.08304, algorithm 1. The authors' settings: c_max 0.5, at most 10 steps of a quarter of the radius from a uniform
start, c_t reaches 0 at epoch 100 of 120.

**Differs from the paper:**

- the region is that within the range of the input: where g points out of the range c need not be 0 for the paper's formula,
  which on pictures with many black pixels never is;
- c_t falls with each step, not with each epoch;
- the authors' program measures z - x from the random start, and weights examples by their loss from the second epoch on; the
  paper has neither, nor have we. (A mask inverted to c(z) <= c_t, which stops the wrong examples, is in circulation.)

**Status:** partial; the authors try it under FGSM, PGD and Carlini and Wagner's attack; no test by others that know it is
known to us. Its last epochs are those of PGD-AT.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample, flat
from hauberk.blocks import start_named
from hauberk.errors import SettingError
from hauberk.threat import Ball
from hauberk.train._adversarial import Adversarial, in_mode
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Inner, InnerPGD, ascent_direction, grown_ball

__all__ = ["Dynamic", "first_order_condition"]


def first_order_condition(ball: Ball, x: Batch, z: Batch, gradient: Batch) -> PerExample:
    """(B,) c(z) >= 0: how much a linear function with this gradient can still rise within the ball around x."""
    return flat((ball.linear_max(gradient, x) - z) * gradient).sum(dim=1).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class Dynamic(Adversarial):
    """Cost: at most `steps` + 1 forwards and backwards an example; less where it leaves early (see `inner steps`).

    Args:
        inner: not to be set: see above.
        c_max: the first c_t, >= 0.
        control: the share of the training after which c_t is 0, in (0, 1].
        steps: at most, >= 1.
        step_size: in the units of the radius; None: radius / 4.
        start: `uniform`, `clean` or `blocks`.
        ramp: the share of the training in which the radius grows in a straight line from 0 to its value; 0: none, as in the paper.

    Raises:
        SettingError, UnknownNameError: a setting out of range.
    """

    status: ClassVar[Status] = Status("partial", "Wang et al. 2019, arXiv:2112.08304")

    inner: Inner = field(default_factory=InnerPGD, init=False, repr=False, compare=False)
    c_max: float = 0.5
    control: float = 0.8
    steps: int = 10
    step_size: float | None = None
    start: str = "uniform"
    ramp: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.c_max) and self.c_max >= 0):
            raise SettingError(f"dynamic training needs a finite c_max >= 0, got {self.c_max}")
        if not 0 < self.control <= 1:
            raise SettingError(f"dynamic training needs a control in (0, 1], got {self.control}")
        if self.steps < 1:
            raise SettingError(f"dynamic training needs steps >= 1, got {self.steps}")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise SettingError(f"dynamic training needs a finite step_size > 0, got {self.step_size}")
        if not 0 <= self.ramp <= 1:
            raise SettingError(f"dynamic training needs a ramp between 0 and 1, got {self.ramp}")
        start_named(self.start)

    def threshold(self, at: Moment) -> float:
        """c_t."""
        return self.c_max * max(0.0, 1 - at.share / self.control)

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        ball, grown = grown_ball(self.ball, self.ramp, at)
        allowed = self.threshold(at)
        size = ball.reach / 4 if self.step_size is None else self.step_size * grown
        rows = torch.arange(len(x), device=x.device)
        z = start_named(self.start)(x, rows, ball, streams).clone()
        taken, last = x.new_zeros(len(x)), x.new_zeros(len(x))
        with in_mode(net, training=self.mode == "train"):
            climb = self.climb(net, x, y)
            _, gradient = ascent_direction(climb, z, rows)
            for step in range(1, self.steps + 1):
                z[rows] = here = ball.project(ball.step(z[rows], gradient, size), x[rows])
                taken[rows] = step
                if step == self.steps:
                    break
                _, gradient = ascent_direction(climb, here, rows)
                last[rows] = left = first_order_condition(ball, x[rows], here, gradient)
                on = left > allowed
                rows, gradient = rows[on], gradient[on]
                if not len(rows):
                    break
        at.memory["dynamic.steps"], at.memory["dynamic.fosc"] = taken.mean(), last.mean()
        return z

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        logits = net(z)
        found = {
            "inner steps": at.memory["dynamic.steps"].item(),
            "fosc": at.memory["dynamic.fosc"].item(),
            "allowed fosc": self.threshold(at),
        }
        return Losses(F.cross_entropy(logits, y), logits, found)
