"""Frank-Wolfe: steps towards the point where the linearised loss is largest; never leaves the region, needs no projection.

    m_t = momentum * m_(t-1) + (1 - momentum) * grad loss(z_t)      (m_0 = grad loss(z_0), z_0 = x)
    v_t = argmax over the region of <m_t, v>;  z_(t+1) = z_t + gamma_t * (v_t - z_t)

The Frank-Wolfe gap, max_v <grad loss(z_t), v - z_t>, says how much a first-order step could still gain; with a constant gamma
of the order of 1 / sqrt(T) the smallest of T gaps is O(1 / sqrt(T)) on a smooth loss, convex or not. `frank_wolfe_gaps` gives
them.

Source: Chen, Zhou, Yi, Gu 2020, "A Frank-Wolfe framework for efficient and effective adversarial attacks", arXiv:1811.10828,
algorithm 1 and theorem 4.3; gamma_t = 2 / (t + 2): Jaggi 2013, "Revisiting Frank-Wolfe", ICML.
**Differs from the paper:** the linear maximiser knows the box (paper: the ball alone, then clipped); L1 besides L-inf and L2; an
example leaves once it is broken, and the point of the largest margin is kept; gradients count by direction, those of a loss
other than `margin` not by size, which is lost where a model is sure; no widened ball for the first points (the lambda of the
authors' code); momentum 0.5 by default, since after the few dozen steps that are usual here the 0.99 of the authors' code would
still follow the first gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, like
from hauberk.attacks._attack import ball_of, finite, not_negative, positive
from hauberk.attacks._friendly import friendly, run_attack
from hauberk.blocks import Frontier, Slope, frank_wolfe_gap, loss_named
from hauberk.errors import SettingError
from hauberk.threat import Access, Ball, Differentiable, Goal, Norm, Region, ThreatModel

__all__ = ["FrankWolfe", "frank_wolfe", "frank_wolfe_gaps"]

Watch = Callable[[int, Frontier, PerExample], None]


@dataclass(frozen=True)
class FrankWolfe:
    """Frank-Wolfe with momentum. Cost: at most `steps` + 1 forwards and `steps` backwards an example.

    Args:
        steps: how many steps.
        step_size: gamma, the share of the way to v_t that a step goes, in (0, 1]; 2 / (t + 2) in step t where None.
        momentum: weight of the past gradients, in [0, 1).
        loss: `ce`, `margin`, `dlr` or `probability`.
        early_stop: leave an example once it is broken.
    """

    steps: int = 40
    step_size: float | None = None
    momentum: float = 0.5
    loss: str = "ce"
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size")
        not_negative(self, "momentum")
        if self.momentum >= 1:
            raise SettingError(f"frank_wolfe needs momentum in [0, 1), got momentum={self.momentum}")
        if self.step_size is not None and self.step_size > 1:
            raise SettingError(
                f"frank_wolfe needs step_size in (0, 1], got step_size={self.step_size}; it is a share of the way, not a length"
            )
        loss_named(self.loss)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        return self.walk(victim, x, goal, region)

    def walk(
        self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, watch: Watch | None = None
    ) -> Batch:
        """The attack, whose gaps can be watched: `watch(step, frontier, gaps)` gets those of the live rows before each step."""
        if isinstance(region, Ball):
            ball_of(self, region)
        finite(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        loss = loss_named(self.loss)
        slope = None if watch is None else Slope(loss)
        z, mean = frontier.x, torch.zeros_like(frontier.x)
        for step in range(self.steps):
            if not len(frontier):
                return frontier.best
            _, gradient = frontier.climb(z, loss if slope is None else slope)
            if watch is not None and slope is not None:
                true = gradient * like(slope.largest, gradient)
                watch(step, frontier, frank_wolfe_gap(frontier.region, true, z, frontier.x))
            z, gradient, mean = frontier.compact(z, gradient, mean)
            mean = self.momentum * mean + (1 - self.momentum) * gradient if step else gradient
            gamma = 2 / (step + 2) if self.step_size is None else self.step_size
            v = frontier.region.linear_max(mean, frontier.x)
            z = frontier.region.project(z + gamma * (v - z), frontier.x)  # inside already, but for rounding
        if len(frontier):
            frontier.ask(z)
        return frontier.best


frank_wolfe = friendly(FrankWolfe)


@dataclass(frozen=True)
class _Watched:
    """The attack, writing down the gaps of each batch."""

    attack: FrankWolfe
    gaps: list[Tensor]

    access: ClassVar[Access] = FrankWolfe.access
    norms: ClassVar[frozenset[Norm]] = FrankWolfe.norms

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        gaps = torch.full((len(x), self.attack.steps), torch.nan, dtype=torch.float64)

        def watch(step: int, frontier: Frontier, found: PerExample) -> None:
            gaps[frontier.rows.cpu(), step] = found.to(gaps)

        self.gaps.append(gaps)
        return self.attack.walk(victim, x, goal, region, watch=watch)


def frank_wolfe_gaps(model: Any, x: Any, y: Any, threat: str | ThreatModel, **options: Any) -> Tensor:
    """(n, steps) float64: the Frank-Wolfe gap of each example before each step, in units of the loss; NaN once it has left.

    A gap of 0 says that the climb stands at a stationary point of the loss in the region: more first-order steps are no use,
    another start may be. Takes the settings of `FrankWolfe`, with `early_stop=False` unless given, and the options of
    `hauberk.attacks.run_attack`. Cost: that of the attack.

    Raises:
        AccessError, ThreatError, DataError, SettingError, ModelError: as `hauberk.attacks.run_attack`.
    """
    known = {field.name for field in fields(FrankWolfe)}
    own: dict[str, Any] = {"early_stop": False} | {key: value for key, value in options.items() if key in known}
    attack = _Watched(FrankWolfe(**own), [])
    run_attack(attack, model, x, y, threat, **{key: value for key, value in options.items() if key not in known})
    return torch.cat(attack.gaps)
