"""Linear bounds of functions of one number on an interval: the only approximation that linear bounding makes.

Lines hold  lower.slope * z + lower.offset <= f(z) <= upper.slope * z + upper.offset  for low <= z <= high.

ReLU: the upper line is the chord; the lower one goes through the origin with a slope in [0, 1], which is 1 where high > -low
and 0 elsewhere ("adaptive" CROWN, Zhang et al. 2018, arXiv:1811.00866) unless it is given (alpha-CROWN, Xu et al. 2021,
arXiv:2011.13824).

Smooth functions: for any slope k, f(z) - k z has its extremes over the interval at its ends or where f'(z) = k. f' is monotone
between the inflection points of f, so these places are found by bisection, and the line is moved to touch f there: as tight as
this slope allows, for every function alike. The slopes tried are that of the chord and those of the tangents at the middle and at the
ends; the one with the line nearest to f over the interval is kept. **Differs from CROWN:** there each function has cases of its own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor

from hauberk._shapes import Rows
from hauberk.bounds.inputs import slack_of
from hauberk.layered.ops import FUNCTIONS, Elementwise

__all__ = ["Lines", "can_bound", "has_kink", "image", "lines_of", "relu_lines"]


@dataclass(frozen=True, eq=False)
class Lines:
    """Two lines for each value, each (B, *shape); `lower_offset` is None where it is 0 throughout."""

    lower_slope: Tensor
    lower_offset: Tensor | None
    upper_slope: Tensor
    upper_offset: Tensor

    def take(self, rows: Rows | slice) -> Self:
        """Those of the examples `rows`."""
        offset = None if self.lower_offset is None else self.lower_offset[rows]
        return type(self)(self.lower_slope[rows], offset, self.upper_slope[rows], self.upper_offset[rows])


@dataclass(frozen=True)
class _Smooth:
    """A differentiable function: its derivative, the places where that turns, and the places where the function itself turns."""

    slope: Callable[[Tensor], Tensor]
    inflections: tuple[float, ...] = ()
    turns: tuple[float, ...] = ()
    jump: float = 0.0
    """By how much torch's own function jumps where it changes its formula."""


def _gelu_slope(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _sigmoid_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


_SMOOTH: Mapping[str, _Smooth] = MappingProxyType(
    {
        "sigmoid": _Smooth(_sigmoid_slope, (0.0,)),
        "tanh": _Smooth(lambda z: 1 - torch.tanh(z) ** 2, (0.0,)),
        "gelu": _Smooth(_gelu_slope, (-math.sqrt(2), math.sqrt(2)), (-0.7517915246935645,)),
        "silu": _Smooth(_silu_slope, (-2.3993572805154577, 2.3993572805154577), (-1.2784645427610738,)),
        "softplus": _Smooth(torch.sigmoid, jump=2.1e-9),
        "exp": _Smooth(torch.exp),
    }
)


def can_bound(op: Elementwise) -> bool:
    """Whether the function has a rule here."""
    return op.function == "relu" or (op.function in _SMOOTH and not op.settings)


def has_kink(op: Elementwise) -> bool:
    """The function is linear on either side of 0, so that branching on the sign of its input makes it linear."""
    return op.function == "relu"


def image(op: Elementwise, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of the function on each interval, rounding included."""
    at_low, at_high = op(low), op(high)
    if op.function == "relu":
        return at_low, at_high
    least, most = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
    for turn in _SMOOTH[op.function].turns:
        value = op(low.new_tensor(turn))
        inside = (low < turn) & (turn < high)
        least = torch.where(inside, torch.minimum(least, value), least)
        most = torch.where(inside, torch.maximum(most, value), most)
    slack = slack_of(low.dtype) * (1 + torch.maximum(least.abs(), most.abs())) + _SMOOTH[op.function].jump
    return least - slack, most + slack


def lines_of(op: Elementwise, low: Tensor, high: Tensor) -> Lines:
    """The lines of `can_bound` functions for low <= z <= high."""
    return relu_lines(low, high) if op.function == "relu" else _smooth_lines(op, low, high)


def relu_lines(low: Tensor, high: Tensor, lower_slope: Tensor | None = None) -> Lines:
    """ReLU's; `lower_slope`, in [0, 1], is used where the sign of the input is open."""
    off, on = high <= 0, low >= 0
    width = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    chord = torch.where(on, torch.ones_like(low), torch.where(off, torch.zeros_like(low), high.clamp_min(0) / width))
    offset = torch.where(on | off, torch.zeros_like(low), slack_of(low.dtype) * high - chord * low)
    huge = ~(high - low).isfinite() & ~(on | off)
    chord, offset = torch.where(huge, 0.0, chord), torch.where(huge, high, offset)
    open_slope = (high > -low).to(low.dtype) if lower_slope is None else lower_slope
    slope = torch.where(on, torch.ones_like(low), torch.where(off, torch.zeros_like(low), open_slope))
    return Lines(slope, None, chord, offset)


def _smooth_lines(op: Elementwise, low: Tensor, high: Tensor) -> Lines:
    smooth = _SMOOTH[op.function]
    with torch.no_grad():
        middle = (low + high) / 2
        width = high - low
        narrow = width < 1e-6 * (1 + middle.abs())
        chord = torch.where(narrow, smooth.slope(middle), (op(high) - op(low)) / width.clamp_min(1e-30))
        candidates = [chord, smooth.slope(middle), smooth.slope(low), smooth.slope(high)]
        best: dict[str, Tensor] = {}
        for slope in candidates:
            bottom, top = _extremes(op, smooth, slope, low, high)
            # the area between a line and f differs between slopes by that of the line: its height at the middle
            for name, offset, sign in (("lower", bottom, 1.0), ("upper", top, -1.0)):
                height = sign * (slope * middle + offset)
                if f"{name} height" not in best:
                    best |= {f"{name} height": height, f"{name} slope": slope, f"{name} offset": offset}
                    continue
                better = height > best[f"{name} height"]
                for key, value in (("height", height), ("slope", slope), ("offset", offset)):
                    best[f"{name} {key}"] = torch.where(better, value, best[f"{name} {key}"])
    reach = torch.maximum(low.abs(), high.abs())
    size = 1 + torch.maximum(op(low).abs(), op(high).abs())
    lower, upper = (
        slack_of(low.dtype) * (size + reach * (1 + best[f"{side} slope"].abs())) * 4 + smooth.jump
        for side in ("lower", "upper")
    )
    return Lines(best["lower slope"], best["lower offset"] - lower, best["upper slope"], best["upper offset"] + upper)


def _extremes(op: Elementwise, smooth: _Smooth, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of f(z) - slope * z on each interval."""

    def rest(z: Tensor) -> Tensor:
        return FUNCTIONS[op.function](z) - slope * z

    at_low, at_high = rest(low), rest(high)
    least, most = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
    bounds = (-math.inf, *smooth.inflections, math.inf)
    for start, end in pairwise(bounds):
        left, right = (side.clamp(start, end).clamp(low, high) for side in (low, high))
        rising = smooth.slope(right) >= smooth.slope(left)
        for _ in range(40 if low.dtype == torch.float64 else 22):
            middle = (left + right) / 2
            past = (smooth.slope(middle) > slope) == rising
            left, right = torch.where(past, left, middle), torch.where(past, middle, right)
        missed = (smooth.slope(right) - smooth.slope(left)).abs() * (right - left)  # between the ends of the bisection
        for place in (left, right):
            value = rest(place)
            least, most = torch.minimum(least, value - missed), torch.maximum(most, value + missed)
    return least, most
