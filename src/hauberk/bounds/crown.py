"""Bounds of a network's outputs from its inputs: which method bounds what lies between, and the last pass backward.

Three ways to the ranges between input and output, from fast to tight:

- `ibp`: interval propagation for them, and one pass backward for the output (CROWN-IBP, Zhang et al. 2020, arXiv:1906.06316);
- `crown`: a pass backward from every node that a nonlinear function reads (Zhang et al. 2018, arXiv:1811.00866), for those of
  its values whose interval leaves open on which side of the kink they lie.

**Differs from the papers:** intervals are computed from the tightened ranges, and a range is the intersection of both; what an
interval decides is not asked again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, TypeAlias

import torch
from torch import Tensor

from hauberk._shapes import PerExample, Rows, flat
from hauberk.bounds.backward import Functions, backward, units
from hauberk.bounds.inputs import Inputs, slack_of
from hauberk.bounds.interval import Range, interval_of, keeps_boxes, unbounded
from hauberk.bounds.relaxations import Lines, has_kink, lines_of
from hauberk.errors import ModelError
from hauberk.layered.graph import Graph, Node
from hauberk.layered.ops import Conv, Elementwise, LinearOp, Shape

__all__ = [
    "Intermediate",
    "Ranges",
    "bound_of",
    "lower_bounds",
    "ranges_of",
    "require_bounds",
    "rows_at_a_time",
    "shifted",
    "supports",
    "tightened",
]

Intermediate: TypeAlias = Literal["ibp", "crown"]
_FLOATS = 2**17
"""Coefficients held at a time: about what the cache of one core holds, which is several times faster than what memory holds."""


def supports(graph: Graph) -> list[str]:
    """The nodes that cannot be bounded, each a sentence; empty where all can."""
    found = ((node.name, unbounded(node)) for node in graph.nodes)
    return [f"node {name!r}: {reason}" for name, reason in found if reason is not None]


def require_bounds(graph: Graph) -> None:
    """Refuse a network with nodes that cannot be bounded.

    Raises:
        ModelError: naming the first of them.
    """
    if trouble := supports(graph):
        more = f" (and {len(trouble) - 1} more)" if len(trouble) > 1 else ""
        raise ModelError(f"this network cannot be bounded: {trouble[0]}{more}; use an attack, `clever` or `smoothing`")


@dataclass(frozen=True, eq=False)
class Ranges:
    """The ranges of what nonlinear nodes read, and the lines that follow from them, by the position of the nonlinear node.

    Attributes:
        inputs: what they hold for.
        before: (B, *shape) smallest and largest values.
        lines: see `Lines`.
        last: the range of what the output's node reads, where that node is linear: intervals alone are better there for networks that
            were trained on them.
    """

    inputs: Inputs
    before: Mapping[int, Range]
    lines: Mapping[int, Lines] = field(default_factory=dict)
    last: Range | None = None

    def take(self, rows: Rows | slice) -> Self:
        """Those of the examples `rows`."""
        return type(self)(
            self.inputs.take(rows),
            {place: (low[rows], high[rows]) for place, (low, high) in self.before.items()},
            {place: lines.take(rows) for place, lines in self.lines.items()},
            None if self.last is None else (self.last[0][rows], self.last[1][rows]),
        )


def ranges_of(graph: Graph, inputs: Inputs, intermediate: Intermediate = "crown") -> Ranges:
    """The ranges and lines of all nonlinear nodes. Cost: `ibp`, two forward passes; `crown`, a backward row for each open value.

    Args:
        graph: lowered, see `hauberk.layered.lower`.
        inputs: for each example.
        intermediate: see above.
    """
    exact = keeps_boxes(graph) if not inputs.ball else {}
    ranges: list[Range] = [(inputs.low, inputs.high)]
    before: dict[int, Range] = {}
    lines: dict[int, Lines] = {}
    known: dict[int, Range] = {}
    for position, node in enumerate(graph.nodes[1:], 1):
        if isinstance(node.op, Elementwise):
            source = node.inputs[0]
            if source not in known:
                low, high = ranges[source]
                if intermediate == "crown" and not exact.get(source, False):
                    low, high = tightened(graph, source, node.op, inputs, (low, high), lines)
                ranges[source] = known[source] = low, high
            before[position] = known[source]
            lines[position] = lines_of(node.op, *before[position])
        ranges.append(interval_of(node, [ranges[place] for place in node.inputs]))
    output = graph.nodes[-1]
    return Ranges(inputs, before, lines, ranges[output.inputs[0]] if isinstance(output.op, LinearOp) else None)


def lower_bounds(graph: Graph, ranges: Ranges, spec: Tensor, offset: Tensor | None = None) -> Tensor:
    """(B, S) at most the least value of spec . output + offset over each example's inputs; one pass backward.

    Args:
        spec: (B, S, *output shape) or (1, S, *output shape).
        offset: (B, S) or (1, S).
    """
    count, each = len(ranges.inputs), spec.shape[1]
    spec = spec.expand(count, *spec.shape[1:])
    functions = spec.reshape(count * each, *graph.output_shape)
    rows = torch.arange(count, device=spec.device).repeat_interleave(each)
    found, _ = bound_of(graph, len(graph.nodes) - 1, functions, rows, ranges.inputs, ranges.lines)
    output = graph.nodes[-1]
    if ranges.last is not None and isinstance(output.op, LinearOp):
        through, constant = backward(graph, len(graph.nodes) - 1, functions, rows, {}, until=output.inputs[0])
        plain = Inputs(*ranges.last).minimum_of(through, rows) + constant - slack_of(constant.dtype) * constant.abs()
        found = torch.maximum(found, torch.where(plain.isnan(), -torch.inf, plain))
    found = found.reshape(count, each)
    return found if offset is None else shifted(found, offset)


def shifted(bound: Tensor, offset: Tensor) -> Tensor:
    """A lower bound and a constant, added without ending above their sum."""
    return bound + offset - slack_of(bound.dtype) * (bound.abs() + offset.abs())


def bound_of(
    graph: Graph,
    start: int,
    functions: Functions,
    rows: Rows | None,
    inputs: Inputs,
    lines: Mapping[int, Lines],
    *,
    pulls: Mapping[int, Tensor] | None = None,
    seen: dict[int, Tensor] | None = None,
) -> tuple[PerExample, Functions]:
    """(N,) at most the least value of each function, over the inputs of its example, and the functions of the input that say so; see
    `backward`."""
    a, constant = backward(graph, start, functions, rows, lines, pulls=pulls, seen=seen)
    found = inputs.minimum_of(a, rows) + constant - slack_of(constant.dtype) * constant.abs()
    return torch.where(found.isnan(), -torch.inf, found), a  # overflow proves nothing


def tightened(
    graph: Graph, source: int, op: Elementwise, inputs: Inputs, given: Range, lines: Mapping[int, Lines]
) -> Range:
    """The range of what a function reads, by backward passes from its open values, intersected with the given one."""
    low, high = flat(given[0]).clone(), flat(given[1]).clone()
    undecided = (low < 0) & (high > 0) if has_kink(op) else high > low
    example, index = undecided.nonzero(as_tuple=True)
    node = graph.nodes[source]
    for part in _chunks(graph, source, len(example)):
        rows, places = example[part], index[part]
        near = slice(int(rows[0]), int(rows[-1]) + 1)  # rows are in the order of their examples
        twice = torch.cat((rows, rows)) - near.start
        sign = torch.cat((low.new_ones(len(rows)), -low.new_ones(len(rows))))
        asked = units(node, torch.cat((places, places)), sign)
        local = {place: line.take(near) for place, line in lines.items() if place < source}
        bounds, _ = bound_of(graph, source, asked, twice, inputs.take(near), local)
        least, most = bounds.chunk(2)
        low[rows, places] = torch.maximum(low[rows, places], least)
        high[rows, places] = torch.minimum(high[rows, places], -most)
    high = torch.maximum(low, high)  # where rounding made them cross by its slack
    return low.reshape(given[0].shape), high.reshape(given[1].shape)


def _chunks(graph: Graph, source: int, count: int) -> Iterator[slice]:
    """Slices of the rows, each small enough for the memory that going back from the node takes."""
    step = rows_at_a_time(graph, source)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def rows_at_a_time(graph: Graph, source: int) -> int:
    """How many values of a node to ask about together, both ways."""
    return max(1, _FLOATS // (2 * max(_floats_of_a_row(graph, source), 1)))


def _floats_of_a_row(graph: Graph, source: int) -> int:
    """About how many coefficients one row needs at most on its way from the node to the input."""
    windows: dict[int, tuple[int, int] | None] = {source: (1, 1) if len(graph.nodes[source].shape) == 3 else None}
    most = 0
    for position in range(source, -1, -1):
        if position not in windows:
            continue
        window, node = windows.pop(position), graph.nodes[position]
        most = max(most, _values(node.shape) if window is None else node.shape[0] * window[0] * window[1])
        for place in node.inputs:
            shape = graph.nodes[place].shape
            reached = _grown(window, node, shape)
            windows[place] = reached if place not in windows else _wider(windows[place], reached)
    return most


def _grown(window: tuple[int, int] | None, node: Node, shape: Shape) -> tuple[int, int] | None:
    if window is None or len(shape) != 3:
        return None
    if not isinstance(node.op, Conv):
        return window
    sizes = zip(window, node.op.stride, node.op.weight.shape[2:], node.op.dilation, strict=True)
    height, width = ((size - 1) * stride + dilation * (kernel - 1) + 1 for size, stride, kernel, dilation in sizes)
    return None if height * width >= shape[1] * shape[2] else (height, width)


def _wider(one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if one is None or other is None else (max(one[0], other[0]), max(one[1], other[1]))


def _values(shape: Shape) -> int:
    return flat(torch.empty(1, *shape, device="meta")).shape[1]
