"""The exact minimum of a linear function of a small ReLU network's outputs over a box, by mixed-integer programming.

Variables: the inputs x in their box and, for each ReLU whose sign the ranges leave open, its value before, z, and after, a, with a
binary b that says on which side it is:

    z = (affine in x and the earlier a),  a >= 0,  a >= z,  a <= high b,  a <= z - low (1 - b),  low <= z <= high

ReLUs of known sign are affine and need no variable. The affine parts are found by computing the network on basis vectors, so that
every linear operator needs no rule of its own. HiGHS searches (through `scipy.optimize.milp`).

Source: Tjeng, Xiao, Tedrake 2019, "Evaluating robustness of neural networks with mixed integer programming", arXiv:1711.07356.

**Differs from the paper:** ranges come from linear bounds (`hauberk.bounds`) in place of intervals and linear programs; max pooling
is lowered to ReLUs and has no formulation of its own.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import milp
from scipy.sparse import coo_array, csr_array, vstack
from torch import Tensor

from hauberk._shapes import flat
from hauberk.bounds import Ranges
from hauberk.errors import DataError, ModelError, SettingError, ThreatError
from hauberk.layered.graph import Graph, Node
from hauberk.layered.ops import Add, Concat, Elementwise, LinearOp

__all__ = ["Milp", "Minimum", "Optimum"]

Constraint: TypeAlias = tuple[csr_array, NDArray[np.float64], NDArray[np.float64]]
Optimum: TypeAlias = Literal["optimal", "limit"]


@dataclass(frozen=True, eq=False)
class Minimum:
    """What the search found.

    Attributes:
        status: `optimal`, or `limit` where time ran out.
        bound: at most the minimum, up to the tolerances of the solver (1e-6 for each constraint and each binary, 1e-9 relative for
            the gap); -inf where time ran out before there was one.
        value: what the row is at `point`, computed by the network in float64, so at least the minimum; inf without a point.
        point: (n,) float64, the best input found; None where time ran out before there was one.
        open: how many ReLUs had an open sign, each a binary.
    """

    status: Optimum
    bound: float
    value: float
    point: NDArray[np.float64] | None
    open: int


@dataclass(frozen=True)
class Milp:
    """Finds min C y + d over the inputs of one example, for one row C. Cost: exponential in the open ReLUs; a hundred are many.

    Args:
        seconds: after which the search ends with what it has.
        most: numbers that the affine form of one layer may have, (inputs + open ReLUs + 1) * values; larger networks are refused.
    """

    seconds: float = 60.0
    most: int = 20_000_000

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise SettingError(f"seconds must be above 0, got {self.seconds}")

    def __call__(self, graph: Graph, ranges: Ranges, row: Tensor, offset: float = 0.0) -> Minimum:
        """The minimum of row . output + offset.

        Args:
            graph: lowered, with ReLU as its only function.
            ranges: of one example over a box, from `ranges_of` or `refined` for this graph; the tighter, the faster.
            row: (outputs,).
            offset: added.

        Raises:
            ModelError: a node is neither affine nor a ReLU, or the network is too large.
            ThreatError: the inputs are a ball of L2 or L1.
            DataError: several examples, a row of another size, or ranges that no input has.
        """
        _check(graph, ranges, row)
        program = _Program(graph.detach().to(dtype=torch.float64), ranges, self.most)
        value = program.output.flatten(1) @ row.detach().double().reshape(-1)
        cost = value[1:].numpy()
        solved = milp(
            cost,
            integrality=program.binary,
            bounds=(program.low, program.high),
            constraints=program.constraints(),
            options={"time_limit": self.seconds, "mip_rel_gap": 1e-9},
        )
        if solved.status == 2:
            raise DataError("no input of the box has these ranges; compute them for this network and this box")
        if solved.status not in (0, 1):
            raise ModelError(
                f"the solver gave up on this network ({solved.message}); scale its weights, or use `verify`"
            )
        dual = solved.mip_dual_bound if program.open else (solved.fun if solved.status == 0 else None)
        shift = float(value[0]) + offset
        bound = -math.inf if dual is None or not math.isfinite(dual) else float(dual) + shift
        status: Optimum = "optimal" if solved.status == 0 else "limit"
        if solved.x is None:
            return Minimum(status, bound, math.inf, None, program.open)
        point = np.clip(solved.x[: program.inputs], program.low[: program.inputs], program.high[: program.inputs])
        with torch.no_grad():
            y = program.graph(torch.from_numpy(point).reshape(1, *graph.input_shape)).reshape(-1)
        return Minimum(status, bound, float(y @ row.detach().double().reshape(-1)) + offset, point, program.open)


def _check(graph: Graph, ranges: Ranges, row: Tensor) -> None:
    for node in graph.nodes[1:]:
        if not (isinstance(node.op, Add | Concat | LinearOp) or _is_relu(node)):
            what = node.op.function if isinstance(node.op, Elementwise) else type(node.op).__name__
            raise ModelError(
                f"node {node.name!r}: {what} is no part of a mixed-integer linear program; expected affine operators and ReLU, see "
                "`hauberk.layered.lower`"
            )
    if ranges.inputs.ball:
        raise ThreatError(f"mixed-integer linear programs know boxes, got a ball of {ranges.inputs.norm}; use linf")
    if len(ranges.inputs) != 1:
        raise DataError(f"expected the ranges of one example, got {len(ranges.inputs)}; take one with `ranges.take`")
    if row.numel() != math.prod(graph.output_shape):
        raise DataError(f"the row has {row.numel()} numbers, the network {math.prod(graph.output_shape)} outputs")


def _is_relu(node: Node) -> bool:
    return isinstance(node.op, Elementwise) and node.op.function == "relu"


class _Program:
    """The variables, inputs first, and what holds between them.

    The affine form of a node is a tensor (1 + variables so far, *shape): what it gives where all variables are 0, then what
    each variable adds.
    """

    def __init__(self, graph: Graph, ranges: Ranges, most: int) -> None:
        self.graph = graph
        self.inputs = math.prod(graph.input_shape)
        self.low = flat(ranges.inputs.low).double().reshape(-1).numpy().copy()
        self.high = flat(ranges.inputs.high).double().reshape(-1).numpy().copy()
        self.binary = np.zeros(self.inputs)
        self.rows: list[csr_array] = []
        self.least: list[NDArray[np.float64]] = []
        self.largest: list[NDArray[np.float64]] = []
        self.open = 0
        forms: list[Tensor] = []
        for position, node in graph:
            variables, values = 1 + len(self.low), math.prod(node.shape)
            if variables * values > most:
                raise ModelError(
                    f"node {node.name!r} has {values} values of {variables - 1} variables, more than the {most} numbers that a program "
                    "may need for one node; raise `most`, or use `verify`"
                )
            given = [self._wide(forms[place]) for place in node.inputs]
            if not node.inputs:
                forms.append(_basis(self.inputs).reshape(-1, *graph.input_shape))
            elif _is_relu(node):
                forms.append(self._relu(given[0], *ranges.before[position]))
            elif isinstance(node.op, LinearOp):
                # the operator with its constant for the first row, without it for what variables add
                forms.append(torch.cat((node.op(given[0][:1]), node.op.apply(given[0][1:]))))
            else:
                forms.append(node.op(*given))
        self.output = self._wide(forms[-1])

    def constraints(self) -> list[Constraint]:
        """All that was collected: matrix, least and largest values; none where no ReLU is open."""
        if not self.rows:
            return []
        for part, least in zip(self.rows, self.least, strict=True):
            part.resize(len(least), len(self.low))
        return [(csr_array(vstack(self.rows)), np.concatenate(self.least), np.concatenate(self.largest))]

    def _wide(self, form: Tensor) -> Tensor:
        """Rows of zeros for the variables that came since."""
        return F.pad(form, (*(0, 0) * (form.ndim - 1), 0, 1 + len(self.low) - len(form)))

    def _relu(self, form: Tensor, low: Tensor, high: Tensor) -> Tensor:
        before = form.flatten(1)
        least, most = low.detach().double().reshape(-1), high.detach().double().reshape(-1)
        after = before * (least >= 0)
        unsure = ((least < 0) & (most > 0)).nonzero()[:, 0]
        count, start = len(unsure), len(self.low)
        if not count:
            return after.reshape(form.shape)
        self.open += count
        below, above = least[unsure].numpy(), most[unsure].numpy()
        zero, one, free = np.zeros(count), np.ones(count), np.full(count, np.inf)
        # the new variables: all z, all a, all b
        self.low = np.concatenate((self.low, below, zero, zero))
        self.high = np.concatenate((self.high, above, above, one))
        self.binary = np.concatenate((self.binary, zero, zero, one))
        width = len(self.low)
        z, a, b = (_columns(start + part * count, count, width) for part in range(3))
        affine = csr_array(before[1:, unsure].T.numpy())
        affine.resize(count, width)
        constant = before[0, unsure].numpy()
        self._hold(z - affine, constant, constant)
        self._hold(a - z, zero, free)
        self._hold(a - b * above[:, None], -free, zero)
        self._hold(a - z - b * below[:, None], -free, -below)
        form = self._wide(after)
        form[1 + start + count + torch.arange(count), unsure] = 1.0
        return form.reshape(-1, *low.shape[1:])

    def _hold(self, rows: csr_array, least: NDArray[np.float64], most: NDArray[np.float64]) -> None:
        self.rows.append(csr_array(rows))
        self.least.append(least)
        self.largest.append(most)


def _basis(size: int) -> Tensor:
    """(1 + size, size): zeros, then the unit vectors."""
    return torch.cat((torch.zeros(1, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)))


def _columns(start: int, count: int, width: int) -> csr_array:
    """(count, width) the variables from `start` on, one a row."""
    rows = np.arange(count)
    return csr_array(coo_array((np.ones(count), (rows, start + rows)), shape=(count, width)))
