"""Search with labels alone: points that reach the goal, the boundary between them and the example, and its normal there.

    z = first_points(found, streams)                          # reach the goal, some way off
    z = to_boundary(found, z, tolerance=1e-3)                 # bisected towards the example, on the goal's side of the boundary
    g = normal_at(found, z, streams, noise, count, probe)     # unit vector: mean of sign * direction over probes around z
    r = radius_along(found, g, guess, tolerance=1e-3)         # how far the boundary is from the example along a direction

Every example has an interval, a radius and a direction of its own; one round of questions serves all of them in one batch. An
example that is done, or can pay no more, is left out of the next question at once, and leaves at the next `Closest.compact`.

Probes are normal noise: `white`; `grey`, alike in the channels of a colour picture but for a quarter, since the slopes of a net by
red, green and blue differ little; or from a small space, such as the low frequencies `dct:16`. A probe tells about one number, and
the fewer there are to learn the more it tells of each; of what the space leaves out it tells nothing.

Sources: bisection and the mean of signs, Chen, Jordan, Wainwright 2020, "HopSkipJumpAttack", arXiv:1904.02144; g(direction), Cheng et
al. 2019, arXiv:1807.04457; low frequencies, Li, Xu, Zhang, Yang, Li 2020, "QEBA", arXiv:2005.14137; grey noise is our own.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like, wide
from hauberk.blocks.closest import Closest
from hauberk.blocks.far import FAR
from hauberk.blocks.losses import Loss
from hauberk.blocks.subspaces import subspace_named
from hauberk.errors import UnknownNameError
from hauberk.threat import Norm

__all__ = [
    "Noise",
    "between",
    "bisect",
    "first_points",
    "noise_named",
    "normal_at",
    "on_circle",
    "probed",
    "radius_along",
    "reached",
    "still_open",
    "to_boundary",
    "turned",
    "unit",
    "unit_noise",
    "upright",
]

Noise: TypeAlias = Callable[[Closest, Streams, int], Tensor]
"""(found, streams, count) -> (live, count, *shape) random changes, 0 where the mask forbids one."""

_TRIES = 50
"""Draws after which an example that no random point takes to the goal is given up."""
_SHORTER = 0.9
"""A further draw is asked at this share of the distance known so far: it counts if it would be nearer."""
_COARSE = 0.1
_MOST = 60
"""Bisections of one interval; of float64 nothing is left then."""
_LENGTHS = 6
"""Of a turn, longer and longer or shorter and shorter."""
_SHORTEST = 1e-3
_GROUP, _VALUES = 32, 2**18
"""Probes asked together: so many, or fewer where they would be more numbers than this for each example. What an example draws must
depend on nothing but its own shape."""
_COLOUR = 0.25
"""By how much the channels differ, in `grey` noise."""


def still_open(found: Closest) -> Tensor:
    """(live,) bool: the example can pay for one more question, and is not done."""
    return (found.victim.left(found.rows) >= 1) & ~found.is_done(found.size[found.rows])


def reached(found: Closest, z: Batch, among: Tensor | None = None, loss: Loss | None = None) -> Tensor:
    """(live,) bool: which of these points reach the goal. One query for each live example that is still open, of those `among`;
    False for all others, which keep their rows until the next `compact`. With a loss, where that is above 0."""
    asked = still_open(found) if among is None else still_open(found) & among
    crossed, everyone = torch.zeros_like(asked), found.rows
    if bool(asked.all()) and len(asked):
        crossed = found.ask(z, loss) > 0
    elif bool(asked.any()):
        found.work_on(everyone[asked])
        crossed[asked] = found.ask(z[asked], loss) > 0
        found.work_on(everyone)
    found.keep_only(still_open(found))
    return crossed


def probed(found: Closest, points: Tensor, among: Tensor) -> Tensor:
    """(live, K): +1 where a point reaches the goal and -1 where not, of K points of each live example, (live, K, *shape), of those
    `among`; NaN where nothing was asked. One query each; none of the points is kept."""
    sign, everyone = points.new_full(points.shape[:2], torch.nan), found.rows
    asked = still_open(found) & among
    if bool(asked.any()):
        found.work_on(everyone[asked])
        sign[asked] = found.ask_each(points[asked], allowed=False).to(sign)
        found.work_on(everyone)
    found.keep_only(still_open(found))
    return sign


def first_points(found: Closest, streams: Streams, starts: Batch | None = None, *, better: int = 8) -> Batch:
    """(live, *shape) points that reach the goal, near the boundary; examples without one after 50 draws go.

    The example itself is asked first, then the point given. Draws are uniform noise and block corners in turn; those of an example
    that has a point already are asked a tenth nearer than that, and bisected roughly where they reach the goal.

    Args:
        starts: (n, *shape) points from which to begin, where they reach the goal; those examples draw none.
        better: draws of an example that has been given none, at least.

    Cost: 2 queries, and of examples without a given point `better` and some four for each that was nearer.
    """
    crossed = reached(found, found.x)
    best, size = found.x, torch.where(crossed, found.x.new_zeros(len(found)), torch.inf)
    best, size = found.compact(best, size)
    given = torch.zeros_like(size, dtype=torch.bool)
    if starts is not None and len(found):
        best = found.inside(starts[found.rows].to(found.x))
        given = reached(found, best)
        size = torch.where(given, found.space.size(best, found.x), size)
        best, size, given = found.compact(best, size, given)
    kinds = (FAR["noise"], FAR["blocks"])
    for draw in range(max(_TRIES, better)):
        wanted = ~given & (size.isinf() | (draw < better))
        if not bool(wanted.any()):
            break
        far = found.inside(kinds[draw % len(kinds)](found, streams))
        share = _SHORTER * size / found.space.size(far, found.x).clamp_min(1e-12)
        far = between(found, far, share.clamp_max(1.0))
        crossed = reached(found, far, wanted)
        best = torch.where(wide(crossed, best), far, best)
        best = to_boundary(found, best, tolerance=_COARSE, among=crossed)
        size = torch.where(crossed, found.space.size(best, found.x), size)
        best, size, given = found.compact(best, size, given)
    found.drop(size.isinf())
    (best,) = found.compact(best)
    return best


def bisect(
    found: Closest,
    at: Callable[[PerExample], Batch],
    low: PerExample,
    high: PerExample,
    tolerance: PerExample | float,
    among: Tensor | None = None,
) -> tuple[PerExample, PerExample]:
    """Narrow each interval, of whose ends at(high) reaches the goal and at(low) does not, until it is no longer than the tolerance.

    Args:
        at: from (live,) places on a curve to the points there; `low` may be above `high`.
        tolerance: one number, or (live,).
        among: whose intervals are narrowed; all where None.
    """
    among = torch.ones_like(low, dtype=torch.bool) if among is None else among
    for _ in range(_MOST):
        wanted = among & ((high - low).abs() > tolerance) & still_open(found)
        if not bool(wanted.any()):
            break
        middle = (low + high) / 2
        crossed = reached(found, at(middle), wanted)
        high = torch.where(wanted & crossed, middle, high)
        low = torch.where(wanted & ~crossed, middle, low)
    return low, high


def to_boundary(found: Closest, far: Batch, *, tolerance: PerExample | float, among: Tensor | None = None) -> Batch:
    """The point on the way from `far`, which reaches the goal, to the example that still reaches it, to within this share of the
    distance of `far`.

    In L2 the way is straight; in L-inf that of the projections onto smaller and smaller cubes.
    """
    ones = far.new_ones(len(far))
    _, share = bisect(found, lambda t: between(found, far, t), torch.zeros_like(ones), ones, tolerance, among)
    return torch.where(wide(share < 1, far), between(found, far, share), far)


def between(found: Closest, far: Batch, share: PerExample) -> Batch:
    """The point at this share of the way from the example to the far one; in L-inf the far one's projection onto that cube."""
    change = far - found.x
    if found.space.norm is not Norm.LINF:
        return found.x + like(share, far) * change
    most = like(share * Norm.LINF.size(change), far)
    return found.x + change.clamp(-most, most)


