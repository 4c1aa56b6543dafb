"""EAD, the elastic-net attack: Carlini and Wagner's margin with an L1 term beside the L2 one, by iterated shrinking.

    minimise  c * f(z) + |z - x|_2^2 + beta |z - x|_1  in the box         f = max(confidence - margin, 0)
    z_(t+1) = S(y_t - a_t (c grad f(y_t) + 2 (y_t - x)))                  a_t = learning_rate * sqrt(1 - t / steps)
    y_(t+1) = z_(t+1) + t / (t + 3) (z_(t+1) - z_t)
    S: a value less than beta from x goes back to x, any other beta nearer to it and into the box

Source: Chen, Sharma, Zhang, Yi, Hsieh 2018, "EAD: elastic-net attacks to deep neural networks via adversarial examples",
arXiv:1709.04114, algorithm 1, with the binary search for c and both decision rules.
**Differs from the paper:** an untargeted attack first runs towards each of the `rivals` nearest rivals by the gradients at the
example, and only then towards any class (paper: one run for each target); the first c comes from those gradients (paper: 0.001);
later runs start at the best success so far (paper: at the example); successes are read at the points y where gradients are taken
(authors' code: at z, for another query); every example has its own c and leaves a run once its objective stops falling.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.confident import with_confidence
from hauberk.blocks.constant_search import ConstantSearch, Run
from hauberk.errors import UnknownNameError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["EAD", "ead"]

_RULES = ("l1", "elastic")


@dataclass(frozen=True)
class EAD:
    """The elastic-net attack. Cost: at most (max(`rivals`, 1) + `binary_search_steps`) * `steps` + 1 forwards and 9 backwards more than
    that, an example.

    Args:
        binary_search_steps: runs, each with another c, after those towards the rivals.
        steps: most steps of a run.
        learning_rate: first step of a run, as a share of the gradient.
        beta: weight of L1, and how far a step shrinks each change, for a box of width 1.
        initial_const: first c; where None, from the gradient at the example.
        rivals: nearest other classes that an untargeted attack first runs towards, one after the other; 0 makes that one run by
            its margin, towards whichever class is ahead.
        confidence: margin of the logits that counts as success.
        rule: which success is the best: `l1`, that of the smallest L1 change, or `elastic`, that of the smallest
            |.|_2^2 + beta |.|_1, which counts where no radius is given.
    """

    binary_search_steps: int = 9
    steps: int = 200
    learning_rate: float = 0.01
    beta: float = 0.01
    initial_const: float | None = None
    rivals: int = 3
    confidence: float = 0.0
    rule: str = "l1"

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "binary_search_steps", "steps", "learning_rate", "initial_const")
        not_negative(self, "beta", "rivals", "confidence")
        if self.rule not in _RULES:
            raise UnknownNameError.of("decision rule", self.rule, _RULES)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found = Closest(victim, x, with_confidence(goal, self.confidence), ball)
        if not len(found):
            return found.best
        search = ConstantSearch(found, goal, confidence=self.confidence, initial=self.initial_const)
        # what keeps one value in the change: c |g| against 2 |z - x| and, in each step, the shrinking
        pull = (ball.box[1] - ball.box[0]) * (self.beta / self.learning_rate + 1)
        run = partial(_run, self, search)
        search.towards_rivals(self.rivals, lambda _, lengths: 3 * pull / lengths, run)
        search.bisect(self.binary_search_steps, run)
        if self.rule == "elastic" and not ball.finite:
            near = ball.with_radius(math.inf).snap(search.near, x)  # as it was asked
            return torch.where(wide(search.near_size.isfinite(), x), near, found.best)
        return found.best


def _run(settings: EAD, search: ConstantSearch, start: Batch, towards: Goal) -> Tensor:
    """One run of iterated shrinking from `start`; (n,) bool, as `RunOnce` has it."""
    found = search.found
    run = Run(search, towards, settings.steps)
    shrinks = settings.beta * (found.region.box[1] - found.region.box[0])
    z = y = start
    for step in range(settings.steps):
        if not len(found):
            break
        change = y - found.x
        one = flat(change).abs().sum(dim=1)
        elastic = flat(change).square().sum(dim=1) + shrinks * one
        gradient = run.step(y, one if settings.rule == "l1" else elastic, elastic) + 2 * change
        pace = settings.learning_rate * math.sqrt(1 - step / settings.steps)
        moved = change - pace * gradient
        moved = moved.sign() * (moved.abs() - shrinks).clamp_min(0)
        new = found.inside(found.x + moved)
        y = found.inside(new + step / (step + 3) * (new - z))
        z, y = run.compact(new, y)
    return run.won


ead = friendly(EAD)
