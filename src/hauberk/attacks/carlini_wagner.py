"""Carlini and Wagner's attacks: the margin as a penalty on the size of the change, weighed by a searched constant.

    L2      minimise |z - x|^2 + c * f(z),  z = tanh space, by Adam           f = max(confidence - margin, 0)
            c: raised after a run without a success, then halfway between the largest that failed and the smallest that did not
    L-inf   minimise sum max(|z_i - x_i| - tau, 0) + c * f(z); tau falls below each change found
    L0      the L2 attack on fewer and fewer values: after a success those with the least |gradient_i * change_i| are held

Source: Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks", arXiv:1608.04644, sections V and VI.
**Differs from the paper:**
- a wall of the box lies at a finite w (`blocks.tanh_space`): with the paper's tanh a value at 0 or 1 never moves, and with the
  usual shrinking by 1e-6 it takes hundreds of steps;
- the first c comes from the gradient at the example (four times the least c that holds the nearest point of the linearised
  boundary; paper: 0.001) and `initial_const` sets it;
- six searches of 300 steps (paper: 20 of 10,000): the step falls to 0 over each as a cosine, and each starts at the smallest
  success so far (paper: at the example);
- every example has its own c, tau, step count and held values, and leaves a search once its loss stops falling, checked after
  each tenth of the steps (paper's code: the whole batch at once);
- tau is searched by bisection between what failed and the smallest change (paper: times 0.9 until a failure);
- in L0 a tenth to a half of the values are held at a time, fewer after a failure (paper: one; its code: up to a third).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope
from hauberk.blocks.confident import with_confidence
from hauberk.blocks.tanh_space import TanhSpace
from hauberk.threat import Access, Ball, Differentiable, Goal, Norm, Region

__all__ = ["CarliniWagner", "carlini_wagner"]

_REACH = 0.99
_CHECKS = 10
_STILL = 0.9999
"""A loss that does not fall below this share of what it was a tenth of the steps ago has stopped falling."""

Penalty = Callable[[Batch, Tensor], tuple[PerExample, Batch]]
"""(change, rows) -> its penalty and the gradient of that."""


@dataclass(frozen=True)
class CarliniWagner:
    """Carlini and Wagner's attacks. Cost: at most `binary_search_steps` * `steps` forwards and as many backwards an example.

    Args:
        binary_search_steps: runs, each with another constant.
        steps: most steps of Adam in a run.
        learning_rate: first step of a run, in units of w.
        initial_const: first weight of the margin; where None, from the gradient at the example.
        confidence: margin of the logits that counts as success.
    """

    binary_search_steps: int = 6
    steps: int = 300
    learning_rate: float = 0.03
    initial_const: float | None = None
    confidence: float = 0.0

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF, Norm.L0})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "binary_search_steps", "steps", "learning_rate", "initial_const")
        not_negative(self, "confidence")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found = Closest(victim, x, with_confidence(goal, self.confidence), ball)
        space = TanhSpace(ball.box, _REACH)
        const = self._first_const(found)
        low, high = torch.zeros_like(const), torch.full_like(const, math.inf)
        for _ in range(self.binary_search_steps):
            found.restart()
            rows = found.rows
            if not len(rows):
                break
            start = torch.where(wide(found.size[rows].isfinite(), found.x), found.best[rows], found.x)
            won = self._descend(found, space, start, const, _squares)
            high[rows] = torch.where(won, const, high)[rows]
            low[rows] = torch.where(won, low, const)[rows]
            const[rows] = torch.where(high.isinf(), 10 * const, (low + high) / 2)[rows]
        return found.best

    def _first_const(self, found: Closest) -> PerExample:
        """(n,) the given constant, or 8 |margin| / |gradient|^2, four times what makes the nearest point of the linearised
        boundary a stationary one."""
        const = torch.full_like(found.size, self.initial_const or 1.0)
        if self.initial_const is not None or not len(found):
            return const
        rows = found.rows
        _, logits, vjp = found.look(found.x)
        margin, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), found.goal)
        steep = flat(vjp(slope)).square().sum(dim=1)
        const[rows] = (8 * margin.abs() / steep).nan_to_num(1.0, 1.0, 1.0).clamp(1e-6, 1e6).to(const)
        return const

    def _descend(
        self, found: Closest, space: TanhSpace, start: Batch, const: PerExample, penalty: Penalty
    ) -> Tensor:
        """One run of Adam from `start`; (n,) bool: the examples that had a success, of any size."""
        won = torch.zeros_like(const, dtype=torch.bool)
        w = space.enter(start)
        first, second = torch.zeros_like(w), torch.zeros_like(w)
        before = const.new_full((len(w),), math.inf)
        every = max(self.steps // _CHECKS, 1)
        for step in range(self.steps):
            if not len(found):
                break
            z, rate = space.leave(w)
            z = found.inside(z)
            margin, logits, vjp = found.look(z)
            won[found.rows] |= found.succeeds(margin, logits)
            _, slope = margin_slope(logits, found.goal)
            weight = const[found.rows]
            size, pull = penalty(z - found.x, found.rows)
            gradient = rate * (pull + vjp(slope.nan_to_num(0.0) * (-weight * (margin <= 0))[:, None].to(slope)))
            if step % every == 0:
                loss = size + weight * (-margin).clamp_min(0)
                if step:
                    found.drop(~(loss <= _STILL * before))
                before = loss
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            pace = self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            pace *= math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            w = space.hold(w - pace * first / (second.sqrt() + 1e-8))
            w, first, second, before = found.compact(w, first, second, before)
        return won


def _squares(change: Batch, rows: Tensor) -> tuple[PerExample, Batch]:
    return flat(change).square().sum(dim=1), 2 * change


carlini_wagner = friendly(CarliniWagner)
