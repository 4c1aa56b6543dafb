"""PopSkipJump: HopSkipJump for victims whose answers are drawn by chance; every answer is evidence, none is believed.

Along a way from the example to a point behind the boundary, t from 0 to 1, an answer reaches the goal with probability

    P(goal | t) = e + (1 - 2 e) / (1 + exp(-4 s (t - c)))        c where the boundary is, s how steep, e how often answers are flipped

    1. ask where the answer tells most of (c, s, e), by mutual information with a grid of them, and update the grid by Bayes,
       until the standard deviation of c is a cell of the grid;  z = the point at the median of c
    2. propose the nearest point that reaches the goal with probability `sure`, as the grid has it, and keep it where a vote agrees
    3. g = the normal at z, by `samples` * t^growth * (a(1, 0) / a(s, e))^2 probes, where a is how much of g's direction is in an answer:
       as many as it takes to know g as well as without noise
    4. z' = z + stride * r / sqrt(t) * g (L2) or sign(g) (L-inf), which is not asked; then 1. on the way through z', and beyond it

Source: Simon-Gabriel, Sheikh, Krause 2021, "PopSkipJump: decision-based attack for probabilistic classifiers", arXiv:2106.07445,
algorithm 2, equation 5 and section 4; the noise model, the information and the number of probes are theirs.
**Differs from the paper:** the grid is 65 places, 5 slopes and 5 flip rates (paper: 101, 31 and 7) over the part of the way where the
boundary is expected after a hop, half to five quarters; what is known of e goes on to the next step; places are asked at random within
a cell, so that a victim whose chance is a function of its input is not asked the same again; the search ends with the spread of c (paper:
when the number of probes settles); probes are those of hop_skip_jump but `probe` 0.2 of the distance away (paper: sqrt(D) / 100 of it);
where a hop leads away from the example it is undone and the next is half as long; points are proposed after a vote (paper: the border
itself is the result); `samples` and `growth` are those of hop_skip_jump. A victim that votes itself (`hauberk.victims.eot`) is asked for
its vote.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, double, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.far import FAR
from hauberk.blocks.label_search import between, noise_named, normal_at, probed, reached, still_open, unit
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Labelled, Norm, Region

__all__ = ["PopSkipJump", "pop_skip_jump"]

_CELLS = 64
_SLOPES = (2.0, 6.0, 16.0, 32.0, 64.0)
"""Of the chance at the boundary, over the whole of the way that is searched; the last is a step as wide as a cell."""
_FLIPS = (0.0, 0.05, 0.1, 0.2, 0.3)
_FORGET = 0.1
"""How much of the flip rates' probability is spread evenly before each search."""
_WAY = (0.5, 1.25)
"""Where on the way to the point of a hop, and beyond it, the boundary is looked for."""
_DRAWS, _ASKS, _NEARER = 50, 6, 0.8
"""Points far away that are tried, how often each is asked, and the share of the known distance at which a further one is."""
_LOOKS = (6, 15)
"""Answers after which a vote may be decided."""


@dataclass(frozen=True)
class PopSkipJump:
    """The smallest change in L2 or L-inf from labels that are drawn by chance. Cost: some 70 + the sum of
    `samples` * t^`growth` * (1 to `most`) + 40 queries over the steps t; of a victim without chance some 25 a step more than
    hop_skip_jump.

    Args:
        steps: hops.
        samples: probes for the first normal, were there no noise.
        growth: the power of the step's number by which the probes become more.
        most: by which factor noise may make them more.
        probe: how far probes are from the boundary, in shares of the distance from the example; for L-inf the root mean square.
        asks: answers that one search along a way may take.
        sure: the probability of reaching the goal at which a point is proposed, 1/2 to 1.
        noise: what the probes are: `white`, `grey`, or of a small space, `dct:16`.
    """

    steps: int = 100
    samples: int = 40
    growth: float = 0.25
    most: float = 10.0
    probe: float = 0.2
    asks: int = 60
    sure: float = 0.8
    noise: str = "grey"

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF})
    smallest: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "most", "probe", "asks", "sure")
        not_negative(self, "growth")
        noise_named(self.noise)
        if not 0.5 < self.sure < 1 or self.most < 1:
            raise SettingError(
                f"pop_skip_jump needs 1/2 < sure < 1 and most >= 1, got sure={self.sure} and most={self.most}"
            )

    def __call__(
        self,
        victim: Labelled,
        x: Batch,
        goal: Goal,
        region: Region,
        *,
        streams: Streams,
        starts: Batch | None = None,
    ) -> Batch:
        found = Closest(victim, x, goal, ball_of(self, region))
        noise, norm, draws = noise_named(self.noise), found.space.norm, streams.child("probes")
        places = streams.child("places")
        _propose(found, found.x)
        found.compact()
        z, way = _far(found, streams, starts), (0.0, 1.0)
        border, size = z, norm.size(z - found.x)
        stride = torch.ones_like(size)
        flips = size.new_full((len(size), len(_FLIPS)), 1 / len(_FLIPS), dtype=double(size))
        for step in range(1, self.steps + 1):
            if not len(found):
                break
            at, width = _way(found, z, *way), (way[1] - way[0]) * Norm.L2.size(z - found.x)
            belief = _search(found, at, _spread(flips), self.asks, places)
            _propose(found, at(_sure_place(belief, self.sure)))
            there = at(_median(belief))
            nearer = (norm.size(there - found.x) < size) | (way[0] == 0)
            border, stride = torch.where(wide(nearer, z), there, border), torch.where(nearer, stride, stride / 2)
            flips, size = _marginal(belief, 2), norm.size(border - found.x)
            border, stride, flips, size, width, belief = found.compact(border, stride, flips, size, width, belief)
            if not len(found):
                break
            scale = self.probe * size * (math.sqrt(flat(z).shape[1]) if norm is Norm.LINF else 1)
            told = _told(belief, scale / math.sqrt(max(flat(z).shape[1], 1)) / width.clamp_min(1e-12))
            count = (self.samples * step**self.growth * told.square().reciprocal().clamp(1, self.most)).ceil()
            across = None if norm is Norm.LINF else unit(border - found.x)
            g = normal_at(found, border, draws, noise, count, scale, tangent=across)
            g, border, stride, flips, size = found.compact(g, border, stride, flips, size)
            z, way = found.inside(border + like(stride * size / math.sqrt(step), g) * norm.steepest(g)), _WAY
        return found.best


