"""What proofs about a victim's examples are made of: its network as a graph, and the margins that must stay above 0 in a ball.

    least_z  f_y(z) - f_c(z) > 0    for every z of the ball and the box, and every other class c

A method bounds the left side from below, for all examples of a batch at once; branch and bound takes one example at a time.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hauberk._shapes import Batch, Labels, PerExample
from hauberk.bounds import Inputs, Ranges, lower_bounds, ranges_of, require_bounds
from hauberk.bounds.optimise import optimised
from hauberk.bounds.refine import refined
from hauberk.certify._falsify import Witness
from hauberk.certify._property import Case, Property
from hauberk.certify.branch_and_bound import BranchAndBound
from hauberk.errors import ModelError, SettingError, ThreatError
from hauberk.layered.fold import folded
from hauberk.layered.graph import Graph
from hauberk.layered.lower import lowered
from hauberk.threat import Ball, Norm, ThreatModel
from hauberk.victims import Victim
from hauberk.victims.layered import layered

__all__ = ["CHEAP", "METHODS", "Prover", "methods_to"]

CHEAP = ("crown_ibp", "crown", "alpha_crown")
"""Methods that bound many examples at once, from cheap to tight."""
METHODS = ("auto", *CHEAP, "branch_and_bound")
"""How far to go; `auto` goes all the way."""
_BISECTIONS = 14
_LITTLE = 1e-3
"""Up to which part of the largest score a positive bound is computed again in float64."""
_TIE = 1e-4
"""How near two scores are, in parts of the largest, where the graph and the victim may round to different decisions."""


def methods_to(last: str) -> tuple[str, ...]:
    """The methods up to this one.

    Raises:
        SettingError: none has this name.
    """
    if last not in METHODS:
        raise SettingError(f"the method is one of {', '.join(METHODS)}, got {last!r}")
    return METHODS[1:] if last == "auto" else METHODS[1 : METHODS.index(last) + 1]


@dataclass(frozen=True, eq=False)
class Prover:
    """Bounds the margins of a victim's examples. Works on the CPU.

    Attributes:
        victim: whose decisions are proven.
        graph: its network, preprocessing included, in operators that can be bounded.
    """

    victim: Victim
    graph: Graph

    @classmethod
    def of(cls, victim: Any, shape: Sequence[int]) -> "Prover":
        """The prover of a victim for examples of this shape.

        Raises:
            AccessError: the victim cannot be looked into.
            ModelError: a node of the network is not known, or cannot be bounded.
        """
        graph = lowered(folded(layered(victim, shape)))
        require_bounds(graph)
        return cls(victim, graph)

    @staticmethod
    def require_ball(threat: ThreatModel) -> None:
        """Refuse a threat that is no ball which the bounds can be taken over.

        Raises:
            ThreatError: L0, or points that parameters draw.
        """
        if threat.chart is not None or threat.norm is Norm.L0:
            raise ThreatError(f"proofs are about balls of linf, l2 and l1, for example linf:0.1, got {threat}")

    def check(self, x: Batch, answered: Labels) -> None:
        """Refuse a graph that decides otherwise than the victim did, where it is no matter of rounding. One forward of the graph.

        Args:
            x, answered: examples and the victim's decisions about them.

        Raises:
            ModelError: it does: a proof would speak of another model.
        """
        with torch.no_grad():
            scores = self.graph(x.cpu()).flatten(1)
        own = scores.gather(1, answered.cpu().clamp(0, scores.shape[1] - 1)[:, None])[:, 0]
        behind = scores.amax(dim=1) - own > _TIE * scores.abs().amax(dim=1)
        if bool(behind.any()):
            raise ModelError(
                f"{self.victim.name!r} and the network read from it disagree on {int(behind.sum())} of {len(x)} examples; a proof would "
                "speak of another model: please report it"
            )

    def _spec(self, y: Labels, target: Labels | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(B, S, *output) the margins of the true class over each other one, or over the target, and (B, S, classes) as rows."""
        classes = math.prod(self.graph.output_shape)
        eye = torch.eye(classes, dtype=dtype)
        if target is None:
            every = torch.arange(classes - 1).expand(len(y), -1)
            others = every + (every >= y[:, None])
        else:
            others = target[:, None]
        rows = eye[y][:, None] - eye[others]
        return rows.reshape(*rows.shape[:2], *self.graph.output_shape), rows

    def least(self, x: Batch, y: Labels, region: Ball, name: str, target: Labels | None = None) -> PerExample:
        """(B,) a lower bound of the smallest margin in the region: above 0, no point of it leaves y, or reaches the target.

        Bounds that are positive by little are computed again in float64, and the smaller one counts.

        Args:
            x, y: on the CPU; y are the true classes.
            name: of `CHEAP`. A later one includes those before it.
            target: (B,) the one class that counts, which is not the true one.
        """
        least = self._least(self.graph, x, y, region, name, target)
        with torch.no_grad():
            little = _LITTLE * self.graph(x).flatten(1).abs().amax(dim=1)
        rows = ((least > 0) & (least <= little)).nonzero()[:, 0]
        if len(rows) and x.dtype != torch.float64:
            part = None if target is None else target[rows]
            again = self._least(self._double, x[rows].double(), y[rows], _widened(region.take(rows)), name, part)
            least[rows] = torch.minimum(least[rows], again.to(least))
        return least

    @cached_property
    def _double(self) -> Graph:
        return self.graph.to(dtype=torch.float64)

    def _least(self, graph: Graph, x: Batch, y: Labels, region: Ball, name: str, target: Labels | None) -> PerExample:
        ranges: Ranges = ranges_of(graph, Inputs.of(region, x), "ibp" if name == "crown_ibp" else "crown")
        spec, _ = self._spec(y, target, x.dtype)
        least = lower_bounds(graph, ranges, spec)
        if name == "alpha_crown":
            rows, which = (least <= 0).nonzero(as_tuple=True)
            if len(rows):
                found = optimised(graph, ranges.take(rows), spec[rows, which], steps=10, rate=0.3).lower
                least[rows, which] = torch.maximum(least[rows, which], found)
        return least.amin(dim=1)

    def radii(self, x: Batch, y: Labels, norm: Norm, name: str, beyond: PerExample) -> PerExample:
        """(B,) float64, the largest radii that this method proves, each found by bisection. Cost: 14 bounds.

        Args:
            x, y: examples that are classified as y, on the CPU.
            beyond: (B,) radii that are certainly too large, or as large as any change of x can be.
        """
        low, high = torch.zeros_like(beyond, dtype=torch.float64), beyond.double()
        for _ in range(_BISECTIONS):
            trial = torch.where(low == 0, high / 2, (low + high) / 2)
            least = self.least(x, y, Ball(norm, trial.to(x.dtype), self.victim.bounds), name)
            low, high = torch.where(least > 0, trial, low), torch.where(least > 0, high, trial)
        return low.to(x.dtype).double()  # the radius that was bounded

    def farthest(self, x: Batch, norm: Norm) -> PerExample:
        """(B,) float64, a size that no change of an example within the bounds exceeds."""
        low, high = self.victim.bounds
        return norm.size(torch.full_like(x, high - low)).double()

    def searched(
        self,
        x: Batch,
        y: Labels,
        region: Ball,
        late: Callable[[], bool],
        breaks: Callable[[Batch], bool],
        target: Labels | None = None,
    ) -> tuple[bool, Tensor | None]:
        """Branch and bound on one example until it is `late`: whether it is proven, and else perhaps a point that breaks it.

        Args:
            x, y, target: of one example, (1, ...), on the CPU.
            breaks: decides about a point (1, *shape) of the region that the graph decides wrongly.
        """
        graph = self.graph
        inputs = Inputs.of(region, x)
        ranges = refined(graph, ranges_of(graph, inputs), late=late)
        spec, rows = self._spec(y, target, x.dtype)
        least = lower_bounds(graph, ranges, spec)[0]
        low, high = (side.double().flatten().numpy() for side in (inputs.low, inputs.high))
        asked = Property(tuple(Case(low, high, row[None].double().numpy(), np.zeros(1)) for row in rows[0]))

        def confirm(flat: NDArray[np.float32]) -> bool:
            point = torch.from_numpy(flat).to(x.dtype).reshape(x.shape)
            return bool(region.contains(point, x)[0]) and breaks(point)

        stacked = asked.by_box()[0]
        witness = Witness(graph.to(dtype=torch.float32), asked, confirm)
        for place in least.argsort(descending=True).tolist():
            if float(least[place]) > 0:
                continue
            verdict = BranchAndBound()(graph, ranges, rows[0, place], 0.0, stacked, witness, late=late)
            if verdict.status == "violated" and verdict.witness is not None:
                return False, torch.from_numpy(verdict.witness).to(x.dtype).reshape(x.shape[1:])
            if verdict.status != "holds":
                return False, None
        return True, None


def before(until: float, late: Callable[[], bool]) -> Callable[[], bool]:
    """Late by this clock, or by the time `until` of `time.perf_counter`."""
    return lambda: late() or time.perf_counter() > until


def _widened(region: Ball) -> Ball:
    """The same ball; what its radius is in float32 stays."""
    return replace(region, radius=region.radius.double()) if isinstance(region.radius, Tensor) else region
