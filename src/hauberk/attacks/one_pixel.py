"""One-pixel attack: differential evolution over a few pixels, their places and their colours, with scores alone.

    candidate = d pixels of (row, column, colour in each channel)
    child_i   = parent_r1 + weight (parent_r2 - parent_r3)         r1, r2, r3 drawn without repetition for each child
    the child takes the place of parent_i where its margin is larger; no crossover

A pixel is all channels at one place. The L0 norm here counts changed *numbers*, so d pixels of a picture with c channels are a
radius of d * c: `l0:3` is one pixel of a colour picture, `l0:1` one of a grey picture, `l0:15` five in colour. With a radius in
between, the last pixel changes in fewer channels, those that it changes most.

Source: Su, Vargas, Sakurai 2019, "One pixel attack for fooling deep neural networks", arXiv:1710.08864, section III.
**Differs from the paper:** fitness is the goal's margin (paper: the probability of the true class or the target); an example stops
with the first candidate that reaches the goal (paper: at a probability of .05 or .9, looked at once a generation); places that
leave the picture are reflected at its border and colours clipped to the box (paper: not said); candidates are asked in groups of
40, so that a success saves the rest of its generation.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Rows
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Canvas, Frontier
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["OnePixel", "one_pixel"]

_GROUP = 40
"""Candidates of an example that are asked together: a fixed number, so that what an example costs does not depend on the batch."""
_ROWS = 1024
"""Rows of one forward, about."""


@dataclass(frozen=True)
class OnePixel:
    """One-pixel attack; the radius says how many pixels. Cost: at most `population` * (`generations` + 1) queries an example.

    Args:
        generations: generations of children after the first population.
        population: candidates of each example, at least 3.
        weight: how much of the difference of two parents is added to a third, F in the paper.
    """

    generations: int = 100
    population: int = 400
    weight: float = 0.5

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})

    def __post_init__(self) -> None:
        positive(self, "generations", "population", "weight")
        if self.population < 3:
            raise SettingError(f"one_pixel mixes three parents, got population={self.population}")

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        canvas = Canvas(x)
        radius = torch.as_tensor(region.radius, device=x.device).expand(len(x))
        counts = torch.ceil(radius / canvas.channels).clamp_max(canvas.height * canvas.width).to(torch.int64)
        frontier = Frontier(victim, x, goal, region)
        if not len(frontier):
            return frontier.best
        pixels = _Pixels(x, counts, region.box)
        parents = pixels.draw(self.population, streams)
        fitness = self._ask(frontier, pixels, parents)
        for _ in range(self.generations):
            frontier.restart()
            if not len(frontier):
                break
            rows = frontier.rows
            children = parents.clone()
            children[rows] = pixels.inside(_mixed(parents[rows], rows, self.weight, streams))
            found = self._ask(frontier, pixels, children)
            better = found > fitness
            parents = torch.where(better[:, :, None, None], children, parents)
            fitness = torch.where(better, found, fitness)
        return frontier.best

    def _ask(self, frontier: Frontier, pixels: "_Pixels", candidates: Tensor) -> Tensor:
        """(n, population) the margins of the candidates; -inf for those not asked, because their example is broken or can pay no
        more, and for answers that are not finite."""
        margins = candidates.new_full(candidates.shape[:2], -torch.inf)
        everyone = torch.arange(len(candidates), device=candidates.device)
        for some in everyone.split(max(_ROWS // _GROUP, 1)):
            among = torch.zeros_like(everyone, dtype=torch.bool)
            among[some] = True
            for first in range(0, self.population, _GROUP):
                frontier.restart(copies=min(_GROUP, self.population - first), among=among)
                if not len(frontier):
                    break
                rows, place = frontier.rows, first + frontier.copy
                z = pixels.paint(frontier.x, candidates[rows, place], rows)
                margins[rows, place] = (
                    frontier.ask(frontier.region.project(z, frontier.x)).to(margins).nan_to_num(-torch.inf)
                )
                frontier.compact()
        return margins


class _Pixels:
    """Candidates as numbers, (n, population, pixels, 2 + channels): row, column, then colours from 0 to 1.

    Args:
        counts: (n,) how many pixels each example may change; later ones are left out when it is painted.
    """

    def __init__(self, x: Batch, counts: Tensor, box: tuple[float, float]) -> None:
        self.canvas, self.counts, self.box = Canvas(x), counts, box
        self.most = int(counts.max())
        self.sides = x.new_tensor([self.canvas.height, self.canvas.width])

    def draw(self, population: int, streams: Streams) -> Tensor:
        """Places uniform in the picture; colours normal with mean 128/255 and deviation 127/255, clipped.

        Each example draws for its own pixels only, so that it draws the same whatever the others may change.
        """
        kind, channels = self.sides.dtype, self.canvas.channels
        drawn = self.sides.new_zeros(len(self.counts), population, self.most, 2 + channels)
        for k in range(self.most):
            rows = (self.counts > k).nonzero().flatten()
            places = streams.uniform(rows, (population, 2), dtype=kind) * self.sides
            colours = streams.normal(rows, (population, channels), dtype=kind)
            drawn[rows, :, k] = torch.cat((places, (128 + 127 * colours) / 255), dim=2)
        return self.inside(drawn)

    def inside(self, candidates: Tensor) -> Tensor:
        """Places reflected at the borders, as often as it takes, colours clipped."""
        places = self.sides - (self.sides - candidates[..., :2].remainder(2 * self.sides)).abs()
        return torch.cat((places, candidates[..., 2:].clamp(0, 1)), dim=-1)

    def paint(self, x: Batch, candidates: Tensor, rows: Rows) -> Batch:
        """The pictures with these pixels; where two stand at one place, the later one."""
        low, high = self.box
        picture = self.canvas.picture(x).flatten(2).clone()
        here = torch.minimum(candidates[..., :2].floor(), self.sides - 1).to(torch.int64)
        index = (here[..., 0] * self.canvas.width + here[..., 1])[:, :, None, None]
        colours = (low + (high - low) * candidates[..., 2:]).to(x)[..., None]
        for k in range(self.most):
            at = index[:, k].expand(-1, self.canvas.channels, 1)
            used = (k < self.counts[rows])[:, None, None]
            picture.scatter_(2, at, torch.where(used, colours[:, k], picture.gather(2, at)))
        return self.canvas.back(picture)


def _mixed(parents: Tensor, rows: Rows, weight: float, streams: Streams) -> Tensor:
    """r1 + weight * (r2 - r3) for each child, of three different parents."""
    count = parents.shape[1]
    one, two, three = (streams.integers(rows, count - k, (count,)) for k in range(3))
    two = two + (two >= one)
    first, second = torch.minimum(one, two), torch.maximum(one, two)
    three = three + (three >= first)
    three = three + (three >= second)

    def taken(which: Tensor) -> Tensor:
        return parents.gather(1, which[:, :, None, None].expand_as(parents))

    return taken(one) + weight * (taken(two) - taken(three))


one_pixel = friendly(OnePixel)
