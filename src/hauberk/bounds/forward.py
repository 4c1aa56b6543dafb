"""Forward linear bounding: every value between two linear functions of the input, carried from layer to layer.

Its cost grows with the number of inputs, so it is for networks of few inputs, where it is far cheaper than going back from every
neuron; what it leaves open is then asked again by going back, which is far tighter. Inputs are written as center + half * t with
-1 <= t <= 1, so that a range is read off as constant -+ sum of absolute coefficients. Xu et al. 2020, arXiv:2002.12920 ("Forward"),
with the intersection of each range with that of intervals.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hauberk.bounds.crown import Ranges, tightened
from hauberk.bounds.inputs import Inputs, slack_of
from hauberk.bounds.interval import Range, interval_of
from hauberk.bounds.relaxations import Lines, lines_of
from hauberk.layered.graph import Graph, Node
from hauberk.layered.ops import Add, Concat, Elementwise, LinearOp, moves

__all__ = ["forward_ranges"]


@dataclass(frozen=True, eq=False)
class _Between:
    """Two linear functions of t: coefficients (B, inputs, *shape), the constants (B, *shape)."""

    lower: Tensor
    lower_at: Tensor
    upper: Tensor
    upper_at: Tensor

    def range(self) -> Range:
        low, high = self.lower_at - self.lower.abs().sum(dim=1), self.upper_at + self.upper.abs().sum(dim=1)
        slack = slack_of(low.dtype) * torch.maximum(low.abs(), high.abs())
        return low - slack, high + slack


def forward_ranges(graph: Graph, inputs: Inputs, *, tighten: bool = True) -> Ranges:
    """As `ranges_of`, by linear functions of the inputs. Cost: two forward passes for each input value.

    Args:
        graph: lowered.
        inputs: boxes.
        tighten: go back from every value that is still open, too.
    """
    center, half = (inputs.low + inputs.high) / 2, (inputs.high - inputs.low) / 2
    unit = torch.diag_embed(half.flatten(1)).reshape(len(half), -1, *graph.input_shape)
    linear: list[_Between] = [_Between(unit, center, unit, center)]
    ranges: list[Range] = [(inputs.low, inputs.high)]
    before: dict[int, Range] = {}
    lines: dict[int, Lines] = {}
    curved: dict[int, int] = {0: 0}  # nonlinear nodes on the longest way: up to one, going back says nothing new
    for position, node in enumerate(graph.nodes[1:], 1):
        curved[position] = max(curved[place] for place in node.inputs) + isinstance(node.op, Elementwise)
        if isinstance(node.op, Elementwise):
            source = node.inputs[0]
            if tighten and curved[source] > 1:
                ranges[source] = tightened(graph, source, node.op, inputs, ranges[source], lines)
            before[position] = ranges[source]
            lines[position] = lines_of(node.op, *ranges[source])
            linear.append(_through_lines(linear[source], lines[position]))
            ranges.append(interval_of(node, [ranges[source]]))
            continue
        linear.append(_through(node, [linear[place] for place in node.inputs]))
        plain = interval_of(node, [ranges[place] for place in node.inputs])
        found = linear[-1].range()
        ranges.append((torch.maximum(plain[0], found[0]), torch.minimum(plain[1], found[1])))
    return Ranges(inputs, before, lines)


def _through(node: Node, given: list[_Between]) -> _Between:
    op, one = node.op, given[0]
    if isinstance(op, Add):
        return _Between(
            sum((part.lower for part in given[1:]), start=one.lower),
            sum((part.lower_at for part in given[1:]), start=one.lower_at),
            sum((part.upper for part in given[1:]), start=one.upper),
            sum((part.upper_at for part in given[1:]), start=one.upper_at),
        )
    if isinstance(op, Concat):
        along = op.axis + 1
        return _Between(
            torch.cat([part.lower for part in given], dim=along + 1),
            torch.cat([part.lower_at for part in given], dim=along),
            torch.cat([part.upper for part in given], dim=along + 1),
            torch.cat([part.upper_at for part in given], dim=along),
        )
    if not isinstance(op, LinearOp):
        raise NotImplementedError(f"{type(op).__name__} has no rule")  # `supports` says so before any work
    if one.lower is one.upper or moves(op):
        lower, lower_at = _mapped(op, one.lower), op(one.lower_at)
        if one.lower is one.upper:
            return _Between(lower, lower_at, lower, lower_at)
        return _Between(lower, lower_at, _mapped(op, one.upper), op(one.upper_at))
    middle, gap = _mapped(op, (one.lower + one.upper) / 2), _mapped(op, (one.upper - one.lower) / 2, magnitude=True)
    at, gap_at = op((one.lower_at + one.upper_at) / 2), op.magnitude((one.upper_at - one.lower_at) / 2)
    return _Between(middle - gap, at - gap_at, middle + gap, at + gap_at)


def _mapped(op: LinearOp, coefficients: Tensor, *, magnitude: bool = False) -> Tensor:
    """The operator without its constant, on the coefficients of every input."""
    whole = coefficients.flatten(0, 1)
    found = op.magnitude(whole) if magnitude else op.apply(whole)
    return found.reshape(*coefficients.shape[:2], *found.shape[1:])


def _through_lines(given: _Between, lines: Lines) -> _Between:
    """The lower line of the lower function, and the upper line of the upper one; crosswise where a slope is negative."""

    def along(slope: Tensor, offset: Tensor | None, *, lower: bool) -> tuple[Tensor, Tensor]:
        straight, crossed = (given.lower, given.upper) if lower else (given.upper, given.lower)
        straight_at, crossed_at = (given.lower_at, given.upper_at) if lower else (given.upper_at, given.lower_at)
        if bool((slope >= 0).all()):
            a, at = slope[:, None] * straight, slope * straight_at
        else:
            up, down = slope.clamp_min(0), slope.clamp_max(0)
            a, at = up[:, None] * straight + down[:, None] * crossed, up * straight_at + down * crossed_at
        return a, at if offset is None else at + offset

    lower, lower_at = along(lines.lower_slope, lines.lower_offset, lower=True)
    upper, upper_at = along(lines.upper_slope, lines.upper_offset, lower=False)
    return _Between(lower, lower_at, upper, upper_at)
