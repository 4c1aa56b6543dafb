"""The examples an audit works on, and what several checks share: answers, gradients and attacks are asked for once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Logits, PerExample, flat
from hauberk.attacks import Attack, name_of
from hauberk.blocks import Frontier, loss_named, schedule_named, start_named
from hauberk.blocks.judge import judge
from hauberk.evaluate.cascade import Known
from hauberk.threat import Access, Ball, Goal, Norm, ThreatModel, Untargeted
from hauberk.victims import Meter, posed

__all__ = ["SHARE", "Climb", "Part", "Slope"]

SHARE = 0.05
"""Of the examples that one attack may break beyond a stronger one before it is a finding: chance does less."""


@dataclass(frozen=True, eq=False)
class Slope:
    """The margin to the strongest rival at some points, and its gradient there.

    Attributes:
        points: (n, *shape) where.
        logits: (n, classes).
        rival: (n,) the largest class but the true one; the margin speaks of this class.
        gradient: (n, D) of the rival's score minus the true one's.
    """

    points: Batch
    logits: Logits
    rival: Labels
    gradient: Tensor

    @property
    def dead(self) -> Tensor:
        """(n,) bool: every entry is exactly zero."""
        return self.finite & (self.gradient.abs().amax(dim=1) == 0)

    @property
    def finite(self) -> Tensor:
        """(n,) bool: every entry is a finite number."""
        return self.gradient.isfinite().all(dim=1)


@dataclass(frozen=True, eq=False)
class Climb:
    """One PGD run with its path.

    Attributes:
        path: (steps + 1, n) the margin at each point it visited.
        broken: (n,) bool, what the judge says of its best point.
        claimed: (n,) bool, the margin of that point was > 0 when the attack saw it.
    """

    path: Tensor
    broken: Tensor
    claimed: Tensor

    @property
    def best(self) -> Tensor:
        """(steps + 1, n) the largest margin so far."""
        return self.path.nan_to_num(-torch.inf, posinf=torch.inf).cummax(dim=0).values


class Part:
    """The audited examples, and one way to attack them that charges the audit's meter.

    Args:
        meter: of the whole pool.
        x, y: the chosen examples of the pool.
        rows: their places in the pool.
        ids: the addresses of their randomness.
        threat: at one radius.
        steps: of the PGD run that several checks look at.
    """

    def __init__(
        self,
        meter: Meter,
        x: Batch,
        y: Labels,
        rows: Tensor,
        ids: Tensor,
        threat: ThreatModel,
        seed: int,
        *,
        steps: int = 20,
    ) -> None:
        self.meter, self.x, self.y, self.rows, self.ids, self.threat, self.seed = meter, x, y, rows, ids, threat, seed
        self.steps = steps
        self.goal: Goal = Untargeted(y)
        self.region = threat.ball(meter.bounds)
        self.everyone = torch.arange(len(x), device=x.device)
        self.is_random = meter.judge_samples > 0
        self.found: dict[int, Known] = {}
        self._broken: dict[str, Tensor] = {}
        self._answers: Tensor | None = None
        self._slope: Slope | None = None
        self._climb: Climb | None = None

    def __len__(self) -> int:
        return len(self.x)

    def streams(self, purpose: str) -> Streams:
        """Fresh draws for a check."""
        return Streams(self.seed, self.ids, f"audit/{purpose}")

    def pool_streams(self, purpose: str, count: int) -> Streams:
        """Fresh draws for every example of the pool."""
        return Streams(self.seed, torch.arange(count, device=self.x.device), f"audit/{purpose}")

    def victim(self) -> Meter:
        """A meter for rows 0, 1, ... of this part; `charge` adds what it counted."""
        return Meter(self.meter.victim, len(self.x), access=self.meter.access)

    def charge(self, meter: Meter) -> None:
        """Add the counts of a meter that `victim` gave."""
        self.meter.forwards[self.rows] += meter.forwards
        self.meter.backwards[self.rows] += meter.backwards
        self.meter.queries[self.rows] += meter.queries

    def ask(self, x: Batch, rows: Tensor | None = None) -> Tensor:
        """Scores, or labels from a victim of labels only, as (B, k) numbers; `rows` are places in this part."""
        place = self.rows if rows is None else self.rows[rows]
        if self.meter.access < Access.SCORES:
            return self.meter.labels(x, place)[:, None].to(x.dtype)
        return self.meter.logits(x, place)

    def ask_again(self, x: Tensor) -> Tensor:
        """The second answer to what was asked before; a victim that keeps its answers gives a new one."""
        victim = self.meter.victim
        if not hasattr(victim, "again"):
            return self.ask(x)
        self.meter.victim = victim.again()
        try:
            return self.ask(x)
        finally:
            self.meter.victim = victim

    def answers(self) -> Tensor:
        """What `ask` says of the clean examples, asked for once."""
        if self._answers is None:
            self._answers = self.ask(self.x)
        return self._answers

    def slope(self) -> Slope:
        """The slope at the clean examples, asked for once."""
        if self._slope is None:
            self._slope = self.slope_at(self.x)
        return self._slope

    def slope_at(self, points: Batch) -> Slope:
        """The slope at any points: one forward and one backward for each example."""
        logits, vjp = self.meter.pullback(points, self.rows)
        rival = logits.scatter(1, self.y[:, None], -torch.inf).argmax(dim=1)
        cotangent = torch.zeros_like(logits)
        cotangent.scatter_(1, self.y[:, None], -1.0).scatter_(1, rival[:, None], 1.0)
        return Slope(points, logits, rival, flat(vjp(cotangent)))

    def lead(self, points: Batch, rival: Labels) -> PerExample:
        """(n,) float64: the rival's score minus the true one's: one forward for each example."""
        logits = self.meter.logits(points, self.rows)
        own, other = logits.gather(1, self.y[:, None]), logits.gather(1, rival[:, None])
        return (other.double() - own.double()).squeeze(1) if points.device.type != "mps" else (other - own).squeeze(1)

    def climb(self) -> Climb:
        """PGD on the margin with every step taken, run once: `steps` + 2 forwards and `steps` backwards an example."""
        if self._climb is None:
            self._climb = self._climbed()
        return self._climb

    def _climbed(self) -> Climb:
        meter = self.victim()
        asked, x = self.posed(meter)
        frontier = Frontier(asked, x, self.goal, self.region, early_stop=False)
        z = start_named(self.start)(x, frontier.rows, self.region, self.streams("climb"))
        falling = self.start == "clean"  # in L1 and L0 steps fall from the whole reach, in L2 and L-inf they stay
        size = self.region.reach * (1.0 if falling else 2.5 / self.steps)
        path: list[Tensor] = []
        for step in range(self.steps):
            values, gradient = frontier.climb(z, loss_named("margin"))
            path.append(values)
            fall = schedule_named("linear" if falling else "constant")(step, self.steps)
            z = self.region.project(self.region.step(z, gradient, size * fall), x)
        path.append(frontier.ask(z).to(path[-1]))
        broken = self._judged(meter, frontier.best, "pgd", self.region)
        self.charge(meter)
        return Climb(torch.stack(path), broken, frontier.margin > 0)

    def broken_by(self, attack: Attack, region: Ball | None = None, *, rows: Tensor | None = None) -> Tensor:
        """(n,) bool as the judge has it; remembered, so that two checks share one attack.

        Args:
            region: another one than the threat's.
            rows: only these examples are attacked; of the others False is said.
        """
        space = self.region if region is None else region
        key = f"{attack!r}@{space.norm}{space.radius!r}{'' if rows is None else rows.tolist()}"
        if key not in self._broken:
            only = self.everyone if rows is None else rows
            result = torch.zeros(len(self), dtype=torch.bool, device=self.x.device)
            if len(only):
                result[only] = self._attacked(attack, space, only)
            self._broken[key] = result
        return self._broken[key]

    def _attacked(self, attack: Attack, space: Ball, rows: Tensor) -> Tensor:
        meter = self.victim()
        asked, x = self.posed(meter)
        few = _Rows(asked, rows)
        streams = self.streams(name_of(attack)).take(rows)
        points = attack(few, x[rows], self.goal.take(rows), space.take(rows), streams=streams)
        broken = self._judged(meter, points, name_of(attack), space, rows)
        self.charge(meter)
        return broken

    def transferred(self, attack: Attack, source: Any, rows: Tensor) -> Tensor:
        """(n,) bool: what points made on another victim break; making them is not charged."""
        streams = self.streams(f"transfer {name_of(attack)}").take(rows)
        region = self.region.take(rows)
        points = attack(source, self.x[rows], self.goal.take(rows), region, streams=streams)
        result = torch.zeros(len(self), dtype=torch.bool, device=self.x.device)
        meter = self.victim()
        result[rows] = self._judged(meter, points, f"{name_of(attack)} on a copy", self.region, rows)
        self.charge(meter)
        return result

    def posed(self, meter: Meter) -> tuple[Any, Batch]:
        """Who is asked, and where the search begins: of a chart, its parameters."""
        return posed(self.threat.chart, meter, self.x)

    def _judged(self, meter: Meter, points: Batch, name: str, space: Ball, rows: Tensor | None = None) -> Tensor:
        """(len(rows),) bool; what is broken within the threat is remembered."""
        rows = self.everyone if rows is None else rows
        asked, x = self.posed(meter)
        verdict = judge(asked, points, x[rows], self.goal.take(rows), space.take(rows), rows)
        if space is self.region and self.threat.goal == "untargeted" and self.threat.chart is None:
            for place in verdict.broken.nonzero()[:, 0].tolist():
                self.found.setdefault(int(self.ids[rows[place]]), Known(points[place], f"{name} (audit)"))
        return verdict.broken

    def share_of_radius(self, share: float) -> float:
        """So much of the radius, and no less than the smallest change there is: one value in L0, a step of the grid."""
        radius = self.threat.radius * share
        if self.region.norm is Norm.L0:
            return max(1.0, float(int(radius)))
        if self.region.grid is None:
            return radius
        low, high = self.region.box
        return min(max(radius, (high - low) / self.region.grid), self.threat.radius)

    @property
    def start(self) -> str:
        """Where PGD is strong: a random start in L1 or L0 spends the radius on coordinates of no use."""
        return "uniform" if self.region.norm in {Norm.LINF, Norm.L2} else "clean"


class _Rows:
    """A victim whose rows 0, 1, ... are these rows of another."""

    def __init__(self, victim: Any, rows: Tensor) -> None:
        self.victim, self.rows = victim, rows
        self.name, self.access, self.bounds = victim.name, victim.access, victim.bounds
        self.device, self.dtype, self.forwards_per_query = victim.device, victim.dtype, victim.forwards_per_query
        self.judge_samples = getattr(
            victim, "judge_samples", 0
        )  # an attack on a victim that draws does not stop at luck

    @property
    def classes(self) -> int | None:
        return self.victim.classes

    def votes(self, x: Batch, rows: Tensor) -> Any:
        return self.victim.votes(x, self.rows[rows])

    def left(self, rows: Tensor) -> Tensor:
        return self.victim.left(self.rows[rows])

    def labels(self, x: Batch, rows: Tensor) -> Labels:
        return self.victim.labels(x, self.rows[rows])

    def logits(self, x: Batch, rows: Tensor) -> Logits:
        return self.victim.logits(x, self.rows[rows])

    def pullback(self, x: Batch, rows: Tensor) -> tuple[Logits, Callable[[Logits], Batch]]:
        return self.victim.pullback(x, self.rows[rows])
