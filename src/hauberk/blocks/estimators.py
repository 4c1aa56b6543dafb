"""Gradients from scores alone: finite differences along coordinates, random directions, groups of coordinates, and spans.

    coordinate i    (f(v + h e_i) - f(v - h e_i)) / 2h; with f(v) also the curvature, and at a wall of the box one-sided
    random u        mean of (f(v + h u) - f(v - h u)) / 2h * u, or of (f(v + h u) - f(v)) / h * u, or of its sign * u
    group S         (f(v + h 1_S) - f(v - h 1_S)) / (2h |S|) for every coordinate of S
    span            sum of (f(v + h b) - f(v - h b)) / 2h * b over an orthonormal basis

On a linear f the first and the last are exact, those of random u unbiased for normal u and for signs; for u on the unit sphere of
R^D they are the gradient divided by D. `probes` asks a victim: K points of each example, whatever is done with what it answers.

Sources: coordinates, Chen et al. 2017, "ZOO", arXiv:1708.03999; normal u in pairs, Ilyas et al. 2018, arXiv:1804.08598; u on the
sphere, one-sided, Tu et al. 2019, "AutoZOOM", arXiv:1805.11770; signs u, Spall 1992; groups and principal components, Bhagoji, He, Li,
Song 2018, "Practical black-box attacks on deep neural networks using efficient query mechanisms", arXiv:1712.09491.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, Rows, flat
from hauberk.blocks.frontier import Frontier
from hauberk.blocks.live import Live
from hauberk.blocks.losses import Loss
from hauberk.blocks.subspaces import Subspace
from hauberk.errors import UnknownNameError
from hauberk.threat import Ball

__all__ = [
    "DIRECTIONS",
    "Ask",
    "Draw",
    "asking",
    "coordinates",
    "directions_named",
    "grouped",
    "in_span",
    "normal_in",
    "probes",
    "random_gradient",
    "random_groups",
]

Ask: TypeAlias = Callable[[Tensor], Tensor]
"""(live, K, *shape) points -> (live, K) values there, NaN where there is none."""
Draw: TypeAlias = Callable[[int], Tensor]
"""count -> (live, count, *shape) directions."""

_VALUES = 2**25
"""Numbers in the points that are asked together, about: a batch of probes must fit into memory."""
_GROUP = 32
"""Directions that are drawn together: a fixed number, so that what an example draws does not depend on the batch."""


def probes(live: Live[Any], points: Tensor, loss: Loss | None = None) -> Tensor:
    """(live, K) of a loss at K points of each live example, (live, K, *shape): one query each. None of them is proposed.

    NaN where the answer is not finite or the example cannot pay. Examples that can pay for nothing more leave at `compact`.

    Args:
        loss: of scores and the goal; where None the goal's margin, +-1 from a victim of labels only.
    """
    parts: list[Tensor] = []
    for some in points.split(_at_once(points), dim=1):
        margin, scores = live.asked_each(some)
        if loss is not None and scores is not None:
            each = torch.arange(len(some), device=some.device).repeat_interleave(some.shape[1])
            told = loss(scores.flatten(0, 1).nan_to_num(0.0, 0.0, 0.0), live.goal.take(each)).reshape(margin.shape)
            margin = torch.where(margin.isnan(), margin, told.to(margin))
        parts.append(margin)
    live.keep_only(live.victim.left(live.rows) >= 1)
    return torch.cat(parts, dim=1)


def asking(frontier: Frontier, loss: Loss | None = None) -> Ask:
    """`probes` of the live examples of now, brought back into box and mask of their balls."""
    clean, ball = frontier.x[:, None], frontier.region
    if not isinstance(ball, Ball):
        raise TypeError(f"probes keep to the box of a ball, got {type(ball).__name__}")
    (low, high), mask = ball.box, ball.mask

    def ask(points: Tensor) -> Tensor:
        points = points.clamp(low, high)
        return probes(
            frontier, points if mask is None else torch.where(mask.to(clean.device)[:, None], points, clean), loss
        )

    return ask


def coordinates(
    ask: Ask,
    v: Tensor,
    chosen: Tensor,
    h: float,
    *,
    centre: PerExample | None = None,
    walls: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Slopes and curvatures along chosen coordinates: 2 queries for each. 0 where a value is missing.

    Args:
        v: (live, *shape).
        chosen: (live, K) places in v, seen as a vector.
        h: how far from v to ask.
        centre: (live,) the value at v; without it there are no curvatures and no walls.
        walls: (live, *shape) twice, the least and the largest v; where v + h or v - h lies beyond, v + h and v + 2h, or v - h and
            v - 2h, are asked instead. Exact on quadratic functions either way.

    Returns:
        (live, K) each; None for the curvatures without a centre.
    """
    base, near = flat(v), torch.full_like(chosen, 1, dtype=v.dtype) * h
    far = -near
    if walls is not None and centre is not None:
        here = base.gather(1, chosen)
        low, high = (flat(wall).expand_as(base).gather(1, chosen) for wall in walls)
        near, far = torch.where(here + h > high, -near, near), torch.where(here + h > high, 2 * far, far)
        far = torch.where((here - h < low) & (near > 0), 2 * near, far)
    slopes, curvatures = [], []
    for places, one, two in zip(
        *(part.split(max(_at_once(v[:, None]) // 2, 1), dim=1) for part in (chosen, near, far))
    ):
        points = base[:, None].repeat(1, 2 * places.shape[1], 1)
        moves = torch.stack((one, two), dim=2).flatten(1, 2)
        points.scatter_add_(2, places.repeat_interleave(2, dim=1)[:, :, None], moves[:, :, None])
        values = ask(points.reshape(len(v), -1, *v.shape[1:])).reshape(len(v), -1, 2)
        if centre is None:
            slopes.append((values[:, :, 0] - values[:, :, 1]) / (one - two))
            continue
        rise_one, rise_two = ((values[:, :, k] - centre[:, None]) / step for k, step in enumerate((one, two)))
        curvature = 2 * (rise_one - rise_two) / (one - two)
        slopes.append(rise_one - curvature * one / 2)
        curvatures.append(curvature)
    slope = _known(torch.cat(slopes, dim=1)).to(v)
    return slope, _known(torch.cat(curvatures, dim=1)).to(v) if curvatures else None


def random_gradient(
    ask: Ask, v: Tensor, draw: Draw, count: int, h: float, *, centre: PerExample | None = None, signs: bool = False
) -> Tensor:
    """(live, *shape) the mean of derivative * direction over `count` directions: 2 queries each, 1 with the value at v.

    Args:
        v: (live, *shape).
        draw: the directions; see `directions_named`.
        h: how far along a direction to ask.
        centre: (live,) the value at v, for one-sided differences.
        signs: only the sign of each derivative counts, for values that are labels or of unknown scale.
    """
    total = torch.zeros_like(v)
    for first in range(0, count, _GROUP):
        u = draw(min(_GROUP, count - first))
        for some in u.split(max(_at_once(u) // 2, 1), dim=1):
            if centre is None:
                pairs = torch.stack((v[:, None] + h * some, v[:, None] - h * some), dim=2).flatten(1, 2)
                values = ask(pairs).reshape(len(v), -1, 2)
                slope = (values[:, :, 0] - values[:, :, 1]) / (2 * h)
            else:
                slope = (ask(v[:, None] + h * some) - centre[:, None]) / h
            slope = _known(slope.sign() if signs else slope).to(v)
            total += torch.einsum("bk,bk...->b...", slope, some)
    return total / count


def in_span(ask: Ask, v: Tensor, basis: Tensor, h: float) -> Tensor:
    """(live, *shape) the part of the gradient in the span of an orthonormal basis, (K, *shape) the same for all: 2 K queries."""
    total = torch.zeros_like(v)
    for some in basis.to(v).split(max(_at_once(v[:, None]) // 2, 1)):
        pairs = torch.stack((v[:, None] + h * some[None], v[:, None] - h * some[None]), dim=2).flatten(1, 2)
        values = ask(pairs).reshape(len(v), -1, 2)
        slope = _known((values[:, :, 0] - values[:, :, 1]) / (2 * h)).to(v)
        total += torch.einsum("bk,k...->b...", slope, some)
    return total


def normal_in(space: Subspace, streams: Streams, rows: Rows, v: Tensor) -> Draw:
    """Standard normal numbers of a small space, lifted."""
    shape = tuple(v.shape[1:])

    def draw(count: int) -> Tensor:
        numbers = streams.normal(rows, (count, *space.shape(shape)), dtype=v.dtype)
        return space.lift(numbers.flatten(0, 1), shape).reshape(len(numbers), count, *shape)

    return draw


def random_groups(streams: Streams, rows: Rows, shape: tuple[int, ...], size: int) -> Tensor:
    """(live, *shape) int64: which group each coordinate is in, groups of `size` drawn anew for each example; the last is smaller."""
    count = math.prod(shape)
    rank = streams.uniform(rows, (count,), dtype=torch.float64).argsort(dim=1).argsort(dim=1)
    return (rank // size).reshape(-1, *shape)


def grouped(ask: Ask, v: Tensor, groups: Tensor, h: float) -> Tensor:
    """(live, *shape) an estimate in which each coordinate has the mean slope of its group: 2 queries for each group.

    Args:
        v: (live, *shape).
        groups: (live, *shape) as `random_groups` has them, or any numbers 0, 1, ..., the same count for every example.
        h: how far each coordinate of a group is moved.
    """
    total = torch.zeros_like(v)
    numbers = torch.arange(int(groups.max()) + 1 if groups.numel() else 0, device=v.device)
    for some in numbers.split(max(_at_once(v[:, None]) // 2, 1)):
        inside = (groups[:, None] == some.reshape(1, -1, *(1,) * (v.ndim - 1))).to(v)
        pairs = torch.stack((v[:, None] + h * inside, v[:, None] - h * inside), dim=2).flatten(1, 2)
        values = ask(pairs).reshape(len(v), -1, 2)
        members = inside.flatten(2).sum(dim=2).clamp_min(1)
        slope = _known((values[:, :, 0] - values[:, :, 1]) / (2 * h)).to(v) / members
        total += torch.einsum("bk,bk...->b...", slope, inside)
    return total


def _normal(streams: Streams, rows: Rows, v: Tensor) -> Draw:
    """Standard normal numbers."""
    return lambda count: streams.normal(rows, (count, *v.shape[1:]), dtype=v.dtype)


def _sphere(streams: Streams, rows: Rows, v: Tensor) -> Draw:
    """Uniform on the unit sphere."""

    def draw(count: int) -> Tensor:
        u = streams.normal(rows, (count, *v.shape[1:]), dtype=v.dtype)
        lengths = u.flatten(2).norm(dim=2).clamp_min(1e-12)
        return u / lengths.reshape(*lengths.shape, *(1,) * (v.ndim - 1))

    return draw


def _signs(streams: Streams, rows: Rows, v: Tensor) -> Draw:
    """Fair -1 or +1."""
    return lambda count: streams.signs(rows, (count, *v.shape[1:]), dtype=v.dtype)


DIRECTIONS: dict[str, Callable[[Streams, Rows, Tensor], Draw]] = {"normal": _normal, "sphere": _sphere, "signs": _signs}


def directions_named(name: str) -> Callable[[Streams, Rows, Batch], Draw]:
    """The draw of this name: (streams, rows, points) -> directions for these rows.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in DIRECTIONS:
        raise UnknownNameError.of("kind of directions", name, DIRECTIONS)
    return DIRECTIONS[name]


def _at_once(points: Tensor) -> int:
    """How many of the K points of each example are asked together."""
    return max(_VALUES // max(len(points) * math.prod(points.shape[2:]), 1), 1)


def _known(values: Tensor) -> Tensor:
    return values.nan_to_num(0.0, 0.0, 0.0)
