"""Ranges before ReLUs tightened by a small branch and bound for each open value and side.

Layer by layer, each open value's smallest and largest value are bounded with slopes of their own (as `refined` does), then over parts in
which ReLUs before it have fixed signs: in each round, every part that leaves the value's sign open is split at the ReLU whose
relaxation costs its bound most. The bound is the least of all parts. A few rounds do what a mixed-integer program for each neuron
does (Tjeng et al. 2019, arXiv:1711.07356; alpha-beta-CROWN solves such programs before it branches on fully connected nets), for
many values at a time. A sign that is decided here need not be branched on later.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hauberk.bounds import Ranges
from hauberk.bounds.relaxations import relu_lines
from hauberk.certify._open_relus import OpenRelus, down, fits, found_for
from hauberk.layered.graph import Graph

__all__ = ["can_split", "split_ranges"]


def can_split(graph: Graph, ranges: Ranges) -> bool:
    """Whether `split_ranges` may tighten them: ReLU networks over a box, of at most some thousand open ReLUs."""
    return fits(graph, ranges)


def split_ranges(graph: Graph, ranges: Ranges, *, rounds: int = 3, late: Callable[[], bool] = lambda: False) -> Ranges:
    """The same ranges or tighter ones, of one example. Cost: at most 2^(rounds + 2) parts for each open value.

    Networks and inputs that `found_for` does not take keep their ranges, and so do values not reached before it is `late`.

    Args:
        graph: lowered.
        ranges: from `ranges_of` or `refined`, (1, ...).
        rounds: of splitting.
    """
    outputs = math.prod(graph.output_shape)
    relus = found_for(graph, ranges, torch.zeros(1, outputs), torch.zeros(1))
    if relus is None:
        return ranges
    for start, end in relus.blocks[1:]:  # an affine function of a box has its range already
        relus = _narrowed(relus, start, end, rounds, late)
    tighter = relus.tightened(ranges)
    lines = {place: relu_lines(*tighter.before[place]) for place, _ in relus.places}
    return replace(tighter, lines=dict(ranges.lines) | lines)


def _narrowed(relus: OpenRelus, start: int, end: int, rounds: int, late: Callable[[], bool]) -> OpenRelus:
    """With the ranges of one layer's open ReLUs tightened."""
    rows = torch.arange(start, end).repeat(2)
    sign = torch.ones(2, end - start)
    sign[1] = -1
    sign = sign.reshape(-1)
    least = torch.cat((relus.low[start:end], -relus.high[start:end]))
    closed = torch.full_like(least, torch.inf)  # the least bound of the parts that are done
    parts, owner = relus.whole(len(rows), start), torch.arange(len(rows))
    for number in range(rounds + 1):
        pieces = []
        for piece in torch.arange(len(owner)).split(relus.at_a_time(start)):
            if late():
                return _with(relus, start, end, least)
            own, steps = owner[piece], 6 if number else 20
            found = relus.bounded(rows[own], sign[own], parts.take(piece), steps=steps, rate=0.2)
            pieces.append((down(found.lower, torch.float32), found.free, found.score))
        lower, free, score = (torch.cat(each) for each in zip(*pieces, strict=True))
        least = torch.maximum(least, closed.scatter_reduce(0, owner, lower, "amin"))
        ended = (lower >= 0) | (score.amax(dim=1) <= 0)
        closed = closed.scatter_reduce(0, owner[ended], lower[ended], "amin")
        ended |= lower >= closed[owner]  # what is no worse than a part that is done cannot be its value's least
        going = (~ended).nonzero()[:, 0]
        closed = closed.scatter_reduce(0, owner[ended], lower[ended], "amin")
        if not len(going):
            break
        parts = replace(parts, free=free).take(going).halves(score[going].argmax(dim=1, keepdim=True))
        owner = owner[going].repeat(2)
    return _with(relus, start, end, least)


def _with(relus: OpenRelus, start: int, end: int, least: Tensor) -> OpenRelus:
    low, high = relus.low.clone(), relus.high.clone()
    low[start:end] = torch.maximum(low[start:end], least[: end - start])
    high[start:end] = torch.minimum(high[start:end], -least[end - start :])
    return replace(relus, low=low, high=torch.maximum(low, high))
