"""Sparse-RS: random search over which few values change and to which corner of the box, with scores alone.

    M the changed cells, k of them, drawn at random; each value of a cell of M at a wall of the box, drawn at random
    in each step  m = max(floor(alpha_t k), 1);  m cells of M go back to x;  m others come, at walls drawn anew;
                  keep that where the margin grows

alpha_t falls on a schedule: from `alpha` to a half, fourth, fifth, sixth, eighth, ... , twentieth of it. A cell is a pixel with all
its channels, or a single value. The L0 norm here counts changed *values*: `l0:30` is ten pixels of a colour picture.

Source: Croce, Andriushchenko, Singh, Flammarion, Hein 2022, "Sparse-RS: a versatile framework for query-efficient sparse black-box
adversarial attacks", arXiv:2006.12834, sections 3 and 4, and the reference code for the schedule.
**Differs from the paper:** every example draws its own cells (reference code: one draw of places in M for the whole batch); a single
value is drawn to the wall away from x if it stands at the other; where m = k = 1 or no cell is left to come, those that go may come
back with other colours; the objective is the margin of whatever the goal is (paper: cross-entropy for targets). Patches and frames
are not here: a ball has no such shape; give their place as a `mask` and use `square`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, wide
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, improves
from hauberk.blocks.cells import CELLS, Cells
from hauberk.blocks.exchange import first_of
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["SparseRS", "sparse_rs"]

_DIVISORS = ((0, 2), (50, 4), (200, 5), (500, 6), (1000, 8), (2000, 10), (4000, 12), (6000, 15), (8000, 20))
"""Of 10,000 steps, those after which alpha is divided by so much."""


@dataclass(frozen=True)
class SparseRS:
    """Sparse-RS for L0. Cost: at most `restarts` * (`steps` + 1) queries an example.

    Args:
        steps: proposals after the first point.
        cells: "pixels", all channels of a place change together, or "values".
        alpha: first share of the changed cells that a proposal exchanges, in (0, 1].
        restarts: runs from fresh cells, on examples that are not broken yet.
        early_stop: leave an example once it is broken.
    """

    steps: int = 5000
    cells: str = "pixels"
    alpha: float = 0.3
    restarts: int = 1
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})

    def __post_init__(self) -> None:
        positive(self, "steps", "alpha", "restarts")
        if self.cells not in CELLS:
            raise UnknownNameError.of("kind of cells", self.cells, CELLS)
        if self.alpha > 1:
            raise SettingError(f"sparse_rs needs alpha in (0, 1], got alpha={self.alpha}")

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        cells = Cells(x, self.cells)
        most, free = cells.allowed(x, ball)
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        for _ in range(self.restarts):
            frontier.restart()
            if not len(frontier):
                break
            rows = frontier.rows
            chosen = first_of(_keys(streams, rows, free[rows]), most[rows])
            colours = _colours(cells, frontier, streams, ball.box)
            margin = frontier.ask(self._paint(cells, frontier, chosen, colours))
            chosen, colours, margin = frontier.compact(chosen, colours, margin)
            for step in range(self.steps):
                if not len(frontier):
                    break
                rows = frontier.rows
                count = most[rows]
                moves = (alpha_at(self.alpha, step + 1, self.steps) * count).floor().to(torch.int64).clamp_min(1)
                moves = moves.minimum(count)
                leave = first_of(_keys(streams, rows, chosen), moves)
                keys = _keys(streams, rows, free[rows] & ~chosen)
                come = first_of(torch.where(leave, keys.clamp_min(0) - 1, keys), moves)  # what leaves comes last
                new = (chosen & ~leave) | come
                drawn = torch.where(come[:, None], _colours(cells, frontier, streams, ball.box), colours)
                found = frontier.ask(self._paint(cells, frontier, new, drawn))
                better = improves(found, margin)
                chosen = torch.where(better[:, None], new, chosen)
                colours = torch.where(wide(better, colours), drawn, colours)
                margin = torch.where(better, found, margin)
                chosen, colours, margin = frontier.compact(chosen, colours, margin)
        return frontier.best

    def _paint(self, cells: Cells, frontier: Frontier, chosen: Tensor, colours: Tensor) -> Batch:
        painted = torch.where(chosen[:, None], colours, cells.split(frontier.x))
        return frontier.region.project(cells.whole(painted), frontier.x)


def alpha_at(alpha: float, step: int, steps: int) -> float:
    """The share that is exchanged in this step, counted from 1."""
    place = int(step / (steps + 1) * 10_000)
    return alpha / max([1, *(divisor for mark, divisor in _DIVISORS if place > mark)])


def _keys(streams: Streams, rows: Tensor, among: Tensor) -> Tensor:
    """(B, count) uniform in [0, 1) where `among`, -inf elsewhere: the largest are a random choice."""
    keys = streams.uniform(rows, (among.shape[1],), dtype=torch.float64)
    return torch.where(among, keys, -torch.inf)


def _colours(cells: Cells, frontier: Frontier, streams: Streams, box: tuple[float, float]) -> Tensor:
    """(B, deep, count) random walls; for cells of one value none where the value stands already."""
    low, high = box
    x = cells.split(frontier.x)
    up = streams.signs(frontier.rows, (cells.deep, cells.count), dtype=x.dtype) > 0
    if cells.deep == 1:
        up = (up & (x < high)) | (x <= low)
    return torch.where(up, high, low).to(x)


sparse_rs = friendly(SparseRS)
