"""A ReLU network over a box, with nothing left in it but the ReLUs whose sign is open: what many parts of it are bounded with.

All that is linear between two open ReLUs is one matrix, found by computing the network on basis vectors in float64 (as in `milp`). With
z and r = max(z, 0) the values before and after the open ReLUs, in the order of the layers, and x the inputs,

    z = M x + W r + b,  W strictly lower triangular in blocks of layers

and rows that are asked about stand below those of z. The bound is that of alpha- and beta-CROWN (Xu et al. 2021, arXiv:2011.13824;
Wang et al. 2021, arXiv:2103.06624); its gradient is computed by hand: with x the inputs where the linear bound is least, and z what the
lines make of them, a slope's is (coefficient of r)+ * z, a multiplier's -sign * z.

Slopes and multipliers are sought in float32. The bound that counts is computed with those in float64, and widened as those of
`hauberk.bounds` are in float32, for the weights of the graph may have been rounded to that.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from hauberk.bounds import Ranges
from hauberk.bounds.inputs import slack_of
from hauberk.layered.graph import Graph
from hauberk.layered.ops import Add, Concat, Elementwise, LinearOp

__all__ = ["Bounded", "OpenRelus", "Parts", "down", "fits", "found_for"]

_MOST = 20_000_000
"""Numbers that the affine form of one layer may have."""
_FLOATS = 2**19
"""Coefficients held at a time."""


def down(values: Tensor, kind: torch.dtype) -> Tensor:
    """In another dtype, rounded so that none grows."""
    near = values.to(kind)
    return torch.where(near.double() > values, torch.nextafter(near, torch.full_like(near, -torch.inf)), near)


@dataclass(frozen=True, eq=False)
class _Weights:
    b: Tensor
    M: Tensor
    W: Tensor
    center: Tensor
    radius: Tensor

    def to(self, kind: torch.dtype) -> Self:
        return type(self)(*(each.to(kind) for each in (self.b, self.M, self.W, self.center, self.radius)))


@dataclass(frozen=True, eq=False)
class Parts:
    """N parts of the problem: of the first S open ReLUs the ranges, (N, S), and the signs that were fixed: 1 where z >= 0, -1 where z <= 0.

    `free`, (N, S): slopes in [0, 1] where the sign is open, multipliers >= 0 where it was fixed.
    """

    low: Tensor
    high: Tensor
    signs: Tensor
    free: Tensor

    def __len__(self) -> int:
        return len(self.low)

    def take(self, rows: Tensor | slice) -> Self:
        """Some of them."""
        return type(self)(self.low[rows], self.high[rows], self.signs[rows], self.free[rows])

    def halves(self, at: Tensor) -> Self:
        """(2N) each with the ReLU at (N, 1) on, then each with it off."""
        free = self.free.scatter(1, at, 0.0)
        return type(self)(
            torch.cat((self.low.scatter(1, at, self.low.gather(1, at).clamp_min(0)), self.low)),
            torch.cat((self.high, self.high.scatter(1, at, self.high.gather(1, at).clamp_max(0)))),
            torch.cat((self.signs.scatter(1, at, 1.0), self.signs.scatter(1, at, -1.0))),
            torch.cat((free, free)),
        )


@dataclass(frozen=True, eq=False)
class Bounded:
    """What `OpenRelus.bounded` found for N parts.

    Attributes:
        lower: (N,) float64.
        free: (N, S) what it was found with.
        score: (N, S) how much of the bound the relaxation of each open ReLU costs at most; 0 only where the sign is fixed.
        least: (N, inputs) where the last linear bound is least.
    """

    lower: Tensor
    free: Tensor
    score: Tensor
    least: Tensor


@dataclass(frozen=True, eq=False)
class OpenRelus:
    """See above.

    Attributes:
        blocks: where each layer's begin and end.
        places: for each block, the position of the node and which of its values are open.
        low, high: (n,) float32.
        exact, quick: the weights in float64 and float32; rows from n on are those that are asked about.
    """

    blocks: tuple[tuple[int, int], ...]
    places: tuple[tuple[int, Tensor], ...]
    low: Tensor
    high: Tensor
    exact: _Weights
    quick: _Weights

    @property
    def count(self) -> int:
        """How many ReLUs are open."""
        return len(self.low)

    def whole(self, rows: int, size: int) -> Parts:
        """The whole problem, `rows` times, of the first `size` ReLUs."""
        low, high = self.low[:size].expand(rows, size), self.high[:size].expand(rows, size)
        return Parts(low, high, torch.zeros(rows, size), (high > -low).to(low.dtype))

    def at_a_time(self, size: int) -> int:
        """How many parts to bound together."""
        return max(16, _FLOATS // (len(self.exact.center) + size))

    def tightened(self, ranges: Ranges) -> Ranges:
        """These ranges, cut with those of the open ReLUs; without lines."""
        before = dict(ranges.before)
        for (place, which), (start, end) in zip(self.places, self.blocks, strict=True):
            low, high = (side.flatten(1).clone() for side in before[place])
            low[0, which] = torch.maximum(low[0, which], self.low[start:end].to(low.dtype))
            high[0, which] = torch.minimum(high[0, which], self.high[start:end].to(low.dtype))
            shape = before[place][0].shape
            before[place] = low.reshape(shape), torch.maximum(low, high).reshape(shape)
        return replace(ranges, before=before)

    def bounded(
        self, rows: Tensor, sign: Tensor, parts: Parts, *, steps: int, rate: float, enough: float = 0.0
    ) -> Bounded:
        """Lower bounds of sign * (the value of row `rows`), (N,) both, over each part. Cost: `steps` passes back and forth.

        Args:
            steps: of Adam; fewer once every bound is past `enough`.
        """
        size, free = parts.low.shape[1], parts.free.clone()
        quick, blocks = self.quick, [block for block in self.blocks if block[1] <= size]
        lines = _Lines.of(parts, free)
        split = parts.signs != 0
        most = torch.where(split, torch.inf, 1.0)
        mean, square = torch.zeros_like(free), torch.zeros_like(free)
        best = torch.full((len(parts),), -torch.inf)
        kept = free
        low, high = quick.center - quick.radius, quick.center + quick.radius
        step = 0
        while True:
            step += 1
            lines = replace(lines, below=torch.where(lines.open, free, lines.on))
            value, a, x = _backward(quick, blocks, rows, sign, lines, -parts.signs * free)
            better = value > best
            best, kept = torch.where(better, value, best), torch.where(better[:, None], free, kept)
            least = torch.where(x > 0, low, high)
            if step > steps or bool((best > enough).all()):
                break
            z = _forward(quick, blocks, least, a, lines)
            slope = torch.where(lines.open, a.clamp_min(0) * z, torch.where(split, -parts.signs * z, 0.0))
            mean.lerp_(slope, 0.1)
            square.mul_(0.999).addcmul_(slope, slope, value=0.001)
            size_of = (square / (1 - 0.999**step)).sqrt_().add_(1e-8)
            free = free + mean / size_of * (rate * 0.98 ** (step - 1) / (1 - 0.9**step))
            free = torch.minimum(free.clamp_min_(0), most)
        double = Parts(parts.low.double(), parts.high.double(), parts.signs.double(), kept.double())
        lower, _, _ = _backward(
            self.exact, blocks, rows, sign.double(), _Lines.of(double, double.free), -double.signs * double.free
        )
        return Bounded(lower, kept, _scores(parts, lines, a), least)

    def once(self, rows: Tensor, sign: Tensor, parts: Parts) -> Tensor:
        """(N,) about what `bounded` finds without a step, in float32: to compare with, not to prove with."""
        blocks = [block for block in self.blocks if block[1] <= parts.low.shape[1]]
        return _backward(self.quick, blocks, rows, sign, _Lines.of(parts, parts.free), -parts.signs * parts.free)[0]


@dataclass(frozen=True, eq=False)
class _Lines:
    """Of each open ReLU: below * z <= max(z, 0) <= above * z + shift; `on` is 1 where it is the identity."""

    open: Tensor
    on: Tensor
    below: Tensor
    above: Tensor
    shift: Tensor

    @classmethod
    def of(cls, parts: Parts, free: Tensor) -> Self:
        low, high = parts.low, parts.high
        on = low >= 0
        opened = ~on & (high > 0)
        ones = on.to(low.dtype)
        above = torch.where(opened, high / (high - low).clamp_min(torch.finfo(low.dtype).tiny), ones)
        shift = torch.where(opened, slack_of(torch.float32) * high - above * low, 0.0)
        return cls(opened, ones, torch.where(opened, free, ones), above, shift)


def _backward(
    weights: _Weights,
    blocks: list[tuple[int, int]],
    rows: Tensor,
    sign: Tensor,
    lines: _Lines,
    pull: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) bounds, (N, S) coefficients of r, and (N, inputs) of x."""
    size = lines.below.shape[1]
    a = weights.W[rows, :size] * sign[:, None]
    z = torch.empty_like(a)
    for start, end in reversed(blocks):
        part = slice(start, end)
        up = a[:, part].clamp_min(0)
        z[:, part] = up * lines.below[:, part] + (a[:, part] - up) * lines.above[:, part] + pull[:, part]
        if start:
            a[:, :start].addmm_(z[:, part], weights.W[part, :start])
    x = (weights.M[rows] * sign[:, None]).addmm_(z, weights.M[:size])
    size_of = x.abs()
    shifts = a.clamp_max(0) * lines.shift
    constant = weights.b[rows] * sign + z @ weights.b[:size] + shifts.sum(dim=1)
    added = weights.b[rows].abs() + z.abs() @ weights.b[:size].abs() - shifts.sum(dim=1)
    value = constant + x @ weights.center - size_of @ weights.radius
    value = value - slack_of(torch.float32) * (size_of @ (weights.center.abs() + weights.radius) + added)
    return torch.where(value.isnan(), -torch.inf, value), a, x


