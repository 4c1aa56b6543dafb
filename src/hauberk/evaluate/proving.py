"""Proofs in an evaluation, so that each example has both ends: proven <= true <= attacked.

Before the attacks, what is cheap: an example that is proven costs no query. After them, branch and bound on what neither proof nor
attack has decided. For the first examples of the data also both ends at any radius, see `ends.py`.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels, PerExample
from hauberk.blocks.judge import judge
from hauberk.certify.prover import CHEAP, METHODS, Prover, before, methods_to
from hauberk.data import Chunk
from hauberk.errors import SettingError
from hauberk.evaluate.ends import both_ends, charge
from hauberk.evaluate.found import Found
from hauberk.threat import Ball, Goal, Norm, Targeted, ThreatModel
from hauberk.victims import Meter, Victim

__all__ = ["CERTIFY", "SANDWICHED", "Proofs", "Proving"]

CERTIFY = (*METHODS, "off")
"""What `certify` can be."""
SANDWICHED = 50
"""Examples of the data that get both ends at any radius."""
_TOGETHER = 100
"""Examples bounded together."""
_FIRST_SLICE = 2.0
"""Seconds that branch and bound gives to each example at first; four times as many in each further round."""


@dataclass(eq=False)
class Proofs:
    """What is proven of a chunk's examples; on the CPU, one entry for each.

    Attributes:
        radii: of the threat.
        radius: (n,) float64, the largest of them within which the goal is proven out of reach; 0 where none is.
        method: for each example, what proved it at each radius of the threat where something did.
        lower: (n,) float64, the largest radius at all for which that is so.
        estimate: (n,) float64, CLEVER's estimate of the smallest change; NaN where it was not asked.
        upper: (n,) float64, the size of the smallest change known to reach the goal; infinite where none is.
        looked: (n,) bool, both ends were sought at any radius.
        contradicted: examples that were proven and broken at once, in words.
        tried, broken: how many examples were looked at after the attacks, and how many of them fell.
        spent: (3,) forwards, backwards and queries of the victim that went into that.
        seconds: spent on all of it.
    """

    radii: tuple[float, ...]
    radius: PerExample
    method: list[dict[float, str]]
    lower: PerExample
    estimate: PerExample
    upper: PerExample
    looked: Tensor
    contradicted: list[str] = field(default_factory=list)
    tried: int = 0
    broken: int = 0
    spent: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.int64))
    seconds: float = 0.0

    @classmethod
    def none(cls, n: int, radii: tuple[float, ...]) -> "Proofs":
        """Before anything is proven."""
        zero, unknown = torch.zeros(n, dtype=torch.float64), torch.full((n,), torch.nan, dtype=torch.float64)
        return cls(
            radii, zero, [{} for _ in range(n)], zero.clone(), unknown, torch.full_like(zero, torch.inf), zero > 0
        )

    def hold(self, radius: float) -> Tensor:
        """(n,) bool: proven at this radius."""
        return self.radius >= radius

    def to_json(self) -> dict[str, Any]:
        """What the ledger of a chunk keeps of it."""
        return {
            "by": [dict(Counter(each[radius] for each in self.method if radius in each)) for radius in self.radii],
            "looked": int(self.looked.sum()),
            "contradicted": list(self.contradicted),
            "tried": self.tried,
            "broken": self.broken,
            **dict(zip(("forwards", "backwards", "queries"), self.spent.tolist(), strict=True)),
            "seconds": self.seconds,
        }

    def prove(self, rows: Sequence[int], radius: float, name: str) -> None:
        """Note that this method proved these rows at this radius, and so at every smaller one."""
        for row in rows:
            self.radius[row] = max(radius, float(self.radius[row]))
            for smaller in self.radii:
                if smaller <= radius:
                    self.method[row].setdefault(smaller, name)

    def join(self, found: Found, norm: Norm, ids: Tensor) -> None:
        """Bring both ends together with what was broken. Where they cross what is broken stays broken, the proof is withdrawn and an
        alarm is kept."""
        self.lower = torch.maximum(self.lower, self.radius)
        self.upper = torch.minimum(self.upper, found.sizes(norm))
        # a region forgives a little more than its radius, and proofs cover that too
        crossed = (self.lower > self.upper) | (found.radius <= self.radius)
        for row in crossed.nonzero()[:, 0].tolist():
            self.contradicted.append(
                f"example {int(ids[row])} is proven within {float(self.lower[row]):g} and broken by a change of {float(self.upper[row]):g}"
            )
            self.radius[row], self.lower[row], self.method[row] = 0.0, 0.0, {}


@dataclass(frozen=True, eq=False)
class Proving:
    """How proofs are sought, for a whole run.

    Args:
        prover: of the victim.
        threat: balls of one or more radii; a grid and the access are ignored, as more is proven then.
        names: methods, from cheap to tight.
        seconds: of branch and bound, as a mean over the examples.
        looked: how many of the first examples are looked at at any radius.
        seed: of what is drawn.
    """

    prover: Prover
    threat: ThreatModel
    names: tuple[str, ...]
    seconds: float
    looked: int
    seed: int

    @classmethod
    def of(
        cls,
        victim: Victim,
        shape: Sequence[int],
        threat: ThreatModel,
        method: str,
        *,
        seconds: float,
        looked: int,
        seed: int,
    ) -> "Proving":
        """The way that a user asked for.

        Raises:
            ThreatError: no ball whose points can be bounded.
            AccessError, ModelError: a network that cannot be read or bounded.
            SettingError: a setting out of range.
        """
        names = methods_to(method)
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise SettingError(f"certify_seconds is a number >= 0, got {seconds}")
        if isinstance(looked, bool) or looked < 0:
            raise SettingError(f"sandwich is a number of examples >= 0, got {looked}")
        Prover.require_ball(threat)
        if threat.goal != "untargeted" or threat.grid is not None:
            looked = 0  # estimates and smallest changes would speak of another threat
        return cls(Prover.of(victim, shape), threat, names, seconds, looked, seed)

    def before(self, x: Batch, y: Labels, predicted: Labels, goal: Goal, open_: Tensor) -> Proofs:
        """What cheap methods prove of these examples, at the largest radius first; `open_` is (n,) bool, those worth the work.

        Raises:
            ModelError: the graph decides otherwise than the victim.
        """
        began, proofs = time.perf_counter(), Proofs.none(len(x), self.threat.radii)
        self.prover.check(x, predicted)
        x, y, target = x.cpu(), y.cpu(), _target(goal)
        for radius in reversed(self.threat.radii):
            for name in (name for name in CHEAP if name in self.names):
                for rows in (open_.cpu() & ~proofs.hold(radius)).nonzero()[:, 0].split(_TOGETHER):
                    if len(rows):
                        part = None if target is None else target[rows]
                        least = self.prover.least(x[rows], y[rows], self._ball(radius), name, part)
                        proofs.prove(rows[least > 0].tolist(), radius, name)
        proofs.seconds += time.perf_counter() - began
        return proofs

    def after(
        self,
        proofs: Proofs,
        found: Found,
        meter: Meter,
        chunk: Chunk,
        goal: Goal,
        open_: Tensor,
        look: int,
        advance: Callable[[int], None],
    ) -> None:
        """After the attacks: both ends of the first `look` examples at any radius, then branch and bound on what is undecided.

        Points that break an example are judged, charged to the meter and added to `found`.

        Args:
            open_: (n,) bool, the examples that are right and could be broken.
            advance: told how many examples are undecided whenever one was looked at.
        """
        began, fallen = time.perf_counter(), found.within(math.inf)
        counted = torch.stack((meter.forwards, meter.backwards, meter.queries)).sum(dim=1)
        looked = open_.cpu() & (torch.arange(len(open_)) < look)
        self._look(proofs, found, meter, chunk, goal, looked.nonzero()[:, 0])
        proofs.looked[:look] = True
        searched = self._search(proofs, found, meter, chunk.y, goal, open_, advance)
        proofs.tried, proofs.broken = int((looked | searched).sum()), int((found.within(math.inf) & ~fallen).sum())
        proofs.spent = torch.stack((meter.forwards, meter.backwards, meter.queries)).sum(dim=1).sub(counted).cpu()
        proofs.seconds += time.perf_counter() - began

    def _look(self, proofs: Proofs, found: Found, meter: Meter, chunk: Chunk, goal: Goal, rows: Tensor) -> None:
        """Both ends of these rows."""
        if not len(rows):
            return
        norm, here = self.threat.norm, rows.to(meter.device)
        own, ids = Meter(meter.victim, len(rows), access=meter.access), chunk.ids.to(meter.device)[here]
        method = "crown" if "crown" in self.names else CHEAP[0]
        x, y, far = found.x[here], chunk.y[here], 2 * self.threat.radius
        ends = both_ends(self.prover, own, x, y, ids, goal.take(here), norm, far, self.seed, method)
        charge(meter, here, own)
        proofs.lower[rows], proofs.estimate[rows], proofs.upper[rows] = ends.lower, ends.estimate, ends.upper
        for radius in self.threat.radii:
            for place in ((ends.upper <= radius) & ~found.within(radius).cpu()[rows]).nonzero()[:, 0].tolist():
                self._broken(found, meter, goal, radius, int(rows[place]), ends.points[place], "smallest_change")

    def _search(
        self,
        proofs: Proofs,
        found: Found,
        meter: Meter,
        y: Labels,
        goal: Goal,
        open_: Tensor,
        advance: Callable[[int], None],
    ) -> Tensor:
        """Branch and bound, at the largest radius first and in slices of time; (n,) bool, the examples it was tried on."""
        tried = torch.zeros(len(y), dtype=torch.bool)
        if "branch_and_bound" not in self.names or not self.seconds:
            return tried
        late = before(time.perf_counter() + self.seconds * len(y), lambda: False)
        x, y, target = found.x.cpu(), y.cpu(), _target(goal)
        slice_seconds, settled = _FIRST_SLICE, False
        while not settled and not late():
            settled = True
            for radius in reversed(self.threat.radii):
                rows = ((open_ & ~found.within(radius)).cpu() & ~proofs.hold(radius)).nonzero()[:, 0].tolist()
                for place, row in enumerate(rows):
                    if late():
                        return tried
                    one, until = slice(row, row + 1), before(time.perf_counter() + slice_seconds, late)
                    part = None if target is None else target[one]
                    breaks = partial(self._breaks, found, meter, goal, radius, row)
                    holds, point = self.prover.searched(x[one], y[one], self._ball(radius), until, breaks, part)
                    tried[row] = True
                    if holds:
                        proofs.prove([row], radius, "branch_and_bound")
                    settled &= holds or point is not None
                    advance(len(rows) - place - 1)
            slice_seconds *= 4
        return tried

    def _breaks(self, found: Found, meter: Meter, goal: Goal, radius: float, row: int, point: Batch) -> bool:
        return self._broken(found, meter, goal, radius, row, point[0], "branch_and_bound")

    def _broken(
        self, found: Found, meter: Meter, goal: Goal, radius: float, row: int, point: Tensor, method: str
    ) -> bool:
        """Let the judge decide about a point, and keep it if it breaks the example."""
        here = torch.tensor([row], device=meter.device)
        points, region = point[None].to(found.x), self.threat.ball(meter.bounds, radius).take(here)
        verdict = judge(meter, points, found.x[here], goal.take(here), region, here)
        if bool(verdict.broken[0]):
            found.keep(here, points, verdict, radius, method)
        return bool(verdict.broken[0])

    def _ball(self, radius: float) -> Ball:
        return Ball(self.threat.norm, radius, self.prover.victim.bounds)


def _target(goal: Goal) -> Labels | None:
    """(n,) on the CPU, the one class that counts; None where leaving the true one does."""
    return goal.classes.cpu() if isinstance(goal, Targeted) else None
