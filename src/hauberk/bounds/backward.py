"""Backward linear bounding (CROWN): a linear function of some node becomes one of the input that is nowhere larger.

Zhang et al. 2018, arXiv:1811.00866; for general graphs Xu et al. 2020, arXiv:2002.12920. A row of the batch is one linear function of
one example: rows of many examples and of many neurons share each step, and no step knows which is which. Only lower bounds are
computed; an upper bound is the negative of the lower bound of the negative.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from hauberk._shapes import Rows, flat
from hauberk.bounds.inputs import slack_of
from hauberk.bounds.relaxations import Lines
from hauberk.bounds.windows import Windows
from hauberk.layered.graph import Graph, Node
from hauberk.layered.ops import Add, Concat, Conv, Elementwise, Linear, LinearOp, Scale

__all__ = ["Functions", "backward", "dense", "units"]

Functions: TypeAlias = Tensor | Windows
"""N linear functions of what a node gives: coefficients (N, *shape), or those of windows."""


def units(node: Node, index: Tensor, sign: Tensor) -> Functions:
    """sign[n] times the value at flat position index[n] of what the node gives."""
    if len(node.shape) == 3:
        return Windows.units(index, sign, node.shape)
    a = sign.new_zeros(len(index), flat(torch.empty(1, *node.shape, device="meta")).shape[1])
    a[torch.arange(len(index), device=index.device), index] = sign
    return a.reshape(-1, *node.shape)


def backward(
    graph: Graph,
    start: int,
    functions: Functions,
    rows: Rows | None,
    lines: Mapping[int, Lines],
    *,
    pulls: Mapping[int, Tensor] | None = None,
    seen: dict[int, Tensor] | None = None,
    until: int = 0,
) -> tuple[Functions, Tensor]:
    """Functions of the input, (N, *input shape), and (N,) constants, nowhere above the functions asked about.

    Args:
        start: the node whose values they are functions of.
        functions: as above.
        rows: (N,) the example whose lines hold for each; None where row n is example n.
        lines: for each nonlinear node, those of its input.
        pulls: for nonlinear nodes, (B, *shape) multipliers times signs of split constraints, added to the coefficients
            of their input (beta-CROWN, Wang et al. 2021, arXiv:2103.06624).
        until: stop at this node, through which all ways to the input lead, and give functions of it.
        seen: filled with the coefficients (N, *shape) of what each nonlinear node gives.
    """
    asked: dict[int, Functions] = {start: functions}
    constant = _weights(functions).new_zeros(len(_weights(functions)))
    for position in range(start, until, -1):
        if position not in asked:
            continue
        given, node = asked.pop(position), graph.nodes[position]
        shapes = [graph.nodes[place].shape for place in node.inputs]
        if isinstance(node.op, Elementwise):
            if seen is not None:
                seen[position] = dense(given)
            found, more = _through_lines(given, rows, lines[position])
            if pulls is not None and position in pulls:
                found = dense(found) + _owned(pulls[position], rows)
            back: Sequence[Functions] = [found]
            constant = constant + more
        elif isinstance(node.op, Add):
            back = [given] * len(node.inputs)
        elif isinstance(node.op, Concat):
            back = dense(given).split([shape[node.op.axis] for shape in shapes], dim=node.op.axis + 1)
        elif isinstance(node.op, LinearOp):
            given = _fitting(given, node.op)
            constant = constant + node.op.constant(_weights(given)) - _rounding(given, node.op)
            back = [_through_linear(given, node.op, shapes[0])]
        else:
            raise NotImplementedError(f"{type(node.op).__name__} has no rule")  # `supports` says so before any work
        for place, part in zip(node.inputs, back, strict=True):
            asked[place] = _sum(asked[place], part) if place in asked else part
    return asked.get(until, constant.new_zeros(len(constant), *graph.nodes[until].shape)), constant


def dense(functions: Functions) -> Tensor:
    """(N, *shape) coefficients."""
    return functions.dense() if isinstance(functions, Windows) else functions


def _weights(functions: Functions) -> Tensor:
    return functions.a if isinstance(functions, Windows) else functions


def _sum(one: Functions, other: Functions) -> Functions:
    if isinstance(one, Windows) and isinstance(other, Windows):
        together = one.plus(other)
        if together is not None:
            return together
    return dense(one) + dense(other)


def _owned(values: Tensor, rows: Rows | None) -> Tensor:
    """(N, *shape) of (B, *shape): those of each row's example; one example is left to broadcasting."""
    return values if rows is None or len(values) == 1 else values.index_select(0, rows)


def _fitting(given: Functions, op: LinearOp) -> Functions:
    """Windows where the operator treats every place of the plane alike, all coefficients elsewhere."""
    alike = isinstance(op, Conv) or (isinstance(op, Scale) and _per_channel(op.factor) and _per_channel(op.shift))
    return given if alike else dense(given)


def _rounding(given: Functions, op: LinearOp) -> Tensor | float:
    """What adding up the constant can be off by: large ones may cancel."""
    shift = op.bias if isinstance(op, Linear | Conv) else op.shift if isinstance(op, Scale) else None
    if shift is None or (not isinstance(shift, Tensor) and shift == 0):
        return 0.0
    largest = shift.detach().abs().max() if isinstance(shift, Tensor) else abs(shift)
    a = _weights(given)
    return slack_of(a.dtype) * largest * torch.linalg.vector_norm(flat(a), 1, dim=1)


def _per_channel(values: Tensor | float) -> bool:
    return not isinstance(values, Tensor) or values.numel() == 1 or tuple(values.shape[-2:]) == (1, 1)


def _through_linear(given: Functions, op: LinearOp, shape: tuple[int, ...]) -> Functions:
    if not isinstance(given, Windows):
        return op.transpose(given, shape)
    if isinstance(op, Conv):
        found = given.back_through(op, shape)
        return found if found.small else found.dense()
    return _with(given, op.transpose(given.a, shape))


def _with(windows: Windows, a: Tensor) -> Windows:
    return Windows(a, windows.where, windows.grid, windows.stride, windows.offset, windows.plane)


def _through_lines(given: Functions, rows: Rows | None, lines: Lines) -> tuple[Functions, Tensor]:
    """What multiplies by the lower line where the coefficient is positive and by the upper one where it is negative."""

    def owned(values: Tensor) -> Tensor:
        return given.of(values, rows) if isinstance(given, Windows) else _owned(values, rows)

    a = _weights(given)
    up = a.clamp_min(0)
    down = a - up
    constant = flat(down * owned(lines.upper_offset)).sum(dim=1)
    if lines.lower_offset is not None:
        constant = constant + flat(up * owned(lines.lower_offset)).sum(dim=1)
    found = up * owned(lines.lower_slope) + down * owned(lines.upper_slope)
    return (_with(given, found) if isinstance(given, Windows) else found), constant