def _forward(weights: _Weights, blocks: list[tuple[int, int]], x: Tensor, a: Tensor, lines: _Lines) -> Tensor:
    """(N, S) z at x, where each ReLU is the line that its coefficient chose."""
    size = lines.below.shape[1]
    z = torch.addmm(weights.b[:size], x, weights.M[:size].T)
    r = torch.empty_like(z)
    for start, end in blocks:
        part = slice(start, end)
        if start:
            z[:, part].addmm_(r[:, :start], weights.W[part, :start].T)
        upper = lines.above[:, part] * z[:, part] + lines.shift[:, part]
        r[:, part] = torch.where(a[:, part] < 0, upper, lines.below[:, part] * z[:, part])
    return z


def _scores(parts: Parts, lines: _Lines, a: Tensor) -> Tensor:
    above = lines.shift * a.clamp_max(0).abs()
    below = torch.maximum((1 - lines.below) * parts.high, -lines.below * parts.low) * a.clamp_min(0)
    return torch.where(lines.open, above + 1e-3 * below + 1e-20, 0.0)


def found_for(graph: Graph, ranges: Ranges, rows: Tensor, offset: Tensor, *, most: int = 2_000) -> OpenRelus | None:
    """The open ReLUs of one example, and rows . output + offset asked about; None for networks and inputs of another kind, and for more
    than `most` open ReLUs.

    Args:
        ranges: (1, ...).
        rows: (K, outputs).
        offset: (K,).
    """
    if not fits(graph, ranges, most):
        return None
    return _Forms(graph.detach().to(dtype=torch.float64), ranges).found(rows.double(), offset.double())