def radius_along(
    found: Closest,
    direction: Batch,
    guess: PerExample,
    *,
    tolerance: PerExample | float,
    growth: float = 0.02,
    among: Tensor | None = None,
    most: PerExample | float = torch.inf,
) -> PerExample:
    """(live,) at which radius the boundary is crossed along each direction, a little beyond it; inf where it is not up to `most`.

    Coarse, then fine: the guess is asked; then radii further and further from it, 1, 3, 7, ... times `growth`, outwards if it did
    not reach the goal and inwards if it did, until the boundary is passed; then bisection to this share of the radius.

    Args:
        direction: (live, *shape); points are brought back into the box.
        guess: (live,) > 0.
        most: radius beyond which nobody wants to know.

    Cost: some log2(1 / growth) queries at most, and as many again as the last interval has halves above the tolerance.
    """
    norm = found.space.norm
    width = found.space.box[1] - found.space.box[0]
    wall = 2 * norm.size(torch.full_like(direction, width)) / norm.size(direction).clamp_min(1e-12)
    top = torch.as_tensor(most, dtype=guess.dtype, device=guess.device).expand(len(guess)).minimum(wall)
    among = torch.ones_like(guess, dtype=torch.bool) if among is None else among

    def at(radius: PerExample) -> Batch:
        return found.inside(found.x + like(radius, direction) * direction)

    first = reached(found, at(guess), among)
    low, high = torch.where(first, torch.zeros_like(guess), guess), torch.where(first, guess, torch.inf)
    searching, factor = among.clone(), growth
    while True:
        inwards = first & (low == 0) & (factor < 1)
        outwards = ~first & high.isinf() & (low < top)
        searching = searching & (inwards | outwards) & still_open(found)
        if not bool(searching.any()):
            break
        radius = torch.where(first, guess * (1 - factor), torch.minimum(guess * (1 + factor), top))
        crossed = reached(found, at(radius), searching)
        high = torch.where(searching & crossed, radius, high)
        low = torch.where(searching & ~crossed, radius, low)
        factor = 2 * factor + growth
    _, high = bisect(found, at, low, high, tolerance * high, among & high.isfinite())
    return high


