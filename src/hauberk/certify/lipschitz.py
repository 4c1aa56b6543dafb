"""Lipschitz constants of a network, of the whole and of a region, and the radius that a margin over one certifies.

**Global:** |f(x) - f(y)| <= L |x - y| in one p-norm on both sides, for all x and y. Constants of operators are multiplied along a path
and added where paths meet (Szegedy et al. 2014, arXiv:1312.6199, section 4.3). Of a linear operator A:

- L-inf: the largest row sum of |A|; L1: the largest column sum of |A|. Both exact, for every operator, by computing with |A|.
- L2: `Linear`: the largest singular value. Any operator: at most sqrt(|A|_1 |A|_inf) (Schur). `Conv`: where smaller, the largest
  singular value over the frequencies of the circular convolution on a torus that has room for picture and kernel (Sedghi, Gupta,
  Long 2019, arXiv:1805.10408): what zeros around and strides give are some of its rows and columns, whose norm is never larger.
  Power iteration is not used: it gives a lower bound.

**Local:** for a row c, |c f(x) - c f(y)| <= L |x - y| for x and y of one convex region. The Jacobian is bounded entry by entry, backward
from the output, with the slope of each function in the interval it has over the region: 1 or 0 for a ReLU of known sign. L is the
dual norm of the largest magnitudes. Hein, Andriushchenko 2017, arXiv:1705.08475, bound it so for one hidden layer; Zhang, Zhang,
Hsieh 2019, "RecurJac", arXiv:1810.11783, go back through many.

**Differs from the papers:** intervals are carried as middle and half width, without RecurJac's recursion over signs of entries, so
constants are larger and cost is one pass for each row; ranges of what functions read come from CROWN. Any graph, not chains only.

Sound in exact arithmetic; constants are widened by 1e-6 relatively in float32 and 1e-12 in float64, and the entries of the Jacobian by
eight units of rounding of the magnitudes they are made of.
"""

import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from hauberk._shapes import PerExample
from hauberk.bounds import Inputs, Ranges, ranges_of, require_bounds
from hauberk.bounds.inputs import slack_of
from hauberk.errors import DataError, ModelError, ThreatError
from hauberk.layered.graph import Graph, Node
from hauberk.layered.ops import FUNCTIONS, Add, Concat, Conv, Elementwise, Input, Linear, LinearOp, Shape
from hauberk.threat import Norm

__all__ = ["certified_radius", "global_bound", "local_bound"]

_STEEPEST: Mapping[str, float] = MappingProxyType(
    {"relu": 1.0, "abs": 1.0, "clamp": 1.0, "sigmoid": 0.25, "tanh": 1.0, "softplus": 1.0, "sin": 1.0, "cos": 1.0}
    | {"gelu": 1.12890415, "silu": 1.09983933}
)
"""The largest slope of a function anywhere, rounded up."""
_TURNS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"sigmoid": (0.0,), "tanh": (0.0,), "softplus": (), "exp": ()}
    | {"gelu": (-math.sqrt(2), math.sqrt(2)), "silu": (-2.3993572805154577, 2.3993572805154577)}
)
"""Where the slope of a smooth function is largest or smallest; between, it only rises or only falls."""
_FREQUENCIES = 2**22
"""Numbers of all frequencies together, above which a convolution's are not computed."""


def global_bound(graph: Graph, norm: Norm) -> float:
    """L with |f(x) - f(y)| <= L |x - y| for all inputs x and y, in this norm on both sides.

    The margin between two classes has at most L in L1, sqrt(2) L in L2 and 2 L in L-inf, towards changes in the same norm. Cost: two
    forwards of each operator, and in L2 a singular value decomposition for each layer and frequency.

    Args:
        graph: a network of linear operators, sums, concatenations and functions of bounded slope; need not be lowered, which
            makes constants larger.
        norm: L-inf, L2 or L1.

    Raises:
        ModelError: a node of another kind, which the message names; exp, whose slope has no bound, is one.
        ThreatError: L0, which is no norm.
    """
    _check(norm)
    double = graph.detach().to(dtype=torch.float64)
    found: list[float] = []
    for node in double.nodes:
        given = [found[place] for place in node.inputs]
        if isinstance(node.op, Input):
            found.append(1.0)
        elif isinstance(node.op, Add):
            found.append(sum(given))
        elif isinstance(node.op, Concat):
            together = torch.tensor(given, dtype=torch.float64)
            found.append(float(norm.size(together[None])))
        elif isinstance(node.op, LinearOp):
            found.append(given[0] * _operator(node.op, double.nodes[node.inputs[0]].shape, norm))
        else:
            found.append(given[0] * _slope(node))
    return found[-1] * (1 + 1e-12)


