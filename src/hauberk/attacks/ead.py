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
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, planes_at_start
from hauberk.blocks.confident import with_confidence
from hauberk.errors import UnknownNameError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["EAD", "ead"]

_CHECKS = 10
_STILL = 0.9999
"""Where the least objective of a tenth of the steps is more than this share of that of the tenth before, it has stopped falling."""
_RULES = ("l1", "elastic")


@dataclass(frozen=True)
class EAD:
    """The elastic-net attack. Cost: at most (`rivals` + `binary_search_steps`) * `steps` + 1 forwards and 9 backwards more than
    that, an example.

    Args:
        binary_search_steps: runs, each with another c, after those towards the rivals.
        steps: most steps of a run.
        learning_rate: first step of a run, as a share of the gradient.
        beta: weight of L1, and how far a step shrinks each change, for a box of width 1.
        initial_const: first c; where None, from the gradient at the example.
        rivals: nearest other classes that an untargeted attack first runs towards.
        confidence: margin of the logits that counts as success.
        rule: which success is the best: `l1`, that of the smallest L1 change, or `elastic`, that of the smallest
            |.|_2^2 + beta |.|_1, which counts where no radius is given.
    """

    binary_search_steps: int = 4
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
        search = _Search(self, found)
        search.towards_rivals(goal)
        search.for_const(goal)
        if self.rule == "elastic" and not ball.finite:
            near = ball.with_radius(math.inf).snap(search.near, x)  # as it was asked
            return torch.where(wide(search.near_size.isfinite(), x), near, found.best)
        return found.best


class _Search:
    """The runs on one batch, and what they know of each of its examples.

    Attributes:
        c: (n,) of the next run.
        near, near_size: (n, *shape), (n,) the best success by the rule, whatever the radius, and how good it is; later runs start
            there.
    """

    def __init__(self, settings: EAD, found: Closest) -> None:
        self.settings, self.found = settings, found
        low, high = found.region.box
        self.width = high - low
        self.c = torch.full_like(found.size, settings.initial_const or 1.0)
        self.near, self.near_size = found.best.clone(), found.size.clone()

    def towards_rivals(self, goal: Goal) -> None:
        """The first runs, all from the example. The c of the run with the best success is kept."""
        settings = self.settings
        goals, _, lengths = planes_at_start(self.found, goal, max(settings.rivals, 1))
        kept = self.c
        for run, wanted in enumerate(goals):
            rows = self._work_on()
            if settings.initial_const is None:
                # what keeps one value in the change: c |g| against 2 |z - x| and, in each step, the shrinking
                pull = self.width * (settings.beta / settings.learning_rate + 1)
                self.c = (3 * pull / lengths[:, run]).nan_to_num(1.0, 1.0, 1.0).clamp(1e-6, 1e6)
            before = self.near_size.clone()
            self._run(self.found.x, wanted.take(rows))
            kept = torch.where((self.near_size < before) | before.isinf(), self.c, kept)
        self.c = kept

    def for_const(self, goal: Goal) -> None:
        """The binary search for c."""
        won = self.near_size.isfinite()
        low, high = torch.zeros_like(self.c), torch.full_like(self.c, math.inf)
        for _ in range(self.settings.binary_search_steps):
            low, high = torch.where(won, low, self.c), torch.where(won, self.c, high)
            self.c = torch.where(high.isinf(), 10 * self.c, (low + high) / 2)
            rows = self._work_on()
            won = self._run(self.near[rows], goal.take(rows))

    def _work_on(self) -> Tensor:
        self.found.restart()
        self.found.compact()
        return self.found.rows

    def _run(self, start: Batch, towards: Goal) -> Tensor:
        """One run from `start`, (live, *shape), with a loss that climbs to `towards`, row by row; (n,) bool: who had a
        success in the last tenth of the steps."""
        found, settings = self.found, self.settings
        won = torch.zeros_like(self.c, dtype=torch.bool)
        z = y = start
        began = found.rows
        before = lowest = self.c.new_full((len(z),), math.inf)
        lately = won[began]
        every = max(settings.steps // _CHECKS, 1)
        for step in range(settings.steps):
            rows = found.rows
            if not len(rows):
                break
            margin, logits, vjp = found.look(y)
            reached = found.succeeds(margin, logits)
            lately |= reached
            wanted = with_confidence(towards.take(torch.searchsorted(began, rows)), settings.confidence)
            value, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), wanted)
            change = y - found.x
            one, squared = flat(change).abs().sum(dim=1), flat(change).square().sum(dim=1)
            elastic = squared + settings.beta * self.width * one
            good = one if settings.rule == "l1" else elastic
            better = reached & (good < self.near_size[rows])
            self.near[rows[better]], self.near_size[rows[better]] = y[better], good[better]
            weight = self.c[rows]
            lowest = torch.minimum(lowest, elastic + weight * (-value).clamp_min(0))
            if step % every == every - 1:
                found.drop(~(lowest <= _STILL * before))
                before, lowest = lowest, torch.full_like(lowest, math.inf)
                won[rows], lately = lately, torch.zeros_like(lately)
            gradient = vjp(slope * (-weight * (value <= 0))[:, None].to(slope)) + 2 * change
            pace = settings.learning_rate * math.sqrt(1 - step / settings.steps)
            moved = change - pace * gradient
            moved = moved.sign() * (moved.abs() - settings.beta * self.width).clamp_min(0)
            new = found.inside(found.x + moved)
            y = found.inside(new + step / (step + 3) * (new - z))
            z = new
            z, y, before, lowest, lately = found.compact(z, y, before, lowest, lately)
        return won


ead = friendly(EAD)
