"""Input-free attack: from grey, by a small region that is repeated all over the picture, with scores alone.

    z_0   the point of the ball nearest to grey, the middle of the box
    u     a region of `side` x `side` normal numbers for each channel, tiled over the picture
    g   = mean of (l(z + sigma u) - l(z - sigma u)) / (2 sigma) u,    `samples` / 2 of them
    m  <- mu m + g / |g|_1;    z <- project(z + step_size steepest(m))

How the result looks is not the point: an arbitrary picture is to be seen as some class. On grey all pixels weigh about the same, and
a region of k x k has k^2 numbers to find in place of 10^5. Give grey pictures and wide balls (`linf:1` is the whole box), and a
target. With a small radius around real pictures, `start="clean"` makes it NES on tiles.

Where `side` is None, regions of the whole picture, a half, a quarter, ... of its sides, `trials` of them, are each tried for
`trial_steps` from z_0, and each example goes on with the one that came furthest.

Source: Du, Fang, Yi, Cheng, Tao 2018, "Towards Query Efficient Black-box Attacks: An Input-free Perspective", arXiv:1809.02918;
estimates as Ilyas, Engstrom, Athalye, Lin 2018, arXiv:1804.08598.
**Differs from the paper:** written from its abstract and the sources it builds on, so its constants and its rule for the size of the
region are not those here; what is allowed is a ball; any goal is taken, not targets alone, and its margin is climbed ("ce" is flat
where an untargeted goal is far); each step also asks its point, so that an example stops with the first success; probes stay in the
box and keep to the mask; the last tiles are cut at the border.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, wide
from hauberk.attacks._attack import ball_of, not_negative, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Canvas, Frontier, improves, loss_named
from hauberk.blocks.estimators import asking, random_gradient
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Access, Ball, Goal, Norm, Region, Scored

__all__ = ["InputFree", "input_free"]

_STARTS = ("grey", "clean")


@dataclass(frozen=True)
class InputFree:
    """Input-free attack. Cost: at most 1 + `steps` * (`samples` + 1) queries an example, and `trials` * `trial_steps` such steps more
    where `side` is None.

    Args:
        steps: steps of the climb.
        samples: probes of each step; an even number, they come in pairs.
        side: rows and columns of the region, cut to the picture; None to try several.
        trials: how many sizes are tried.
        trial_steps: steps of each trial.
        sigma: deviation of the probes, in widths of the box.
        step_size: in units of the input; None for four radii divided by `steps`, at most a fourth of the radius.
        momentum: mu.
        start: "grey" or "clean", the example itself.
        loss: what is climbed; "ce" towards a target is the logarithm of its probability, the paper's.
    """

    steps: int = 100
    samples: int = 50
    side: int | None = 32
    trials: int = 3
    trial_steps: int = 5
    sigma: float = 0.01
    step_size: float | None = None
    momentum: float = 0.9
    start: str = "grey"
    loss: str = "margin"

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "side", "trials", "trial_steps", "sigma", "step_size")
        not_negative(self, "momentum")
        loss_named(self.loss)
        if self.samples % 2:
            raise SettingError(
                f"input_free asks in pairs and needs an even number of samples, got samples={self.samples}"
            )
        if self.start not in _STARTS:
            raise UnknownNameError.of("start of input_free", self.start, _STARTS)

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        low, high = ball.box
        frontier = Frontier(victim, x, goal, ball)
        if not len(frontier):
            return frontier.best
        start = x
        if self.start == "grey":
            start = ball.project(torch.full_like(x, (low + high) / 2), x)
        best = frontier.ask(start[frontier.rows])
        margin = torch.full((len(x),), -torch.inf, dtype=best.dtype, device=x.device)
        margin[frontier.rows] = best  # of where each example stands
        frontier.compact()
        state = _State(start.clone(), torch.zeros_like(x), margin)
        longest = max(x.shape[-2:]) if x.ndim > 2 else x.shape[-1]
        sides = torch.full((len(x),), longest if self.side is None else self.side, device=x.device)
        if self.side is None:
            state, sides = self._try_sides(frontier, ball, state, sides, streams)
        frontier.restart()
        self._climb(frontier, ball, state, sides, self.steps, streams.child("climb"))
        return frontier.best

    def _try_sides(
        self, frontier: Frontier, ball: Ball, start: "_State", sides: Tensor, streams: Streams
    ) -> tuple["_State", Tensor]:
        """Where the best size took each example, and that size."""
        best, chosen = start, sides
        for trial in range(self.trials):
            tried = (sides // 2**trial).clamp_min(1)
            now = _State(start.z.clone(), start.moment.clone(), start.margin.clone())
            frontier.restart()
            self._climb(frontier, ball, now, tried, self.trial_steps, streams.child(f"trial {trial}"))
            better = improves(now.margin, best.margin)
            chosen = torch.where(better, tried, chosen)
            best = _State(
                torch.where(wide(better, now.z), now.z, best.z),
                torch.where(wide(better, now.moment), now.moment, best.moment),
                torch.where(better, now.margin, best.margin),
            )
        return best, chosen

    def _climb(
        self, frontier: Frontier, ball: Ball, state: "_State", sides: Tensor, steps: int, streams: Streams
    ) -> None:
        """Move the state of the live examples `steps` steps on."""
        low, high = ball.box
        x_shape = tuple(frontier.best.shape[1:])
        canvas, loss = Canvas(frontier.best), None if self.loss == "margin" else loss_named(self.loss)
        size = step_of(ball, self.step_size, min(0.25, 4 / self.steps))
        for _ in range(steps):
            if not len(frontier):
                return
            rows, z = frontier.rows, state.z[frontier.rows]
            tiles = _tiles(canvas, sides[rows])

            def draw(count: int, rows: Tensor = rows, tiles: Tensor = tiles) -> Tensor:
                plane = canvas.height * canvas.width
                numbers = streams.normal(rows, (count * canvas.channels, plane), dtype=state.z.dtype)
                laid = numbers.gather(2, tiles[:, None].expand_as(numbers))
                return laid.reshape(len(rows), count, *x_shape)

            g = random_gradient(asking(frontier, loss), z, draw, self.samples // 2, self.sigma * (high - low))
            frontier.compact()
            if not len(frontier):
                return
            kept = torch.searchsorted(rows, frontier.rows)  # both ascend
            rows, z, g = frontier.rows, z[kept], g[kept]
            g = g / wide(flat(g).abs().sum(dim=1).clamp_min(torch.finfo(g.dtype).tiny), g)
            moment = self.momentum * state.moment[rows] + g
            step = size[rows] if isinstance(size, Tensor) else size
            z = frontier.region.project(frontier.region.step(z, moment, step), frontier.x)
            state.z[rows], state.moment[rows] = z, moment
            state.margin[rows] = frontier.ask(z).to(state.margin)
            frontier.compact()


@dataclass
class _State:
    """Where each example of the batch stands: the point, the momentum, the margin."""

    z: Batch
    moment: Batch
    margin: Tensor


def _tiles(canvas: Canvas, sides: Tensor) -> Tensor:
    """(B, height * width) int64: which of the places of the top left region each place repeats."""
    y = torch.arange(canvas.height, device=sides.device)[None] % sides[:, None]
    x = torch.arange(canvas.width, device=sides.device)[None] % sides[:, None]
    return (y[:, :, None] * canvas.width + x[:, None]).reshape(len(sides), math.prod((canvas.height, canvas.width)))


input_free = friendly(InputFree)