def local_bound(graph: Graph, inputs: Inputs, rows: Tensor, norm: Norm, *, ranges: Ranges | None = None) -> Tensor:
    """(B, S) L with |c f(x) - c f(y)| <= L |x - y| for all x and y of one example's inputs, a convex region, in this norm.

    Cost: `ranges_of` where no ranges are given, then one pass backward for each row of each example.

    Args:
        graph: lowered, see `hauberk.layered.lower`.
        inputs: for each example; their own norm need not be `norm`.
        rows: (B, S, *output shape) or (1, S, *output shape), the c; for margins, 1 at one class and -1 at another.
        norm: L-inf, L2 or L1, in which changes of the input are measured.
        ranges: of these inputs, if known.

    Raises:
        ModelError: a node of the network cannot be bounded.
        ThreatError: L0, which is no norm.
        DataError: the rows do not fit the network or the examples.
    """
    _check(norm)
    require_bounds(graph)
    count, each = len(inputs), rows.shape[1] if rows.ndim > 1 else 0
    if tuple(rows.shape[2:]) != graph.output_shape or len(rows) not in (1, count):
        raise DataError(
            f"expected rows of shape ({count}, S, *{graph.output_shape}) or (1, S, *{graph.output_shape}), got {tuple(rows.shape)}"
        )
    known = ranges_of(graph, inputs) if ranges is None else ranges
    with torch.no_grad():
        start = rows.to(inputs.dtype).expand(count, *rows.shape[1:]).reshape(count * each, *graph.output_shape)
        middle, half = _jacobian(graph, known, start, torch.arange(count).repeat_interleave(each).to(start.device))
        largest = norm.dual.size(middle.abs() + half)
    return (largest * (1 + (1e-12 if largest.dtype == torch.float64 else 1e-6))).reshape(count, each)


def certified_radius(margins: Tensor, constants: Tensor, reach: PerExample | float) -> PerExample:
    """(B,) no change smaller than this, in the norm of the constants, takes a margin to 0 or below.

    min(margin / L, reach) for the worst row: over a region of that reach L bounds what the margin can lose. 0 where a margin is not
    above 0, or a number is NaN.

    Args:
        margins: (B, S) at the examples themselves.
        constants: (B, S) from `local_bound` over what lies within `reach`.
        reach: (B,) or one number; inf for constants that hold everywhere.
    """
    each = torch.where(constants == 0, torch.inf, margins / constants)
    safe = torch.where(margins > 0, each, 0.0).nan_to_num(nan=0.0, posinf=torch.inf).amin(dim=1)
    return torch.minimum(safe, torch.as_tensor(reach, dtype=safe.dtype, device=safe.device).expand_as(safe))


def _check(norm: Norm) -> None:
    if norm is Norm.L0:
        raise ThreatError("Lipschitz constants are known for linf, l2 and l1, got l0")


def _slope(node: Node) -> float:
    op = node.op
    if isinstance(op, Elementwise):
        if op.function == "leaky_relu":
            return max(1.0, abs(op.settings[0] if op.settings else 0.01))
        if op.function in _STEEPEST:
            return _STEEPEST[op.function]
    what = op.function if isinstance(op, Elementwise) else type(op).__name__
    raise ModelError(
        f"node {node.name!r}: {what} has no Lipschitz constant here; use `local_bound`, or `lowered` for max pooling"
    )


def _operator(op: LinearOp, shape: Shape, norm: Norm) -> float:
    """At least the norm of the operator on examples of this shape, see above."""
    ones = torch.ones(1, *shape, dtype=torch.float64)
    rows = op.magnitude(ones)
    columns = _back(op, torch.ones_like(rows), shape)
    by_rows, by_columns = float(rows.max()), float(columns.max())
    if norm is not Norm.L2:
        return by_rows if norm is Norm.LINF else by_columns
    found = math.sqrt(by_rows * by_columns)
    if isinstance(op, Linear):
        found = min(found, float(torch.linalg.matrix_norm(op.weight, 2)) * (1 + 1e-12))
    elif isinstance(op, Conv):
        found = min(found, _on_torus(op, shape))
    return found


