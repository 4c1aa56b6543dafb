"""The smallest change that several attacks find: `smallest(model, x, y, "l2")`, and robust accuracy at every radius from it.

No attack is the best on every example. A short run of a published attack and the specialist of the norm search in different ways,
and together cost less than either did in the literature's settings. A specialist that can goes on from what the others found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels, PerExample
from hauberk.attacks._attack import Attack, can_continue, name_of, seeks_smallest
from hauberk.attacks._friendly import _checked_goal, _checked_ids, _checked_mask, run_attack
from hauberk.attacks.boundary_slide import BoundarySlide
from hauberk.attacks.ddn import DDN
from hauberk.attacks.fmn import FMN
from hauberk.attacks.pdpgd import PDPGD
from hauberk.attacks.sigma_zero import SigmaZero
from hauberk.attacks.sparse_swap import SparseSwap
from hauberk.errors import SettingError, ThreatError, UnknownNameError
from hauberk.threat import Ball, Goal, Norm, ThreatModel
from hauberk.victims import check_inputs, wrap

__all__ = ["SmallestResult", "smallest"]

_FOUND = ("adversarials", "broken", "sizes", "labels")
_COSTS = ("queries", "forwards", "backwards")
_PLANS: dict[str, dict[Norm, tuple[Attack, ...]]] = {
    "quick": {
        Norm.LINF: (FMN(steps=30), BoundarySlide(rivals=4)),
        Norm.L2: (DDN(steps=30), BoundarySlide(rivals=4)),
        Norm.L1: (FMN(steps=30), BoundarySlide(rivals=4)),
        Norm.L0: (SigmaZero(steps=50), SparseSwap(rivals=4)),
    },
    "thorough": {
        Norm.LINF: (FMN(steps=50), BoundarySlide(steps=60, rivals=4, far=30, shrink=0.9, trust=0.1)),
        Norm.L2: (DDN(steps=50), BoundarySlide(steps=60, rivals=4, far=30, shrink=0.9)),
        Norm.L1: (FMN(steps=50), BoundarySlide(steps=60, rivals=4, far=30, shrink=0.9)),
        Norm.L0: (PDPGD(steps=400), SparseSwap(rivals=4, far=1, exchanges=100, candidates=120, kicks=60)),
    },
}
"""A first shot of another kind, then the specialist."""
_BUDGETS = {"quick": None, "thorough": 1000}
"""The most queries for any one example."""


@dataclass(frozen=True, eq=False)
class SmallestResult:
    """The smallest change found for each example, as the judge saw it; one entry per example.

    Attributes:
        adversarials: (n, *shape) the points; of examples that no attack broke, the first attack's best try.
        broken: (n,) bool, the judge's word.
        sizes: (n,) size of each change in the threat's norm, in the units of the input; 0 where the example is misclassified.
        labels: (n,) int64, the class the victim gives each point.
        found_by: for each example the name of the attack that found its point, "" where none broke it.
        queries, forwards, backwards: (n,) int64, what all attacks together cost.
        ball: in which the sizes are measured, without a radius.
    """

    adversarials: Batch
    broken: Tensor
    sizes: PerExample
    labels: Labels
    found_by: tuple[str, ...]
    queries: Tensor
    forwards: Tensor
    backwards: Tensor
    ball: Ball

    @property
    def success_rate(self) -> float:
        """Share of the examples that are broken."""
        return self.broken.double().mean().item()

    def curve(self, radii: Sequence[float] | Tensor) -> Tensor:
        """(len(radii),) float64: the robust accuracy at each radius, an upper bound: the share of the examples for which no change
        this small was found, with the slack of `Ball.contains`.

        Raises:
            ThreatError: a radius is not a number >= 0.
        """
        given = torch.atleast_1d(torch.as_tensor(radii, dtype=torch.float64)).to(self.sizes.device)
        limits = replace(self.ball, radius=given, mask=None, grid=None)._limit(self.sizes)
        smallest = torch.where(self.broken, self.sizes, torch.inf)
        return (smallest[None] > limits[:, None]).double().mean(dim=1).cpu()

    def __repr__(self) -> str:
        n = len(self.broken)
        names = {name: self.found_by.count(name) for name in dict.fromkeys(self.found_by) if name}
        shares = "".join(f", {count} by {name}" for name, count in names.items())
        spent = f"{self.forwards.sum().item() / n:.1f} forwards and {self.backwards.sum().item() / n:.1f} backwards"
        return f"SmallestResult(broken {int(self.broken.sum())} of {n}{shares}; {spent} an example)"


def smallest(
    model: Any,
    x: Any,
    y: Any,
    threat: str | ThreatModel = "l2",
    *,
    effort: str = "quick",
    attacks: Sequence[Attack] | None = None,
    seed: int = 0,
    goal: Goal | None = None,
    mask: Any = None,
    ids: Any = None,
    max_queries: int | None = None,
    batch_size: int = 256,
) -> SmallestResult:
    """The smallest change for each example, the best of several attacks.

    Args:
        model, x, y, seed, goal, mask, ids, batch_size: as `run_attack` has them.
        threat: a norm without radius, with modifiers such as `@grid255`. With one radius, the attacks after the first only work
            on examples that are not broken yet.
        effort: `quick` runs FMN (L2: DDN, L0: sigma-zero) with few steps, and then `boundary_slide` (L0: `sparse_swap`) towards four
            rivals and from far away; `thorough` searches from far away until a budget of a thousand queries is spent.
        max_queries: the most for any one example, of all attacks together: each attack may spend what the ones before it left
            of that. Examples with the same number left are attacked together; a thousand where `effort` is `thorough`.
        attacks: replaces the attacks of `effort`: attacks for the smallest change, in the order in which they run.

    Raises:
        UnknownNameError: there is no such effort.
        SettingError: an attack does not look for the smallest change, or there is none; max_queries below 1.
        AccessError, ThreatError, DataError, ModelError: as `run_attack`.

    Cost: `quick` about 200 forwards and backwards an example; the result says how many.
    """
    victim, threat = wrap(model), ThreatModel.parse(threat)
    if effort not in _PLANS:
        raise UnknownNameError.of("effort", effort, _PLANS)
    plan = _PLANS[effort][threat.norm] if attacks is None else tuple(attacks)
    if len(threat.radii) > 1:
        raise ThreatError(
            f"the smallest change has no radii, got {threat}; leave them out, and read the curve: smallest(...).curve(radii)"
        )
    if not plan:
        raise SettingError("expected at least one attack, got none; leave `attacks` out for the default ones")
    for attack in plan:
        if not seeks_smallest(attack):
            raise SettingError(
                f"expected attacks for the smallest change, got {name_of(attack)}; see: hauberk list attacks"
            )
    x, y = check_inputs(victim, x, y)
    goal = None if goal is None else _checked_goal(goal, victim, len(x))
    mask = None if mask is None else _checked_mask(mask, x)
    ids = torch.arange(len(x), device=x.device) if ids is None else _checked_ids(ids, x)
    if max_queries is None and attacks is None:
        max_queries = _BUDGETS[effort]
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    first = run_attack(plan[0], victim, x, y, threat, goal=goal, mask=mask, ids=ids, max_queries=max_queries, **options)
    best = {column: getattr(first, column).clone() for column in (*_FOUND, *_COSTS)}
    names = [name_of(attack) for attack in plan]
    hands_on = threat.chart is None  # the points of a chart are not the caller's
    finder = torch.where(best["broken"], 0, -1)
    for place, attack in enumerate(plan[1:], 1):
        done = best["broken"] if threat.radii else best["broken"] & (best["sizes"] == 0)
        for todo, left in _by_budget((~done).nonzero().flatten(), best["queries"], max_queries):
            mine = run_attack(
                attack,
                victim,
                x[todo],
                y[todo],
                threat,
                goal=None if goal is None else goal.take(todo),
                mask=mask if mask is None or len(mask) == 1 else mask[todo],
                ids=ids[todo],
                max_queries=left,
                starts=best["adversarials"][todo] if hands_on and can_continue(attack) else None,
                **options,
            )
            for cost in _COSTS:
                best[cost][todo] += getattr(mine, cost)
            better = mine.broken & (~best["broken"][todo] | (mine.sizes < best["sizes"][todo]))
            rows = todo[better]
            for column in _FOUND:
                best[column][rows] = getattr(mine, column)[better]
            finder[rows] = place
    found_by = tuple(names[place] if place >= 0 else "" for place in finder.tolist())
    return SmallestResult(**best, found_by=found_by, ball=replace(threat.ball(victim.bounds), radius=torch.inf))


def _by_budget(rows: Tensor, spent: Tensor, budget: int | None) -> Iterator[tuple[Tensor, int | None]]:
    """These rows, those that may still spend as much together, and how much that is: what an example gets does not depend on what
    the others spent."""
    if budget is None:
        if len(rows):
            yield rows, None
        return
    left = budget - spent[rows]
    for most in left.unique().tolist():
        if most >= 1:
            yield rows[left == most], most