def fits(graph: Graph, ranges: Ranges, most: int = 2_000) -> bool:
    """Whether `found_for` takes it."""
    places = [place for place, node in graph if isinstance(node.op, Elementwise)]
    kinds = (Elementwise, LinearOp, Add, Concat)
    if ranges.inputs.ball or len(ranges.inputs) != 1 or not all(place in ranges.before for place in places):
        return False
    if not all(isinstance(node.op, kinds) for node in graph.nodes[1:]):
        return False
    if any(op.function != "relu" for place in places if isinstance(op := graph.nodes[place].op, Elementwise)):
        return False
    opened = [((low < 0) & (high > 0)).sum() for low, high in (ranges.before[place] for place in places)]
    count, inputs = int(sum(opened)), math.prod(graph.input_shape)
    return count <= most and (1 + inputs + count) * max(math.prod(node.shape) for node in graph.nodes) <= _MOST


class _Forms:
    """The affine form of each node: a tensor (1 + variables so far, *shape), what it gives where all variables are 0, then what each
    variable adds. The variables are the inputs, then what the open ReLUs give."""

    def __init__(self, graph: Graph, ranges: Ranges) -> None:
        self.inputs, self.total = math.prod(graph.input_shape), 0
        self.ranges, self.graph = ranges, graph
        self.asked: list[Tensor] = []
        self.low: list[Tensor] = [torch.zeros(0)]
        self.high: list[Tensor] = [torch.zeros(0)]
        self.blocks: list[tuple[int, int]] = []
        self.places: list[tuple[int, Tensor]] = []
        forms: list[Tensor] = []
        for position, node in graph:
            given = [self._wide(forms[place]) for place in node.inputs]
            if not node.inputs:
                basis = torch.cat((torch.zeros(1, self.inputs), torch.eye(self.inputs))).double()
                forms.append(basis.reshape(-1, *node.shape))
            elif isinstance(node.op, Elementwise):
                forms.append(self._relu(position, given[0].flatten(1)).reshape(-1, *node.shape))
            elif isinstance(node.op, LinearOp):
                forms.append(torch.cat((node.op(given[0][:1]), node.op.apply(given[0][1:]))))
            else:
                forms.append(node.op(*given))
        self.output = self._wide(forms[-1]).flatten(1)

    def _wide(self, form: Tensor) -> Tensor:
        """Rows of zeros for the variables that came since."""
        return F.pad(form, (*(0, 0) * (form.ndim - 1), 0, 1 + self.inputs + self.total - len(form)))

    def _relu(self, position: int, before: Tensor) -> Tensor:
        low, high = (side.detach().double().reshape(-1) for side in self.ranges.before[position])
        after = before * (low >= 0)
        which = ((low < 0) & (high > 0)).nonzero()[:, 0]
        if not len(which):
            return after
        self.asked.append(before[:, which].T)
        self.low.append(down(low[which], torch.float32))
        self.high.append(-down(-high[which], torch.float32))
        self.blocks.append((self.total, self.total + len(which)))
        self.places.append((position, which))
        self.total += len(which)
        after = self._wide(after)
        after[1 + self.inputs + torch.arange(*self.blocks[-1]), which] = 1.0
        return after

    def found(self, rows: Tensor, offset: Tensor) -> OpenRelus:
        output = self.output @ rows.T
        output[0] += offset
        width = 1 + self.inputs + self.total
        whole = torch.cat([F.pad(each, (0, width - each.shape[1])) for each in (*self.asked, output.T)])
        low, high = (side.double().reshape(-1) for side in (self.ranges.inputs.low, self.ranges.inputs.high))
        split = 1 + self.inputs
        exact = _Weights(
            whole[:, 0].contiguous(),
            whole[:, 1:split].contiguous(),
            whole[:, split:].contiguous(),
            (low + high) / 2,
            (high - low) / 2,
        )
        return OpenRelus(
            tuple(self.blocks),
            tuple(self.places),
            torch.cat(self.low),
            torch.cat(self.high),
            exact,
            exact.to(torch.float32),
        )