class _Grid(NamedTuple):
    """What each hypothesis (c, s, e) says of each place: (hypotheses, places) chances of the goal, and their entropies."""

    chance: Tensor
    entropy: Tensor
    places: Tensor


@lru_cache(maxsize=4)
def _grid(dtype: torch.dtype, device: torch.device) -> _Grid:
    places = torch.linspace(0, 1, _CELLS + 1, dtype=torch.float64)
    slopes, flips = torch.tensor(_SLOPES, dtype=torch.float64), torch.tensor(_FLIPS, dtype=torch.float64)
    away = (places - places[:, None])[:, None, None]  # by centre, slope, flip rate and place
    sides = (4 * slopes[None, :, None, None] * away).sigmoid()
    chance = (flips[:, None] + (1 - 2 * flips[:, None]) * sides).flatten(0, 2).to(device, dtype)
    return _Grid(chance, _entropy(chance), places.to(device, dtype))


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p) + torch.special.entr(1 - p)


def _spread(flips: Tensor) -> Tensor:
    """(live, hypotheses) the belief before a search: centres and slopes alike, flip rates as they were, a little forgotten."""
    remembered = (1 - _FORGET) * flips + _FORGET / len(_FLIPS)
    centres = (_CELLS + 1) * len(_SLOPES)
    return remembered[:, None].expand(-1, centres, -1).flatten(1) / centres


def _marginal(belief: Tensor, axis: int) -> Tensor:
    """Of the centres (0), the slopes (1) or the flip rates (2)."""
    cube = belief.reshape(len(belief), _CELLS + 1, len(_SLOPES), len(_FLIPS))
    return cube.sum(dim=[other for other in (1, 2, 3) if other != axis + 1])


def _search(found: Closest, at: Callable[[PerExample], Batch], belief: Tensor, asks: int, streams: Streams) -> Tensor:
    """(live, hypotheses) what is believed of the boundary on the way, after at most so many answers of each example."""
    grid = _grid(belief.dtype, belief.device)
    tilt = 1e-9 * grid.places  # so that places which tell alike are told apart in the same way in every batch
    for _ in range(asks):
        centres = _marginal(belief, 0)
        mean = centres @ grid.places
        spread = (centres * (grid.places - mean[:, None]).square()).sum(dim=1).sqrt()
        among = ((spread > 1 / _CELLS) & still_open(found)).nonzero().flatten()
        if not len(among):
            break
        known = belief[among]
        told = _entropy((known @ grid.chance).clamp(0, 1)) - known @ grid.entropy + tilt
        best, place = told.argmax(dim=1), torch.zeros_like(mean)
        beside = streams.uniform(found.rows[among], (), dtype=mean.dtype) - 0.5
        place[among] = (grid.places[best] + beside / _CELLS).clamp(0, 1)
        sign = probed(
            found, at(place)[:, None], place.new_zeros(len(place), dtype=torch.bool).index_fill(0, among, True)
        )
        sign = sign[among]
        chance = grid.chance.T[best]
        after = known * torch.where(sign > 0, chance, 1 - chance)
        after = after / after.sum(dim=1, keepdim=True).clamp_min(1e-30)
        belief = belief.index_copy(0, among, torch.where(sign.isnan(), known, after))
    return belief


