"""Curriculum adversarial training: the attack gets one step stronger when the net has learnt to withstand it.

Lesson k trains on PGD of at most k steps. With batch mixing each example of a batch draws its own number of steps i from 0
(the clean example) to k, so that what was learnt before is not forgotten. The k-accuracy is the accuracy on the examples that
drew i = k. At the end of each epoch (or window) the next lesson begins if the k-accuracy has reached `enough`, or has not risen for
`patience` epochs, or if it is time: the lessons are spread evenly over the share `pace` of the training, and none begins later than
that. The last lesson stays.

Source: Cai, Liu, Song 2018, "Curriculum adversarial training", IJCAI 2018, arXiv:1805.04807.

**Differs from the paper:**

- the paper begins at lesson 0 and leaves one when the k-accuracy on held-out examples has not risen for 10 epochs (its program then
  goes back to the best net of the lesson), however long that takes; we measure it in passing, on what is learnt from, in
  training mode, and may leave earlier (`enough`, `pace`), since a training here has a length that is known beforehand;
- their third part, quantising the input at inference, is not here: it hides gradients rather than adding robustness; a threat on
  a grid (`@grid255`) is how hauberk evaluates inputs that come quantised;
- the number of steps is drawn for each example (the paper cuts the batch in k + 1 parts), so no batch mate decides it;
- the step size is the same in each lesson, so a weak attack is also a short one;
- in several processes, or with gradient accumulation, each part of a batch has lessons of its own.

**Status:** partial; the authors' figures come with the quantisation and under attacks of their choice; no test by others that
know it is known to us. Its last lesson is PGD-AT on mixed strengths.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, wide
from hauberk.blocks import start_named
from hauberk.errors import SettingError
from hauberk.train._adversarial import Adversarial, in_mode
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Inner, InnerPGD, ascent_direction

__all__ = ["Curriculum"]

_STATE = "curriculum.state"
"""In memory: lesson, the window it was last judged in, hits and examples of the window, best k-accuracy, windows without a rise."""


@dataclass(frozen=True, kw_only=True)
class Curriculum(Adversarial):
    """Cost: in lesson k on average k / 2 + 1 forwards and backwards an example (with mixing), k + 1 without; see `inner steps`.

    Args:
        inner: not to be set: see above.
        strongest: the last lesson, >= 1.
        first: the first lesson, in [0, strongest]; 0 is natural training.
        enough: the k-accuracy that ends a lesson, in (0, 1]; 1: only a plateau does, or nothing left to learn.
        patience: epochs (or windows) without a rise that end a lesson, >= 1.
        pace: the share of the training by which the last lesson begins at the latest, > 0; above 1 it may not be reached.
        window: steps between judgements, >= 1; None: an epoch.
        mixing: whether weaker attacks are mixed in.
        step_size: in the units of the radius; None: 2.5 * radius / `strongest`.
        start: `uniform`, `clean` or `blocks`; an example that draws no step stays clean.

    Raises:
        SettingError, UnknownNameError: a setting out of range.
    """

    status: ClassVar[Status] = Status("partial", "Cai, Liu, Song 2018, arXiv:1805.04807")

    inner: Inner = field(default_factory=InnerPGD, init=False, repr=False, compare=False)
    strongest: int = 7
    first: int = 1
    enough: float = 0.9
    patience: int = 2
    pace: float = 0.7
    window: int | None = None
    mixing: bool = True
    step_size: float | None = None
    start: str = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strongest < 1 or not 0 <= self.first <= self.strongest:
            raise SettingError(
                f"a curriculum needs strongest >= 1 and first in [0, strongest], got {self.strongest} and {self.first}"
            )
        if not 0 < self.enough <= 1:
            raise SettingError(f"a curriculum needs an accuracy that is enough in (0, 1], got {self.enough}")
        if not (math.isfinite(self.pace) and self.pace > 0):
            raise SettingError(f"a curriculum needs a finite pace > 0, got {self.pace}")
        if self.patience < 1 or (self.window is not None and self.window < 1):
            raise SettingError(
                f"a curriculum needs a patience and a window >= 1, got patience={self.patience} and window={self.window}"
            )
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise SettingError(f"a curriculum needs a finite step_size > 0, got {self.step_size}")
        start_named(self.start)

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        state = self._judged(at)
        lesson, ball = int(state[0]), self.ball
        size = ball.reach * 2.5 / self.strongest if self.step_size is None else self.step_size
        rows = torch.arange(len(x), device=x.device)
        strength = torch.full_like(rows, lesson)
        if self.mixing:
            strength = streams.integers(rows, lesson + 1).to(x.device)
        z = torch.where(wide(strength > 0, x), start_named(self.start)(x, rows, ball, streams), x)
        with in_mode(net, training=self.mode == "train"):
            climb = self.climb(net, x, y)
            for step in range(lesson):
                on = rows[strength > step]
                if len(on):
                    _, gradient = ascent_direction(climb, z[on], on)
                    z[on] = ball.project(ball.step(z[on], gradient, size), x[on])
        at.memory[_STATE], at.memory["curriculum.strength"] = state, strength
        return z

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        logits = net(z)
        state, strength = at.memory[_STATE].clone(), at.memory["curriculum.strength"]
        full = strength == int(state[0])
        state[2] += (full & (logits.argmax(dim=1) == y)).sum().to(state)
        state[3] += full.sum().to(state)
        at.memory[_STATE] = state
        found = {"lesson": float(state[0]), "inner steps": strength.double().mean().item()}
        return Losses(F.cross_entropy(logits, y), logits, found)

    def _judged(self, at: Moment) -> Tensor:
        """The state, after the judgement of a window that is over."""
        length = self.window or max(1, at.steps // at.epochs)
        window = at.step // length
        if _STATE not in at.memory:
            return torch.tensor([self.first, window, 0, 0, -1, 0], dtype=torch.float64)
        lesson, judged, hits, seen, best, stale = at.memory[_STATE].tolist()
        due = min(self.strongest, self.first + int((self.strongest - self.first) * at.share / self.pace + 1e-9))
        ended = window != judged and seen > 0
        if not ended and due <= lesson:
            return at.memory[_STATE]
        over = False
        if ended:
            accuracy = hits / seen
            stale = 0 if accuracy > best else stale + 1
            best = max(best, accuracy)
            over = accuracy >= self.enough or stale >= self.patience
        coming = min(self.strongest, max(lesson + over, due))
        if coming > lesson:
            lesson, best, stale = coming, -1, 0
        return torch.tensor([lesson, window, 0, 0, best, stale], dtype=torch.float64)
