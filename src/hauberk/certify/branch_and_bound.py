"""Branch and bound over ReLUs: the sign of an open ReLU is fixed either way, until every part is proven or one is broken.

A part ("domain") is a list of signs. Its bound is that of one pass backward with the fixed ReLUs linear, the slopes of the open ones
and a multiplier for every fixed sign optimised together (beta-CROWN, Wang et al. 2021, arXiv:2103.06624); many domains are bounded at
once, the worst first. The ReLU to split is chosen among a few candidates by bounding both halves of each quickly (FSB, De Palma et al.
2021, arXiv:2104.06718); candidates are those whose relaxation costs the bound most (BaBSR, Bunel et al. 2020, JMLR 21).

**Differs from the papers:** candidates are ranked by what their upper line alone costs, and more of them are bounded than is usual: on
nets of two hidden layers a ranking by both lines, or three candidates, took ten times as many domains. The ranges behind a split
are bounded again for every domain (`tighten`), in one pass without multipliers. A domain whose signs are all fixed and whose bound is
still open is given to a linear program (HiGHS), whose optimum decides it up to its tolerance of 1e-7 or is a candidate for a
counterexample.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from hauberk.bounds import Ranges
from hauberk.bounds.crown import bound_of, tightened
from hauberk.bounds.interval import keeps_boxes
from hauberk.bounds.optimise import Optimised, kinks, optimised
from hauberk.bounds.relaxations import relu_lines
from hauberk.certify._falsify import Witness
from hauberk.certify._open_relus import found_for
from hauberk.certify._property import Stacked, Status, Verdict
from hauberk.certify._relu_search import relu_search
from hauberk.layered.graph import Graph
from hauberk.layered.ops import Elementwise

__all__ = ["BranchAndBound"]


@dataclass(frozen=True, eq=False)
class _Domain:
    """One part: its bound, and what that was reached with. `splits` are flat positions over all ReLUs, from 1; negative where the input
    is <= 0."""

    bound: float
    splits: tuple[int, ...]
    slopes: Tensor
    multipliers: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class BranchAndBound:
    """Decides one row of a property, C y + d > 0 over a region. Cost: exponential in the ReLUs that matter; each domain is about
    3 * `steps` passes backward.

    Args:
        batch: domains bounded at a time; fewer where many ReLUs are open.
        steps: of the optimiser, for each domain.
        root_steps: the same for the whole problem.
        rate: of the optimiser.
        candidates: ReLUs tried for each split.
        tighten: bound the open values behind a split again, with the slopes of its parent.
        many: domains kept, past which those nearest to a proof are taken first, so that their number does not grow.
        most: domains kept at a time; more end the search.
        domains: bounded in all; more end the search. None: no limit.
    """

    batch: int = 256
    steps: int = 6
    root_steps: int = 40
    rate: float = 0.1
    candidates: int = 8
    tighten: bool = True
    many: int = 5_000
    most: int = 50_000
    domains: int | None = None

    def __call__(
        self,
        graph: Graph,
        ranges: Ranges,
        row: Tensor,
        offset: float,
        stacked: Stacked,
        witness: Witness,
        *,
        late: Callable[[], bool] = lambda: False,
    ) -> Verdict:
        """The verdict of one `row`, (outputs,), over the region of one example.

        Args:
            graph, ranges: lowered; of that example alone, (1, ...).
            stacked: the cases it is of, for counterexamples.
        """
        relus = found_for(graph, ranges, row[None], torch.tensor([offset], dtype=torch.float64))
        if relus is not None:
            return relu_search(self, relus, graph, stacked, witness, late)
        return _Search(self, graph, ranges, row, offset, stacked, witness, late).run()


_RELU = Elementwise("relu")
_OPEN_VALUES = 2**15
"""ReLUs of open sign in a batch: as many domains as can be split in a second or two, so that limits of time are kept."""


class _Search:
    """The state of one call."""

    def __init__(
        self,
        settings: BranchAndBound,
        graph: Graph,
        ranges: Ranges,
        row: Tensor,
        offset: float,
        stacked: Stacked,
        witness: Witness,
        late: Callable[[], bool],
    ) -> None:
        self.settings, self.graph, self.ranges, self.late = settings, graph, ranges, late
        self.row, self.offset, self.stacked, self.witness = row, offset, stacked, witness
        self.places = [place for place in kinks(graph) if place in ranges.before]
        self.sizes = [ranges.before[place][0].numel() for place in self.places]
        self.exact = keeps_boxes(graph) if not ranges.inputs.ball else {}
        self.starts = [0, *itertools.accumulate(self.sizes)]
        self.bounded = 0

    def run(self) -> Verdict:
        began = time.perf_counter()

        def verdict(status: Status, found: NDArray[np.float32] | None, bound: float) -> Verdict:
            return Verdict(status, "branch_and_bound", found, time.perf_counter() - began, self.bounded, bound)

        low, high = self._root()
        self.open = max(1, int(((low < 0) & (high > 0)).sum()))
        root = self._bounded([()], low, high, None, None, self.settings.root_steps)
        if (found := self._look(root)) is not None:
            return verdict("violated", found, float(root.lower))
        if not self.places:
            return verdict("unknown", None, float(root.lower))  # a linear network: its bound is exact up to rounding
        pool: list[_Domain] = []
        self._keep(pool, [()], low, high, root)
        while pool:
            if self.late() or len(pool) > self.settings.most or self.bounded > (self.settings.domains or math.inf):
                return verdict("unknown", None, min(domain.bound for domain in pool))
            pool.sort(key=lambda domain: domain.bound)
            size = max(1, min(self.settings.batch, _OPEN_VALUES // self.open))
            if len(pool) > self.settings.many:
                batch, pool = pool[-size:], pool[:-size]
            else:
                batch, pool = pool[:size], pool[size:]
            children, parents, leaves = self._split(batch)
            for leaf in leaves:
                status, found = self._leaf(leaf)
                if status != "holds":
                    return verdict(status, found, leaf.bound)
            if not children:
                continue
            slopes = torch.stack([batch[parent].slopes for parent in parents])
            multipliers = torch.stack([batch[parent].multipliers for parent in parents])
            low, high = self._narrowed(
                children,
                torch.stack([batch[parent].low for parent in parents]),
                torch.stack([batch[parent].high for parent in parents]),
                slopes,
            )
            result = self._bounded(children, low, high, slopes, multipliers, self.settings.steps)
            if (found := self._look(result)) is not None:
                return verdict("violated", found, float(result.lower.min()))
            self._keep(pool, children, low, high, result)
        return verdict("holds", None, 0.0)

    def _root(self) -> tuple[Tensor, Tensor]:
        """(1, all ReLUs) the root's ranges."""
        sides = [[self.ranges.before[place][side].flatten(1) for place in self.places] for side in (0, 1)]
        return torch.cat([self.row.new_zeros(1, 0), *sides[0]], dim=1), torch.cat(
            [self.row.new_zeros(1, 0), *sides[1]], dim=1
        )

    def _flat(self, values: Mapping[int, Tensor], count: int) -> Tensor:
        parts = [
            values[place].reshape(count, size) if place in values else torch.zeros(count, size, dtype=self.row.dtype)
            for place, size in zip(self.places, self.sizes, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def _unflat(self, values: Tensor) -> dict[int, Tensor]:
        parts = values.split(self.sizes, dim=1) if self.sizes else ()
        return {
            place: part.reshape(len(values), *self.ranges.before[place][0].shape[1:])
            for place, part in zip(self.places, parts, strict=True)
        }

    def _signs(self, splits: list[tuple[int, ...]]) -> Tensor:
        """(D, all ReLUs) 1 where the input is >= 0, -1 where it is <= 0, 0 where it is open."""
        signs = torch.zeros(len(splits), self.starts[-1], dtype=self.row.dtype)
        rows = [domain for domain, fixed in enumerate(splits) for _ in fixed]
        flat = torch.tensor([place for fixed in splits for place in fixed], dtype=torch.int64)
        signs[rows, flat.abs() - 1] = flat.sign().to(signs.dtype)
        return signs

    def _ranges(self, low: Tensor, high: Tensor) -> Ranges:
        """Those of some domains."""
        lows, highs = self._unflat(low), self._unflat(high)
        before = {place: (lows[place], highs[place]) for place in self.places}
        lines = dict(self.ranges.lines) | {place: relu_lines(*pair) for place, pair in before.items()}
        return Ranges(self.ranges.inputs, before, lines)

    def _bounded(
        self,
        splits: list[tuple[int, ...]],
        low: Tensor,
        high: Tensor,
        slopes: Tensor | None,
        multipliers: Tensor | None,
        steps: int,
    ) -> Optimised:
        count = len(splits)
        self.bounded += count
        signs = self._signs(splits)
        return optimised(
            self.graph,
            self._ranges(low, high),
            self.row.expand(count, -1).reshape(count, *self.graph.output_shape),
            offset=torch.full((count,), self.offset, dtype=self.row.dtype),
            slopes=None if slopes is None else self._unflat(slopes),
            signs=self._unflat(signs),
            multipliers=None if multipliers is None else self._unflat(multipliers),
            steps=steps,
            rate=self.settings.rate,
        )

    def _look(self, result: Optimised) -> NDArray[np.float32] | None:
        """A counterexample among the inputs where the linear bounds are least."""
        points = result.least
        with torch.no_grad():
            values = self.graph(points).flatten(1) @ self.stacked.C.to(points.dtype).T + self.stacked.d.to(points.dtype)
        return self.witness.among(self.stacked, points.flatten(1), values)

    def _narrowed(
        self, splits: list[tuple[int, ...]], low: Tensor, high: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The parents' ranges with the last sign fixed, and what follows from it for the layers behind."""
        signs = self._signs(splits)
        low, high = torch.where(signs > 0, low.clamp_min(0), low), torch.where(signs < 0, high.clamp_max(0), high)
        if not self.settings.tighten:
            return low, high
        lows, highs, own = self._unflat(low), self._unflat(high), self._unflat(slopes)
        inputs = self.ranges.inputs.take(torch.zeros(len(splits), dtype=torch.int64))
        lines = {}
        for place in self.places:
            node = self.graph.nodes[place]
            if not self.exact.get(node.inputs[0], False):
                lows[place], highs[place] = tightened(
                    self.graph, node.inputs[0], _RELU, inputs, (lows[place], highs[place]), lines
                )
            lines[place] = relu_lines(lows[place], highs[place], own[place])
        return self._flat(lows, len(splits)), self._flat(highs, len(splits))

    def _keep(
        self, pool: list[_Domain], splits: list[tuple[int, ...]], low: Tensor, high: Tensor, result: Optimised
    ) -> None:
        count = len(splits)
        slopes, multipliers = self._flat(result.slopes, count), self._flat(result.multipliers, count)
        for number, bound in enumerate(result.lower.tolist()):
            if not bound > 0:
                pool.append(
                    _Domain(bound, splits[number], slopes[number], multipliers[number], low[number], high[number])
                )

    def _split(self, batch: list[_Domain]) -> tuple[list[tuple[int, ...]], list[int], list[_Domain]]:
        """The halves of each domain, whose they are, and the domains that have no open ReLU left."""
        tried = self.settings.candidates
        signs = self._signs([domain.splits for domain in batch])
        slopes = torch.stack([domain.slopes for domain in batch])
        multipliers = torch.stack([domain.multipliers for domain in batch])
        low, high = (torch.stack(sides) for sides in zip(*((d.low, d.high) for d in batch), strict=True))
        ranges = self._ranges(low, high)
        score = self._scores(ranges, signs, slopes, multipliers)
        best = score.topk(min(tried, score.shape[1]), dim=1)
        leaves = [domain for number, domain in enumerate(batch) if float(best.values[number, 0]) <= 0]
        going = (best.values[:, 0] > 0).nonzero()[:, 0]
        if not len(going):
            return [], [], leaves
        options = best.indices[going]
        if tried > 1:
            options = self._quickly(
                signs[going], low[going], high[going], slopes[going], multipliers[going], options, best.values[going]
            )
        children, parents = [], []
        for number, place in zip(going.tolist(), options[:, 0].tolist(), strict=True):
            for sign in (place + 1, -place - 1):
                children.append((*batch[number].splits, sign))
                parents.append(number)
        return children, parents, leaves

    def _scores(self, ranges: Ranges, signs: Tensor, slopes: Tensor, multipliers: Tensor) -> Tensor:
        """(D, all ReLUs) how much of the bound the relaxation of each open ReLU costs at most; 0 only where the sign is fixed."""
        seen: dict[int, Tensor] = {}
        self._pass(ranges, signs, slopes, multipliers, seen)
        lines = {place: relu_lines(*ranges.before[place], slope) for place, slope in self._unflat(slopes).items()}
        found = {}
        for place in self.places:
            (low, high), a = ranges.before[place], seen.get(place)
            if a is None:
                found[place] = torch.zeros_like(low)
                continue
            above = lines[place].upper_offset * a.clamp_max(0).abs()
            slope = lines[place].lower_slope
            below = torch.maximum((1 - slope) * high, -slope * low) * a.clamp_min(0)
            found[place] = torch.where((low < 0) & (high > 0), above + 1e-3 * below + 1e-20, 0.0)
        return self._flat(found, len(signs))

    def _pass(
        self, ranges: Ranges, signs: Tensor, slopes: Tensor, multipliers: Tensor, seen: dict[int, Tensor] | None = None
    ) -> Tensor:
        """(D,) bounds of one pass with these slopes and multipliers."""
        count = len(signs)
        lines = dict(ranges.lines)
        for place, slope in self._unflat(slopes).items():
            lines[place] = relu_lines(*ranges.before[place], slope)
        with torch.no_grad():
            found, _ = bound_of(
                self.graph,
                len(self.graph.nodes) - 1,
                self.row.expand(count, -1).reshape(count, *self.graph.output_shape),
                None,
                ranges.inputs,
                lines,
                pulls=self._unflat(-signs * multipliers),
                seen=seen,
            )
        return found

    def _quickly(
        self,
        signs: Tensor,
        low: Tensor,
        high: Tensor,
        slopes: Tensor,
        multipliers: Tensor,
        options: Tensor,
        values: Tensor,
    ) -> Tensor:
        """(D, 1) the option whose worse half has the best bound, one pass for each half."""
        count, tried = options.shape
        least = signs.new_full((count, tried), -torch.inf)
        for option in range(tried):
            halves = []
            for sign in (1.0, -1.0):
                at = options[:, option, None]
                ranges = self._ranges(
                    low.scatter(1, at, low.gather(1, at).clamp_min(0)) if sign > 0 else low,
                    high if sign > 0 else high.scatter(1, at, high.gather(1, at).clamp_max(0)),
                )
                halves.append(self._pass(ranges, signs.scatter(1, at, sign), slopes, multipliers))
            worse, better = torch.minimum(*halves), torch.maximum(*halves)
            least[:, option] = worse + 0.1 * better.clamp_max(0)
        least = torch.where(values > 0, least, -torch.inf)
        return options.gather(1, least.argmax(dim=1, keepdim=True))

    def _leaf(self, leaf: _Domain) -> tuple[Status, NDArray[np.float32] | None]:
        """A domain without open ReLUs, by a linear program: the network is an affine function on it."""
        on = {place: (low >= 0).to(torch.float64) for place, low in self._unflat(leaf.low[None]).items()}
        graph, inputs = self.graph.to(dtype=torch.float64), self.ranges.inputs
        size = inputs.low[0].numel()
        basis = torch.cat((torch.zeros(1, size), torch.eye(size))).to(torch.float64)
        found: list[Tensor] = []
        for position, node in graph:
            given = [found[place] for place in node.inputs]
            if position == 0:
                found.append(basis.reshape(-1, *graph.input_shape))
            else:
                found.append(given[0] * on[position] if position in on else node.op(*given))
        affine = found[-1].flatten(1) @ self.row.to(torch.float64)
        fixed = torch.tensor(leaf.splits, dtype=torch.int64)
        before = torch.cat([found[graph.nodes[place].inputs[0]].flatten(1) for place in self.places], dim=1)
        before = before[:, fixed.abs() - 1] * fixed.sign()
        solved = linprog(
            (affine[1:] - affine[0]).numpy(),
            A_ub=-(before[1:] - before[0]).T.numpy(),
            b_ub=before[0].numpy(),
            bounds=torch.stack((inputs.low.flatten(), inputs.high.flatten()), dim=1).double().numpy(),
            method="highs",
        )
        if solved.status == 2:  # no input has these signs
            return "holds", None
        if solved.status != 0:
            return "unknown", None
        if solved.fun + float(affine[0]) + self.offset > 1e-6:
            return "holds", None
        point = torch.from_numpy(solved.x)[None]
        witness = self.witness.among(self.stacked, point)
        return ("unknown", None) if witness is None else ("violated", witness)
