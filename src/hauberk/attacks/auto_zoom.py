"""AutoZOOM: slopes along single random directions of a small space until the goal is reached, then many, to shrink the change.

    1   F(v) = |z - x|^2 + c max(confidence - margin(z), 0),    z = inside(x + lift(v)),  v the k numbers of a small space
        g    = k (F(v + beta u) - F(v)) / beta * u,    u on the unit sphere of R^k
        v   <- Adam with g;   c larger after each step that misses the goal, smaller after each that reaches it

    2   slope <- the nearest one that agrees with the margins at z + a_1, ..., z + a_q, random changes of the space
        z     <- the point nearest to x on the plane of that slope, then along the line through x and z on to the boundary

The first phase costs two queries a step, and ends with the first success. In the second, what was learnt from one set of directions is
kept when the next corrects it, so that after some k of them the slope is known: the averaging depends on the dimension by itself.

The small space is a picture of few pixels, drawn larger, or what a decoder draws from a code: see
`hauberk.blocks.decoder.train_decoder`, which trains one on unlabelled pictures before anything is asked.

Source: Tu, Ting, Chen, Liu, Zhang, Yi, Hsieh, Cheng 2019, "AutoZOOM: autoencoder-based zeroth order optimization method for attacking
black-box neural networks", arXiv:1805.11770, algorithm 1 and section 3.
**Differs from the paper:**

- the second phase (paper: the first with the mean of q directions, 4 to 100): corrected slopes have no noise to be averaged away where
  the margin is linear, and the boundary says what c is. After a quarter of its steps it searches among all values (`shrink_space`; paper:
  in the small space to the end, beyond whose smallest change it cannot go);
- c follows the example with each step (paper: ten times larger each thousand steps without success, else halved towards the least
  that failed); the first is four times the least that holds the nearest point of the boundary by the first slope (paper: 1 to 10);
- beta is a share of the box (paper: 1 / k), so that scores in float32 and of deep nets show a difference;
- v is clipped with the picture, not mapped by tanh; each example has its own c and its own phase.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.confident import with_confidence
from hauberk.blocks.distance_and_margin import DistanceAndMargin
from hauberk.blocks.estimators import directions_named, random_gradient
from hauberk.blocks.plane_search import PlaneSearch
from hauberk.blocks.subspaces import Decoder, subspace_named
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["AutoZOOM", "auto_zoom"]

_ALONG = 2
"""Points on the line through x and z after each step of the second phase."""
_PACE = 0.05
"""The share by which c changes with each step."""


@dataclass(frozen=True)
class AutoZOOM:
    """AutoZOOM in L2. Cost: 1 + 2 * `steps` queries at most until the goal is reached, then `shrink_steps` * (`samples` + 3) more.

    Args:
        steps: most steps of the first phase.
        shrink_steps: steps of the second.
        samples: random changes of each of them.
        space: where the change is searched, `bilinear:14`, `dct:8`, ....
        decoder: in its place, what draws a change from a code.
        shrink_space: where the second phase searches after its first quarter; None for the same.
        learning_rate: of Adam, in the first phase, in widths of the box.
        beta: how far along a direction the first phase asks, in widths of the box.
        confidence: margin of the scores that counts as success.
    """

    steps: int = 1000
    shrink_steps: int = 200
    samples: int = 16
    space: str = "bilinear:8"
    decoder: Decoder | None = None
    shrink_space: str | None = "identity"
    learning_rate: float = 0.03
    beta: float = 0.1
    confidence: float = 0.0

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "shrink_steps", "samples", "learning_rate", "beta")
        not_negative(self, "confidence")
        subspace_named(self.space)
        subspace_named(self.shrink_space or self.space)

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        found = Closest(victim, x, with_confidence(goal, self.confidence), ball_of(self, region))
        if not len(found) or not x[0].numel():
            return found.best
        space = subspace_named(self.space) if self.decoder is None else self.decoder
        low, high = found.region.box
        rate = self.learning_rate * (high - low)
        climb = _Climb(found, DistanceAndMargin(found, space), self.beta * (high - low), streams)
        for _ in range(self.steps):
            found.drop(climb.reached[found.rows])
            if not climb.step(rate):
                break
        shrink = climb.shrinking()
        last = space if self.shrink_space is None else subspace_named(self.shrink_space)
        for step in range(self.shrink_steps):
            found.compact()
            if not len(found):
                break
            shrink.correct(space if 4 * step < self.shrink_steps else last, streams, self.samples)
            found.compact()
            if len(found):
                shrink.move(1.0, _ALONG)
        return found.best


class _Climb:
    """The first phase; what is known is of the whole batch, so that rows may leave at any time.

    Attributes:
        reached: (n,) bool, whether a point has reached the goal, at any distance.
    """

    def __init__(self, found: Closest, objective: DistanceAndMargin, beta: float, streams: Streams) -> None:
        self._found, self._objective, self._beta, self._streams = found, objective, beta, streams
        shape = objective.space.shape(tuple(found.best.shape[1:]))
        self._v = found.best.new_zeros(len(found.best), *shape)
        self._mean, self._square = torch.zeros_like(self._v), torch.zeros_like(self._v)
        self._margin = torch.zeros_like(found.size)
        self.reached = torch.zeros_like(found.size, dtype=torch.bool)
        self._draw, self._count = directions_named("sphere"), 0
        self._record(found.ask(found.x))
        self._first_margin = self._margin.clone()

    def shrinking(self) -> PlaneSearch:
        """With every example that has reached the goal, from there; the way there says the first of the slopes."""
        found = self._found
        found.restart()
        found.drop(~self.reached[found.rows])
        found.compact()
        rows = found.rows
        search = PlaneSearch(found, self._first_margin[rows])
        if len(rows):
            change = self._objective.points(self._v[rows]) - found.x
            search.change[rows], search.margin[rows] = change, self._margin[rows]
            gain = (self._margin - self._first_margin)[rows] / flat(change).square().sum(dim=1).clamp_min(1e-30)
            search.slope[rows] = like(gain, change) * change
        return search

    def step(self, rate: float) -> bool:
        """Two queries for each live example; False where none is left."""
        found, objective = self._found, self._objective
        found.compact()
        if not len(found):
            return False
        v = self._v[found.rows]
        centre = objective.value(objective.points(v), self._margin[found.rows])
        k, draw = math.prod(v.shape[1:]), self._draw(self._streams, found.rows, v)
        g = k * random_gradient(objective.ask, v, draw, 1, self._beta, centre=centre)
        if self._count == 0:  # one direction u of R^k tells k^2 <slope, u>^2, in the mean k times the slope's square
            g = g * like(objective.begin(self._margin[found.rows], flat(g).square().sum(dim=1) / k), g)
        v, g = found.compact(v, g)
        rows = found.rows
        if not len(rows):
            return False
        self._count += 1
        self._mean[rows] = 0.9 * self._mean[rows] + 0.1 * g
        self._square[rows] = 0.999 * self._square[rows] + 0.001 * g.square()
        size = (self._square[rows] / (1 - 0.999**self._count)).sqrt() + 1e-8
        self._v[rows] = v - rate * self._mean[rows] / (1 - 0.9**self._count) / size
        margin = found.ask(objective.points(self._v[rows]))
        self._v[rows] = torch.where(wide(margin.isnan(), v), v, self._v[rows])  # back from a point without an answer
        self._record(margin)
        objective.follow(self._margin[rows] > 0, _PACE)
        return True

    def _record(self, margin: PerExample) -> None:
        rows = self._found.rows
        self._margin[rows] = torch.where(margin.isnan(), self._margin[rows], margin.to(self._margin))
        self.reached[rows] |= margin > 0


auto_zoom = friendly(AutoZOOM)
