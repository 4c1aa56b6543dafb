"""Where a search begins: at the example, anywhere in the region, or at a corner of it that is constant on coarse blocks.

Block corners are what Square's stripes and squares are to a score attack, for a gradient attack: where gradients at the
example mislead, a low-frequency corner often lies beyond the barrier.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, Rows, wide
from hauberk.blocks.frontier import Frontier, improves
from hauberk.errors import UnknownNameError
from hauberk.threat import Region

__all__ = ["STARTS", "Start", "best_start", "block_corner", "start_named"]

Start: TypeAlias = Callable[[Batch, Rows, Region, Streams], Batch]

HALVINGS = 5
"""Block sides are the picture's side, its half, ... down to a 16th."""


def _clean(x: Batch, rows: Rows, region: Region, streams: Streams) -> Batch:
    return x


def _uniform(x: Batch, rows: Rows, region: Region, streams: Streams) -> Batch:
    return region.start(x, rows, streams)


def block_corner(x: Batch, rows: Rows, region: Region, streams: Streams) -> Batch:
    """The allowed point furthest along random signs that are constant on blocks; the side is drawn for each example.

    The last two axes of x are cut into blocks of ceil(side / 2^k), k drawn uniformly from 0 .. 4, the last axis alone for
    vectors; every leading index (a channel) has signs of its own.
    """
    axes = range(max(1, x.ndim - 2), x.ndim)
    finest = 2 ** (HALVINGS - 1)
    counts = [-(-x.shape[axis] // -(-x.shape[axis] // finest)) for axis in axes]  # the most blocks that any k needs
    cells = streams.signs(rows, (*x.shape[1 : axes[0]], *counts), dtype=x.dtype)
    parts = 2 ** streams.integers(rows, HALVINGS, (1,))
    for axis in axes:
        length = x.shape[axis]
        side = (length + parts - 1) // parts
        place = torch.arange(length, device=x.device) // side
        index = place.reshape(len(x), *(length if a == axis else 1 for a in range(1, x.ndim)))
        cells = cells.gather(axis, index.expand(*cells.shape[:axis], length, *cells.shape[axis + 1 :]))
    return region.linear_max(cells, x)


STARTS: dict[str, Start] = {"clean": _clean, "uniform": _uniform, "blocks": block_corner}


def best_start(start: Callable[[], Batch], frontier: Frontier, candidates: int) -> Batch:
    """The best of `candidates` draws of a start for each live example, by the goal's margin: one query each.

    Examples that a draw breaks leave the frontier; the points returned are those of the examples that are left.
    """
    best = start()
    margin = frontier.ask(best)
    best, margin = frontier.compact(best, margin)
    for _ in range(candidates - 1):
        if not len(frontier):
            break
        z = start()
        found = frontier.ask(z)
        better = improves(found, margin)
        best = torch.where(wide(better, z), z, best)
        margin = torch.where(better, found, margin)
        best, margin = frontier.compact(best, margin)
    return best


def start_named(name: str) -> Start:
    """The start of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in STARTS:
        raise UnknownNameError.of("start", name, STARTS)
    return STARTS[name]