def _on_torus(op: Conv, shape: Shape) -> float:
    """The norm of the circular convolution on a torus with room for picture and kernel; inf where that is too much work."""
    weight, out = op.weight, op.weight.shape[0] // op.groups
    size = [room + d * (k - 1) for room, d, k in zip(shape[1:], op.dilation, weight.shape[2:], strict=True)]
    if weight.shape[0] * weight.shape[1] * math.prod(size) > _FREQUENCIES:
        return math.inf
    spread = weight.new_zeros(*weight.shape[:2], *size)
    for place in itertools.product(*(range(k) for k in weight.shape[2:])):
        spread[(..., *(p * d for p, d in zip(place, op.dilation, strict=True)))] = weight[(..., *place)]
    waves = torch.fft.fftn(spread, dim=tuple(range(2, weight.ndim))).flatten(2)  # (out, in / groups, frequencies)
    matrices = waves.reshape(op.groups, out, -1, waves.shape[2]).permute(0, 3, 1, 2)
    return float(torch.linalg.matrix_norm(matrices, 2).max()) * (1 + 1e-12)


def _back(op: LinearOp, given: Tensor, shape: Shape) -> Tensor:
    """(N, *shape) |A|^T given."""
    with torch.enable_grad():
        x = given.new_zeros(len(given), *shape).requires_grad_()
        (found,) = torch.autograd.grad(op.magnitude(x), x, given)
    return found.detach()


def _jacobian(graph: Graph, ranges: Ranges, start: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(N, *input shape) middles and half widths of the derivatives of each row, with those of the example it is of."""
    last = len(graph.nodes) - 1
    slack = slack_of(start.dtype)
    asked: dict[int, tuple[Tensor, Tensor]] = {last: (start, torch.zeros_like(start))}
    for position in range(last, 0, -1):
        if position not in asked:
            continue
        (middle, half), node = asked.pop(position), graph.nodes[position]
        shapes = [graph.nodes[place].shape for place in node.inputs]
        if isinstance(node.op, Elementwise):
            low, high = (side.index_select(0, rows) for side in _slopes(node.op, *ranges.before[position]))
            back = [_times(middle, half, low, high)]
        elif isinstance(node.op, Add):
            back = [(middle, half)] * len(node.inputs)
        elif isinstance(node.op, Concat):
            sizes, along = [shape[node.op.axis] for shape in shapes], node.op.axis + 1
            back = list(zip(middle.split(sizes, dim=along), half.split(sizes, dim=along), strict=True))
        else:
            assert isinstance(node.op, LinearOp)  # `require_bounds` saw to it
            width = _back(node.op, half + slack * (middle.abs() + half), shapes[0])
            back = [(node.op.transpose(middle, shapes[0]), width)]
        for place, (more, wider) in zip(node.inputs, back, strict=True):
            if place in asked:
                more, wider = more + asked[place][0], wider + asked[place][1]
            asked[place] = more, wider + slack * more.abs()
    empty = start.new_zeros(len(start), *graph.input_shape)
    return asked.get(0, (empty, empty))


def _times(middle: Tensor, half: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The product of two intervals, the second from low to high."""
    least, most = middle - half, middle + half
    ends = torch.stack((least * low, least * high, most * low, most * high))
    least, most = ends.amin(dim=0), ends.amax(dim=0)
    center = (least + most) / 2
    return center, torch.maximum(most - center, center - least)


def _slopes(op: Elementwise, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest slope of a function on each interval."""
    if op.function == "relu":
        return (low >= 0).to(low.dtype), (high > 0).to(low.dtype)
    places = [low, high, *(low.clamp(turn, turn).clamp(low, high) for turn in _TURNS[op.function])]
    with torch.enable_grad():
        leaf = torch.stack(places).detach().requires_grad_()
        (found,) = torch.autograd.grad(FUNCTIONS[op.function](leaf, *op.settings).sum(), leaf)
    slack = slack_of(low.dtype) * (1 + found.abs().amax(dim=0))
    return found.amin(dim=0) - slack, found.amax(dim=0) + slack
