"""Where an adversarial example may lie: a `Region` owns the constraint, and `Ball` is the p-norm ball around the example."""

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, Rows, double, flat, like
from hauberk.errors import DataError, ThreatError
from hauberk.threat.norm import Norm, fill_l2

if TYPE_CHECKING:
    from hauberk._rng import Streams

__all__ = ["Ball", "Region"]


class Region(Protocol):
    """A set of allowed points around each example x. A new perturbation set is one class with these verbs."""

    @property
    def finite(self) -> bool:
        """False where the smallest change is sought instead of a change within a limit."""
        ...

    def take(self, rows: Rows) -> "Region":
        """The region of the examples `rows`, which become rows 0, 1, ... ."""
        ...

    def project(self, z: Batch, x: Batch) -> Batch:
        """The nearest allowed point, before any rounding to a grid."""
        ...

    def snap(self, z: Batch, x: Batch) -> Batch:
        """An allowed point rounded to an allowed one that can be stored; the point itself where there is no grid."""
        ...

    def contains(self, z: Batch, x: Batch) -> Tensor:
        """(B,) bool: finite, inside the box and allowed, up to the stated slack."""
        ...

    def size(self, z: Batch, x: Batch) -> PerExample:
        """(B,) how large the change is, in the region's own measure."""
        ...

    def start(self, x: Batch, rows: Rows, streams: "Streams") -> Batch:
        """A random allowed point."""
        ...

    @property
    def reach(self) -> float | PerExample:
        """How far one step can sensibly go, in units of `steepest`: steps are given as fractions of it."""
        ...

    def steepest(self, gradient: Batch) -> Batch:
        """The unit step along which a linear function rises most."""
        ...

    def step(self, z: Batch, gradient: Batch, size: float | PerExample) -> Batch:
        """Where a step of this size from the allowed point z climbs to, before `project`."""
        ...

    def linear_max(self, gradient: Batch, x: Batch) -> Batch:
        """The allowed point where a linear function with this gradient is largest; exact."""
        ...


