"""Greedy local search: ask what each of some cells would do, change the best few, look around those next, with scores alone.

    in each round
        the cells to ask      `candidates` of those near the ones that changed last, at first of all, drawn at random
        each of them alone    how large the margin would be with it at a wall of the box
        the `at_once` best    change for good

Moves "walls" asks each cell at both walls and takes the better; on a linear victim of two classes, with all cells asked, that is
optimal. Moves "cyclic" are the paper's: with the box seen as [-1/2, 1/2], a cell v is asked at the wall on its own side of 0 and
changes to 3/2 v, wrapped round at the walls; each costs one query. A cell is a pixel with all its channels, or a single value. The L0
norm here counts changed *values*: `l0:30` is ten pixels of a colour picture. An example ends where the radius lets no more cells change.

Source: Narodytska and Kasiviswanathan 2017, "Simple Black-Box Adversarial Perturbations for Deep Networks", arXiv:1612.06299,
algorithms 1 and 2 (LocSearchAdv); d = 5, t = 5, 150 rounds, r = 3/2.
**Differs from the paper:** moves to walls (paper: cyclic only); probes stay in the box (paper: p v, which may leave it by far); a radius
limits the cells (paper: rounds only); only cells that help change, or the best one where none does (paper: always t); at most 128 cells
are asked in a round, and always as many, some from elsewhere where those near are fewer (paper: all that are near); the score is the
goal's margin (paper: the probability of the true class), success what the goal says (paper: the true class not among the k largest).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier
from hauberk.blocks.cells import CELLS, Cells
from hauberk.blocks.exchange import first_of
from hauberk.blocks.leaving import leaving
from hauberk.errors import UnknownNameError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["LocalSearch", "local_search"]

_MOVES = ("walls", "cyclic")
_GROWTH = 1.5
"""r in the paper: by how much a cyclic move stretches a value."""
_GROUP = 32
"""Points of an example asked together: a fixed number, so that what an example costs does not depend on the batch."""


@dataclass(frozen=True)
class LocalSearch:
    """Greedy local search for L0. Cost: at most 1 + `rounds` * (2 `candidates` + 1) queries an example, half of it for cyclic moves.

    Args:
        rounds: rounds of asking and changing.
        cells: "pixels", all channels of a place change together, or "values".
        candidates: cells that are asked in a round.
        at_once: cells that change in a round, t in the paper.
        reach: how many rows and columns from a changed cell the next round looks, d in the paper.
        moves: "walls" or "cyclic".
    """

    rounds: int = 150
    cells: str = "pixels"
    candidates: int = 128
    at_once: int = 5
    reach: int = 5
    moves: str = "walls"

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})

    def __post_init__(self) -> None:
        positive(self, "rounds", "candidates", "at_once", "reach")
        if self.cells not in CELLS:
            raise UnknownNameError.of("kind of cells", self.cells, CELLS)
        if self.moves not in _MOVES:
            raise UnknownNameError.of("kind of moves", self.moves, _MOVES)

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        cells = Cells(x, self.cells)
        most, free = cells.allowed(x, ball)
        frontier = Frontier(victim, x, goal, ball)
        if not len(frontier):
            return frontier.best
        z, margin = frontier.x, frontier.ask(frontier.x)
        pool = free[frontier.rows]
        z, margin, pool = frontier.compact(z, margin, pool)
        for _ in range(self.rounds):
            room = most[frontier.rows] - self._changed(cells, z, frontier.x).sum(dim=1)
            z, margin, pool, room = leaving(frontier, room <= 0, z, margin, pool, room)
            if not len(frontier):
                break
            rows = frontier.rows
            keys = streams.uniform(rows, (cells.count,), dtype=torch.float64) + pool + free[rows]
            asked = keys.argsort(dim=1, descending=True)[:, : self.candidates]
            found, walls, z, margin, room, asked = self._probe(cells, frontier, z, margin, room, asked, ball.box)
            if not len(frontier):
                break
            helps = found > margin[:, None]
            count = helps.sum(dim=1).clamp_min(1).minimum(room).clamp_max(self.at_once)
            change = first_of(found, count)
            chosen = torch.zeros(len(z), cells.count, dtype=torch.bool, device=z.device).scatter_(1, asked, change)
            value = torch.zeros_like(chosen, dtype=z.dtype).scatter_(1, asked, walls)
            now = cells.split(z)
            moved = value[:, None].expand_as(now) if self.moves == "walls" else _cyclic(now, ball.box)
            z = cells.whole(torch.where(chosen[:, None], moved, now))
            z = frontier.region.project(z, frontier.x)
            margin = frontier.ask(z)
            z, margin, pool = frontier.compact(z, margin, cells.near(chosen, self.reach))
        return frontier.best

    def _changed(self, cells: Cells, z: Batch, x: Batch) -> Tensor:
        return cells.split(z != x).any(dim=1)

    def _probe(
        self,
        cells: Cells,
        frontier: Frontier,
        z: Batch,
        margin: Tensor,
        room: Tensor,
        asked: Tensor,
        box: tuple[float, float],
    ) -> tuple[Tensor, ...]:
        """(B, K) the largest margin with each of these cells at a wall, -inf where unknown, and that wall; then z, margin, room and
        asked of the examples that are left."""
        both = self.moves == "walls"
        found, walls = margin.new_zeros(len(z), 0), z.new_zeros(len(z), 0)
        each = _GROUP // 2 if both else _GROUP
        for first in range(0, asked.shape[1], each):
            some = asked[:, first : first + each]
            at = z.new_tensor(box).expand(*some.shape, 2) if both else _own_side(cells, z, some, box)
            points = cells.split(z)[:, None, None].repeat(1, *at.shape[1:], 1, 1)  # (B, some, walls, deep, count)
            index = some[:, :, None, None, None].expand(*points.shape[:-1], 1)
            points.scatter_(4, index, at[:, :, :, None, None].expand_as(index))
            points = points.reshape(len(z), -1, *z.shape[1:])
            row = torch.arange(len(z), device=z.device).repeat_interleave(points.shape[1])
            inside = frontier.region.take(row).project(points.flatten(0, 1), frontier.x[row])
            answers = frontier.ask_each(inside.reshape(points.shape)).nan_to_num(-torch.inf)
            best = answers.reshape(at.shape).max(dim=2)
            found = torch.cat((found, best.values.to(found)), dim=1)
            walls = torch.cat((walls, at.gather(2, best.indices[:, :, None])[:, :, 0]), dim=1)
            found, walls, z, margin, room, asked = frontier.compact(found, walls, z, margin, room, asked)
            if not len(frontier):
                break
        return found, walls, z, margin, room, asked


def _own_side(cells: Cells, z: Batch, some: Tensor, box: tuple[float, float]) -> Tensor:
    """(B, K, 1) the wall on the side of the middle where the mean of each of these cells lies."""
    mean = cells.split(z).mean(dim=1).gather(1, some)
    low, high = box
    return torch.where(mean < (low + high) / 2, low, high).to(z)[:, :, None]


def _cyclic(values: Tensor, box: tuple[float, float]) -> Tensor:
    """3/2 of the distance from the middle of the box; what leaves it comes in again from the other wall."""
    low, high = box
    middle = (low + high) / 2
    return (middle + _GROWTH * (values - middle) - low).remainder(high - low) + low


local_search = friendly(LocalSearch)
