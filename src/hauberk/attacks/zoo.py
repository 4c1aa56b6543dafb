"""ZOO: Carlini and Wagner's attack with scores alone, whose slopes are differences along single coordinates, some in each step.

    g_i  <- the mean of g_i and (margin(z + h e_i) - margin(z - h e_i)) / 2h       for `samples` coordinates i of the space
    solver "newton":  z <- the point nearest to x with margin(z_0) + <g, z - z_0> = 0 by the slopes known so far, that is
                      z_i = x_i + c g_i / 2, then along the line through x and z on to the boundary
    solver "adam":    Adam for each coordinate by itself on |z - x|^2 + c max(confidence - margin, 0)

The change c g_i / 2 is Newton's step along one coordinate, since the distance has a curvature of 2 and a piecewise linear net one of
0. The boundary says what c is, so that none has to be searched for. The scores are log-probabilities but for a number that is the same
for every class: their margin is the paper's log f_t - max log f.

Coordinates take turns in random order, one pass after the other. A space that grows, `bilinear:8,16+identity`, starts with few
numbers, two passes in each of its stages before the last.

Source: Chen, Zhang, Sharma, Yi, Hsieh 2017, "ZOO: zeroth order optimization based black-box attacks to deep neural networks without
training substitute models", arXiv:1708.03999, algorithms 1 to 3 and section 3.
**Differs from the paper:**

- in "newton" slopes are remembered, and averaged with later ones, and every coordinate moves in each step (paper: the chosen ones, by
  slopes of this step alone, in thousands of steps); they are those of the margin, since those of the distance are known;
- "newton" needs no c and no tanh, and leaves the curvature of the scores out, which along one coordinate is mostly rounding (paper:
  c by nine binary searches, the curvature where it is positive, else 1);
- in "adam" c follows each example, up while it is missed and down while it is reached, in one run; the first is four times the least
  that holds the nearest point of the linearised boundary (paper: 0.01, nine runs); its rate falls to 0 as a cosine;
- probes are 1 % of the box away (paper: 0.0001), for scores in float32, and stay inside the box: at a wall both are on its inner side;
- importance leaves a fifth of the chances to all coordinates alike, and sets in after the first pass;
- in "newton" an example leaves once its change has not shrunk for two passes.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest, Patience
from hauberk.blocks.confident import with_confidence
from hauberk.blocks.coordinate_descent import AdamDescent, Descent, NewtonDescent
from hauberk.blocks.subspaces import Identity, Subspace, subspaces_named
from hauberk.blocks.turns import Turns
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Access, Ball, Goal, Norm, Region, Scored

__all__ = ["ZOO", "zoo"]

_SOLVERS = ("newton", "adam")
_COARSE = 2
"""Passes in each space before the last."""


@dataclass(frozen=True)
class ZOO:
    """ZOO in L2. Cost: of an example of D values 1 + `passes` * (2 D + 5 ceil(D / `samples`)) queries at most, with "adam" 1 in place of 5;
    in each smaller space of `space` two such passes of its own size.

    Args:
        passes: how often every number of the last space is measured; 40 are few for "adam".
        samples: coordinates measured between two steps.
        solver: "newton" or "adam".
        space: where the change is searched: "identity", "bilinear:16", "dct:8", or several, "bilinear:8,16+identity".
        probe: how far each coordinate is moved to measure, in widths of the box, or in numbers of a smaller space.
        importance: after the first pass coordinates are drawn, those around large changes more often.
        learning_rate: first step of "adam", in widths of the box; with `tanh` in units of w.
        tanh: "adam" works in tanh space, and does not clip.
        confidence: margin of the scores that counts as success.
    """

    passes: int = 5
    samples: int = 128
    solver: str = "newton"
    space: str = "identity"
    probe: float = 0.01
    importance: bool = False
    learning_rate: float = 0.01
    tanh: bool = False
    confidence: float = 0.0

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "passes", "samples", "probe", "learning_rate")
        not_negative(self, "confidence")
        if self.solver not in _SOLVERS:
            raise UnknownNameError.of("solver of zoo", self.solver, _SOLVERS)
        if self.tanh and self.solver != "adam":
            raise SettingError(f'tanh space is for solver="adam", got tanh=True with solver={self.solver!r}')
        _stages(self.space)

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        found = Closest(victim, x, with_confidence(goal, self.confidence), ball)
        if not len(found) or not x[0].numel():
            return found.best
        margin = found.ask(found.x)
        descent: Descent
        if self.solver == "newton":
            descent = NewtonDescent(found, margin, self.probe)
        else:
            descent = AdamDescent(found, margin, self.probe, self.learning_rate, tanh=self.tanh)
        plan = [(space, _COARSE) for space in _stages(self.space)]
        plan[-1] = (plan[-1][0], self.passes)
        for stage, (space, passes) in enumerate(plan):
            turns = Turns(streams.child(stage), _free(space, x, ball), self.samples)
            descent.enter(space)
            patient = self.solver == "newton" and stage == len(plan) - 1
            patience = Patience(found, 2 * turns.each_pass if patient else None)
            steps = passes * turns.each_pass
            for turn in range(steps):
                found.compact()
                if not len(found):
                    return found.best
                later = turn >= turns.each_pass
                chosen = turns.next(found.rows, turn, descent.numbers() if self.importance and later else None)
                whole = stage > 0 or turn >= turns.each_pass - 1
                descent.step(chosen, whole=whole, pace=(1 + math.cos(math.pi * turn / steps)) / 2)
                if whole:
                    patience.check()
        return found.best


def _stages(text: str) -> tuple[Subspace, ...]:
    return tuple(space for part in text.split("+") for space in subspaces_named(part))


def _free(space: Subspace, x: Batch, ball: Ball) -> Tensor:
    """(n, *numbers) bool, which of them may change anything."""
    if isinstance(space, Identity) and ball.mask is not None:
        return ball.mask.to(x.device).expand_as(x)
    return torch.ones(len(x), *space.shape(tuple(x.shape[1:])), dtype=torch.bool, device=x.device)


zoo = friendly(ZOO)