@dataclass(frozen=True, eq=False)
class Ball:
    """All points of the box within `radius` of x.

    Args:
        norm: the p-norm.
        radius: one number, or (n,), in the units of the input; inf seeks the smallest change instead.
        box: the range every value must stay in.
        mask: (1 or n, *shape) bool, True where a value may change.
        grid: number of steps that the box is divided in, 255 for 8-bit pictures; adversarials then survive saving.

    `contains` allows a relative slack of 1e-5 on the radius and 2**-22 times the box's largest magnitude for rounding, half
    of that for being on the grid, which is what float32 needs; the box, the mask and the L0 count are exact.
    """

    norm: Norm
    radius: float | PerExample = math.inf
    box: tuple[float, float] = (0.0, 1.0)
    mask: Tensor | None = None
    grid: int | None = None

    def __post_init__(self) -> None:
        low, high = self.box
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ThreatError(f"a box needs finite low < high, got {self.box}")
        if not isinstance(self.radius, Tensor) or self.radius.ndim == 0:  # one number is a float, many are a tensor
            object.__setattr__(self, "radius", float(self.radius))
        bad = (
            bool((self.radius < 0).any() | self.radius.isnan().any())
            if isinstance(self.radius, Tensor)
            else not self.radius >= 0
        )
        if bad:
            raise ThreatError(f"a radius is a number >= 0, got {self.radius}")
        if self.grid is not None and self.grid < 1:
            raise ThreatError(f"a grid needs at least one step, got {self.grid}")
        if self.grid is not None and self.norm is not Norm.L0:
            radii = torch.as_tensor(self.radius, dtype=torch.float64, device="cpu")
            small = radii[(radii > 0) & (self._most_steps(radii) < 1)]
            if small.numel():
                raise ThreatError(
                    f"no change on a grid of {self.grid} steps fits into a radius of {small.min():g}; "
                    f"use at least {high - low:g}/{self.grid}"
                )

    @property
    def _rounding(self) -> float:
        """What float32 arithmetic in this box may be off by, several times over."""
        return 2**-22 * max(abs(self.box[0]), abs(self.box[1]))

    def _limit(self, x: Batch) -> Tensor:
        """The radius with the slack of `contains`."""
        radius = torch.as_tensor(self.radius, dtype=x.dtype, device=x.device)
        return radius if self.norm is Norm.L0 else radius * (1 + 1e-5) + self._rounding

    def _most_steps(self, radius: Tensor) -> Tensor:
        """The size in steps of the grid that keeps `_limit` even where rounding adds to it."""
        return (radius * (1 + 5e-6) + self._rounding / 4) * (self.grid or 0) / (self.box[1] - self.box[0])

    def _free(self, change: Batch) -> Batch:
        """The part of it that the mask lets through."""
        return change if self.mask is None else change * self.mask.to(change.device)

    def _off_grid(self, x: Batch) -> Tensor:
        low, high = self.box
        step = (high - low) / (self.grid or 1)
        steps = (x.to(double(x)) - low) / step
        return (steps - steps.round()).abs() * step > self._rounding / 2

    @property
    def finite(self) -> bool:
        return (
            bool(torch.isfinite(self.radius).all()) if isinstance(self.radius, Tensor) else math.isfinite(self.radius)
        )

    def take(self, rows: Rows) -> "Ball":
        radius = self.radius.to(rows.device)[rows] if isinstance(self.radius, Tensor) else self.radius
        mask = self.mask.to(rows.device)[rows] if self.mask is not None and len(self.mask) > 1 else self.mask
        if radius is self.radius and mask is self.mask:
            return self
        part = copy.copy(self)  # not built anew: its parts are valid, and the checks would wait for the device
        object.__setattr__(part, "radius", radius)
        object.__setattr__(part, "mask", mask)
        return part

    def with_radius(self, radius: float | PerExample) -> "Ball":
        """The same ball with another radius."""
        return Ball(self.norm, radius, self.box, self.mask, self.grid)

    def project(self, z: Batch, x: Batch) -> Batch:
        low, high = self.box
        if self.norm is Norm.LINF and self.mask is None:
            r = self.radius if isinstance(self.radius, float) else like(self.radius, x)
            return torch.minimum(torch.maximum(z, x - r), x + r).clamp_(low, high)
        return (x + self.norm.project_between(self._free(z - x), self.radius, low - x, high - x)).clamp_(low, high)

    def snap(self, z: Batch, x: Batch) -> Batch:
        """Every coordinate goes to the nearest step in L-inf and L0, in L-inf none further than the furthest of z; in L2 and L1
        those nearest to their next step are carried on to it, as many as keep the size within that of z and the radius."""
        if self.grid is None:
            return z
        (low, high), grid = self.box, self.grid
        step = (high - low) / grid
        place, moves = ((x - low) / step).round(), (z - x) / step
        far = flat(moves.abs())

        def at(steps: Tensor) -> Batch:
            steps = steps.reshape(x.shape)
            moved = ((place + steps * moves.sign()) * (high - low) / grid + low).clamp_(low, high)
            return torch.where(steps == 0, x, moved)  # what does not move keeps its very bits: L0 counts them

        near = (far + 0.5).floor_()
        if self.norm is Norm.L0:
            return at(near)
        noise = max(1e-3, self._rounding / step)
        far = torch.where((far - near).abs() < noise, near, far)  # what lies this close to a step counts as on it
        most = self._most_steps(torch.as_tensor(self.radius, dtype=x.dtype, device=x.device))
        most = torch.minimum(self.norm.size(far) * (1 + 1e-6) + noise, most)
        if self.norm is Norm.LINF:
            return at(near.minimum(most.floor()[:, None]))
        points = at(_whole_steps(far, most, self.norm))
        over = self.size(points, x) > self._limit(x)  # rounding of many coordinates in one direction adds up
        if bool(over.any()):
            points = at(_whole_steps(far, torch.where(over, most * (1 - noise), most), self.norm))
        return points

    def contains(self, z: Batch, x: Batch) -> Tensor:
        low, high = self.box
        inside = flat((z >= low) & (z <= high)).all(dim=1)  # False where NaN
        if self.mask is not None:
            inside &= flat((z == x) | self.mask.to(z.device)).all(dim=1)
        if self.grid is not None:
            inside &= ~flat(self._off_grid(z)).any(dim=1)
        return inside & (self.size(z, x) <= self._limit(z))

    def size(self, z: Batch, x: Batch) -> PerExample:
        return self.norm.size(z - x)

    def start(self, x: Batch, rows: Rows, streams: "Streams") -> Batch:
        if not self.finite:
            raise ThreatError("a random start needs a finite radius, got radius=inf")
        low, high = self.box
        delta = self.norm.sample(streams, rows, x, self.radius, self.mask)
        if self.norm is Norm.L0:  # a chosen coordinate takes any value of the box
            z = torch.where(delta != 0, (delta + 1) / 2 * (high - low) + low, x)
        else:
            z = x + delta
        return self.project(z, x)

    @property
    def reach(self) -> float | PerExample:
        """The radius; for L0, whose radius is a count, twice the width of the box: a coordinate flips from wall to wall."""
        return 2 * (self.box[1] - self.box[0]) if self.norm is Norm.L0 else self.radius

    def steepest(self, gradient: Batch) -> Batch:
        """The norm's steepest direction; for L0 the whole gradient, its largest entry scaled to 1, since `project` picks the
        coordinates (Croce and Hein 2019, arXiv:1909.05040)."""
        g = self._free(gradient)
        if self.norm is Norm.L0:
            return g / like(flat(g.abs()).amax(dim=1).clamp_min(torch.finfo(g.dtype).tiny), g)
        return self.norm.steepest(g)

    def step(self, z: Batch, gradient: Batch, size: float | PerExample) -> Batch:
        """Along `steepest`, but nothing is spent on coordinates that stand at the wall the gradient points to; in L1 the step
        fills coordinate after coordinate up to its wall, the steepest first, until it is spent."""
        if self.norm is Norm.LINF:  # signs, clipped by `project`, come to the same
            return z + like(size, z) * self.steepest(gradient)
        if self.norm is Norm.L1:
            return Ball(self.norm, size, self.box, self.mask).linear_max(gradient, z)
        low, high = self.box
        blocked = ((z >= high) & (gradient > 0)) | ((z <= low) & (gradient < 0))
        return z + like(size, z) * self.steepest(gradient.masked_fill(blocked, 0.0))

    def linear_max(self, gradient: Batch, x: Batch) -> Batch:
        low, high = self.box
        g = self._free(gradient)
        corner = torch.where(g > 0, high - x, torch.where(g < 0, low - x, torch.zeros_like(x)))  # the best of the box
        if self.norm is Norm.LINF:
            return self.project(x + corner, x)
        kind = double(x)
        slope, cap = flat(g.abs()).to(kind), flat(corner.abs()).to(kind)
        radius = torch.as_tensor(self.radius, dtype=kind, device=x.device).expand(len(x))
        if (
            self.norm is Norm.L2
        ):  # min(s |g|, cap), where g is scaled so that its useful part neither under- nor overflows
            useful = torch.where(cap > 0, slope, torch.zeros_like(slope))
            change = fill_l2(useful / useful.amax(dim=1, keepdim=True).clamp_min(torch.finfo(kind).tiny), cap, radius)
        else:  # whole coordinates, the best first: L1 pays for length, L0 for each one
            order = (slope if self.norm is Norm.L1 else slope * cap).argsort(dim=1, descending=True, stable=True)
            room = cap.gather(1, order)
            price = room if self.norm is Norm.L1 else torch.ones_like(room)
            left = radius[:, None] - (price.cumsum(dim=1) - price)
            share = left.clamp_min(0).minimum(room) if self.norm is Norm.L1 else (left > 0) * room
            change = torch.zeros_like(cap).scatter_(1, order, share)
        return (x + (change.reshape(x.shape) * g.sign()).to(x.dtype)).clamp(low, high)

    def check(self, x: Batch) -> None:
        """Refuse examples that this ball cannot be drawn around.

        Raises:
            DataError: a value outside the box, or off the grid.
        """
        low, high = self.box
        if not bool(((x >= low) & (x <= high)).all()):
            raise DataError(f"expected values in [{low:g}, {high:g}], got values in [{x.min():g}, {x.max():g}]")
        if self.grid is not None and bool(self._off_grid(x).any()):
            raise DataError(
                f"a threat on a grid of {self.grid} steps needs examples on that grid, got values between its steps; "
                "quantise the data as it will be saved, or drop the @grid from the threat"
            )


def _whole_steps(far: Tensor, most: Tensor, norm: Norm) -> Tensor:
    """(B, D) floor(far + t), with the largest t < 1 for each row that keeps the size within `most`, found by bisection.

    t is spread by a sixteenth over the coordinates, so that where many changes are equal some of them move and some stay.
    """
    spread = (torch.arange(far.shape[1], device=far.device) * 40503 % 65536).to(far) / 65536 / 16
    base = far + spread
    low, width = far.new_full((len(far), 1), -1.0), 2 - 1 / 16
    for _ in range(14):
        width /= 2
        fits = torch.linalg.vector_norm((base + (low + width)).floor_().clamp_min_(0), norm.p, dim=1) <= most
        low += width * fits[:, None]
    return (base + low).floor_().clamp_min_(0)