def _median(belief: Tensor) -> PerExample:
    """(live,) the place that the boundary is as likely before as beyond."""
    places = _grid(belief.dtype, belief.device).places
    return places[(_marginal(belief, 0).cumsum(dim=1) < 0.5).sum(dim=1).clamp_max(_CELLS)]


def _sure_place(belief: Tensor, sure: float) -> PerExample:
    """(live,) the first place that reaches the goal with this probability, or nearly as surely as any."""
    grid = _grid(belief.dtype, belief.device)
    chance = belief @ grid.chance
    enough = (0.97 * chance.amax(dim=1, keepdim=True)).clamp_max(sure)
    return grid.places[(chance >= enough).to(torch.uint8).argmax(dim=1)]


def _told(belief: Tensor, scale: PerExample) -> PerExample:
    """(live,) how much an answer tells of the normal's direction, as a share of what it tells without noise.

    E[sign * X] for X normal of this standard deviation, in shares of the way, with the chance's slope taken as a ramp:
    (1 - 2 e) * v * erf(1 / (v sqrt 8)) * sqrt(2 pi),    v = s * scale.
    """
    slopes, flips = belief.new_tensor(_SLOPES), belief.new_tensor(_FLIPS)
    v = (slopes * scale[:, None]).clamp_min(1e-6)
    ramp = v * torch.erf(1 / (v * math.sqrt(8))) * math.sqrt(2 * math.pi)
    cube = belief.reshape(len(belief), -1, len(_SLOPES), len(_FLIPS)).sum(dim=1)
    return torch.einsum("bse,bs,e->b", cube, ramp, 1 - 2 * flips)


def _way(found: Closest, z: Batch, low: float, high: float) -> Callable[[PerExample], Batch]:
    """From (live,) places between 0 and 1 to the points at `low` to `high` times the way to z; beyond z the change is scaled."""

    def at(place: PerExample) -> Batch:
        share = (low + (high - low) * place).to(z)
        inner = between(found, z, share.clamp_max(1))
        return found.inside(found.x + like(share.clamp_min(1), z) * (inner - found.x))

    return at


def _propose(found: Closest, z: Batch) -> None:
    """Keep the points that a vote is sure of, where they are smaller than what is known. At most 17 queries."""
    z = found.space.snap(z, found.x)
    carried = found.space.size(z, found.x) < found.size[found.rows]
    if not getattr(found.victim, "judge_samples", 0):
        undecided, hits, before = carried, z.new_zeros(len(z)), 0
        carried = torch.zeros_like(carried)
        for look in _LOOKS:
            some = look - before
            hits = hits + (probed(found, _again(z, some), undecided) > 0).sum(dim=1)
            carried = carried | (undecided & (hits >= _majority(look)))
            undecided, before = undecided & ~carried & (2 * hits > look), look
    for _ in range(2):
        carried = carried & ~reached(found, z, carried)


def _again(z: Batch, count: int) -> Tensor:
    return z[:, None].expand(-1, count, *z.shape[1:])


@lru_cache
def _majority(count: int) -> int:
    """The fewest of so many answers that a fair coin gives with probability 1/40 at most."""
    tail, hits = 0, count + 1
    while 40 * (tail + math.comb(count, hits - 1)) <= 2**count:
        hits -= 1
        tail += math.comb(count, hits)
    return hits


def _far(found: Closest, streams: Streams, starts: Batch | None, better: int = 8) -> Batch:
    """(live, *shape) points that reach the goal five times of six; examples without one go. The point given, or else the nearest of
    some random ones, each asked a fifth nearer than the one before."""
    size, best = found.x.new_full((len(found),), torch.inf), found.x
    given = torch.zeros_like(size, dtype=torch.bool)
    if starts is not None and len(found):
        best = found.inside(starts[found.rows].to(found.x))
        given = (probed(found, _again(best, _ASKS), ~given) > 0).sum(dim=1) >= _ASKS - 1
        size = torch.where(given, found.space.size(best, found.x), size)
        best, size, given = found.compact(best, size, given)
    for draw in range(_DRAWS):
        wanted = ~given & (size.isinf() | (draw < better))
        if not bool(wanted.any()):
            break
        far = found.inside(FAR[("noise", "blocks")[draw % 2]](found, streams))
        share = _NEARER * size / found.space.size(far, found.x).clamp_min(1e-12)
        far = between(found, far, share.clamp_max(1.0))
        crossed = (probed(found, _again(far, _ASKS), wanted) > 0).sum(dim=1) >= _ASKS - 1
        best = torch.where(wide(crossed, best), far, best)
        size = torch.where(crossed, found.space.size(best, found.x), size)
        best, size, given = found.compact(best, size, given)
    found.drop(size.isinf())
    (best,) = found.compact(best)
    return best


pop_skip_jump = friendly(PopSkipJump)