def normal_at(
    found: Closest,
    z: Batch,
    streams: Streams,
    noise: Noise,
    count: int | Tensor,
    probe: PerExample,
    *,
    tangent: Batch | None = None,
) -> Batch:
    """(live, *shape) unit vectors: the normal of the boundary at z, towards the goal, as `count` probes tell it. 0 where they do not.

        g = sum of (s_i - mean of s) * u_i,    s_i = +1 where z + probe * u_i reaches the goal, -1 where it does not

    Taking off the mean is what keeps the variance low when z lies a little beside the boundary; where all answers agree it is not
    taken off. u_i is the probe as it was asked, clipped to the box.

    Args:
        count: of probes; or (live,), rounded up to whole groups of those that are asked together.
        probe: (live,) how far from z to ask.
        tangent: (live, *shape) unit vectors; the probes, and so the result, are orthogonal to them.

    Cost: `count` queries.
    """
    everyone, together, (low, high) = found.rows, _at_once(z), found.space.box
    total, signed = torch.zeros_like(z), torch.zeros_like(z)
    answers, asked = z.new_zeros(len(z)), z.new_zeros(len(z))
    length = like(probe, z)[:, None]
    counts = (count / together).ceil() * together if isinstance(count, Tensor) else torch.tensor(count)
    wanted = counts.to(everyone).expand(len(z))
    while bool((wanted > 0).any()):
        some, rows = min(together, int(wanted.max())), (wanted > 0).nonzero().flatten()
        found.work_on(everyone[rows])
        u = unit_noise(found, streams, noise, some, None if tangent is None else tangent[rows])
        points = (z[rows, None] + length[rows] * u).clamp_(low, high)
        sign = found.ask_each(points, allowed=False).nan_to_num(0.0).to(z)
        u = points.sub_(z[rows, None]).div_(length[rows])
        total[rows] += u.sum(dim=1)
        signed[rows] += torch.einsum("bk,bk...->b...", sign, u)
        answers[rows] += sign.sum(dim=1)
        asked[rows] += sign.abs().sum(dim=1)
        wanted = wanted - some
    found.work_on(everyone)
    found.keep_only(still_open(found))
    mean = torch.where(answers.abs() < asked, answers / asked.clamp_min(1), torch.zeros_like(answers))
    return unit(signed - like(mean, z) * total)


def unit_noise(found: Closest, streams: Streams, noise: Noise, count: int, tangent: Batch | None = None) -> Tensor:
    """(live, count, *shape) random unit vectors, orthogonal to `tangent` where there is one."""
    u = noise(found, streams, count)
    vectors = u.flatten(2)
    if tangent is not None:
        along = flat(tangent)[:, None]
        vectors = vectors - (vectors * along).sum(dim=2, keepdim=True) * along
    return (vectors / vectors.norm(dim=2, keepdim=True).clamp_min(1e-12)).reshape(u.shape)


