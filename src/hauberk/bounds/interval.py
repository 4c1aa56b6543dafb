"""Interval bound propagation: the range of each value, from the ranges of what it is computed from.

Gowal et al. 2018, arXiv:1810.12715. Cost: two passes.
"""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from hauberk.bounds.inputs import slack_of
from hauberk.bounds.relaxations import can_bound, image
from hauberk.layered.graph import Graph, Node
from hauberk.layered.ops import (
    Add,
    AvgPool,
    Concat,
    Elementwise,
    LinearOp,
    Mean,
    Pad,
    Permute,
    Pick,
    Reshape,
    Scale,
    moves,
)

__all__ = ["Range", "interval_of", "intervals", "keeps_boxes", "unbounded"]

Range: TypeAlias = tuple[Tensor, Tensor]
"""(B, *shape) smallest and largest values."""


def unbounded(node: Node) -> str | None:
    """Why a node cannot be bounded, or None where it can."""
    if isinstance(node.op, Add | Concat | LinearOp) or not node.inputs:
        return None
    if isinstance(node.op, Elementwise):
        return None if can_bound(node.op) else f"{node.op.function} has no linear bounds here"
    return f"{type(node.op).__name__} has no linear bounds here"


def interval_of(node: Node, inputs: list[Range], *, slack: bool = True) -> Range:
    """The range of a node from the ranges of its inputs; `slack` widens it by what rounding can do. Overflow gives infinite ranges."""
    low, high = _image(node, inputs, slack=slack)
    return torch.where(low.isnan(), -torch.inf, low), torch.where(high.isnan(), torch.inf, high)


def _image(node: Node, inputs: list[Range], *, slack: bool) -> Range:
    (low, high), op = inputs[0], node.op
    if isinstance(op, LinearOp):
        if moves(op):
            adds = slack and isinstance(op, Mean | AvgPool)
            reach = slack_of(low.dtype) * op.apply(_largest(low, high)) if adds else 0.0
            return op.apply(low) - reach, op.apply(high) + reach
        middle, half = (low + high) / 2, (high - low) / 2
        center, reach = op(middle), op.magnitude(half)
        if slack:
            reach = reach + slack_of(low.dtype) * (op.magnitude(middle.abs()) + reach + center.abs())
        return center - reach, center + reach
    if isinstance(op, Add):
        magnitude = sum((_largest(*part) for part in inputs), start=torch.zeros_like(low))
        reach = slack_of(low.dtype) * magnitude if slack else 0.0
        least, most = (sum((part[side] for part in inputs[1:]), start=inputs[0][side]) for side in (0, 1))
        return least - reach, most + reach
    if isinstance(op, Concat):
        return op(*(part[0] for part in inputs)), op(*(part[1] for part in inputs))
    if isinstance(op, Elementwise):
        return image(op, low, high)
    raise NotImplementedError(f"{type(op).__name__} has no rule")  # `unbounded` says so before any work


def _largest(low: Tensor, high: Tensor) -> Tensor:
    """The largest magnitude within each range."""
    return torch.maximum(low.abs(), high.abs())


def intervals(graph: Graph, low: Tensor, high: Tensor, *, slack: bool = True) -> list[Range]:
    """The ranges of all nodes for inputs in the box from low to high, (B, *input shape)."""
    found: list[Range] = [(low, high)]
    for node in graph.nodes[1:]:
        found.append(interval_of(node, [found[place] for place in node.inputs], slack=slack))
    return found


def keeps_boxes(graph: Graph) -> Mapping[int, bool]:
    """For each node, whether its range from a box of inputs is exact: at most one operator so far mixes values."""
    mixed: dict[int, int] = {0: 0}
    for position, node in graph:
        if not node.inputs:
            continue
        before = max(mixed[place] for place in node.inputs)
        own = not isinstance(node.op, Scale | Reshape | Permute | Pick | Pad)
        bad = isinstance(node.op, Elementwise | Add) or len(node.inputs) > 1
        mixed[position] = before + (2 if bad else int(own))
    return {position: count <= 1 for position, count in mixed.items()}