def on_circle(found: Closest, z: Batch, side: Batch) -> Callable[[PerExample], Batch]:
    """From an angle to the point there of a circle, which has z and the example as its ends and lies in their plane with `side`.

        x + |z - x| cos(angle) (cos(angle) u + sin(angle) side),    u = (z - x) / |z - x|;  0 is z, pi / 2 the example

    Where the boundary is flat and passes through z, its point nearest to x in that plane lies on this circle.

    Args:
        side: (live, *shape) unit vectors orthogonal to z - x.
    """
    change = z - found.x
    distance = Norm.L2.size(change)

    def at(angle: PerExample) -> Batch:
        turned = like(angle.cos(), z) * change + like(angle.sin() * distance, z) * side
        return found.inside(found.x + like(angle.cos(), z) * turned)

    return at


def turned(
    found: Closest, direction: Batch, radius: PerExample, slope: Batch, length: PerExample, *, tolerance: float
) -> tuple[Batch, PerExample, PerExample]:
    """Turn each unit direction along the slope as far as the boundary comes nearer: by `length`, then twice that, and so on; where
    that is none nearer, by a quarter of it, and so on.

    Returns:
        the directions and radii, and the length of the last turn that was of use (an eighth where none was).

    Cost: 1 query for each length that is tried, and those of `radius_along` where it is of use.
    """
    best, nearest, factor = direction, radius, torch.ones_like(length)
    useful = (length / 8).clamp_min(_SHORTEST)
    active, ever = torch.ones_like(radius, dtype=torch.bool), torch.zeros_like(radius, dtype=torch.bool)
    for _ in range(_LENGTHS):
        if not bool((active & still_open(found)).any()):
            break
        there = unit(direction + like(factor * length, direction) * slope)
        near = radius_along(found, there, nearest, most=nearest, tolerance=tolerance, among=active)
        won = near.isfinite()  # at the known radius the goal is reached: nearer, if only by less than the tolerance
        best, nearest = torch.where(wide(won, best), there, best), torch.where(won, near, nearest)
        useful = torch.where(won, factor * length, useful)
        active = active & torch.where(won, factor >= 1, ~ever)
        ever, factor = ever | won, torch.where(won, factor * 2, factor / 4)
    return best, nearest, useful


def unit(v: Batch) -> Batch:
    """The vectors at length 1; 0 stays 0."""
    return Norm.L2.steepest(v)


def upright(v: Batch, against: Batch) -> Batch:
    """The unit vector of the part of v orthogonal to these unit vectors."""
    along = (flat(v) * flat(against)).sum(dim=1)
    return unit(v - like(along, v) * against)


def noise_named(name: str) -> Noise:
    """The noise of this name: `white`, `grey`, or that of a subspace, such as `dct:16`.

    Raises:
        UnknownNameError, SettingError: there is none, or it lacks its size.
    """
    if name in _NOISES:
        return _NOISES[name]
    if ":" not in name:
        raise UnknownNameError.of("noise", name, [*_NOISES, "dct:16", "bilinear:14", "tile:14"])
    space = subspace_named(name)

    def lifted(found: Closest, streams: Streams, count: int) -> Tensor:
        shape = tuple(found.x.shape[1:])
        v = streams.normal(found.rows, (count, *space.shape(shape)), dtype=found.x.dtype)
        return _free(found, space.lift(v.flatten(0, 1), shape).reshape(len(v), count, *shape))

    return lifted


def _white(found: Closest, streams: Streams, count: int) -> Tensor:
    return _free(found, streams.normal(found.rows, (count, *found.x.shape[1:]), dtype=found.x.dtype))


def _grey(found: Closest, streams: Streams, count: int) -> Tensor:
    shape = found.x.shape[1:]
    v = streams.normal(found.rows, (count, *shape), dtype=found.x.dtype)
    if len(shape) == 3 and shape[0] == 3:
        mean = v.mean(dim=2, keepdim=True)
        v = mean + _COLOUR * (v - mean)
    return _free(found, v)


_NOISES: dict[str, Noise] = {"white": _white, "grey": _grey}


def _free(found: Closest, u: Tensor) -> Tensor:
    mask = found.space.mask
    return u if mask is None else u * mask.to(u)[:, None]


def _at_once(z: Batch) -> int:
    return min(max(_VALUES // max(math.prod(z.shape[1:]), 1), 1), _GROUP)
