"""Hopping PGD: short climbs from screened low-frequency corners and from changed copies of the best point, most of them on the
examples that have come near.

    corner:  z_0 = block corner;     hop:  z_0 = best point, a random window of it replaced by a block corner
    of several such z_0 the one of the largest margin is climbed from, with steps falling linearly from eps to 0
    rivals:  z_0 = best point; climb towards the second, third, ... nearest wrong class there
    after k climbs an example goes on while  margin / clean margin <= near * sqrt(floor / k)

Adversarially trained nets hide some adversarial examples behind flat or misleading gradients: PGD from the example or from
uniform noise does not find them, a score attack does after thousands of queries. Block corners are the score attack's prior,
screening costs a forward instead of a climb, and hopping searches near the best corner found, as iterated local search does.
The wrong class that is nearest at the example is often not the one that can be reached; at the best point of a climb it is
among the nearest few.

What remains of the clean margin says how far an example has come, whatever the scale of the scores. Most examples that can be
broken come near within the first climbs, so that many more climbs there find what as many on every example would, at a
fraction of the cost (docs/suites.md has the figures). `near=None` spends every climb on every example.

Source: hauberk's own combination of: random corners constant on blocks, after Square (Andriushchenko et al. 2020,
arXiv:1912.00049); the margin of probabilities (Xie et al. 2024, arXiv:2411.15210); targets among the likeliest classes, falling
steps and restarts on survivors (Croce and Hein 2020, arXiv:2003.01690); iterated local search (Lourenco, Martin, Stuetzle 2003,
arXiv:math/0102188); effort by what has been reached so far (successive halving: Jamieson and Talwalkar 2016, arXiv:1502.07943,
but by fixed thresholds for each example, so that no example's effort depends on another's).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, Rows
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Canvas, Frontier, ascend, best_start, loss_named, schedule_named, start_named
from hauberk.threat import Access, Differentiable, Goal, Norm, Region, Rival, Untargeted

__all__ = ["HoppingPGD", "hopping_pgd"]

_WINDOW = (0.02, 0.3)
"""The share of the picture that a hop replaces is drawn uniformly from this range."""
_TOGETHER = 4
"""Climbs of an example that run at once, when its first ones have failed: few survive then, and small batches cost more."""


@dataclass(frozen=True)
class HoppingPGD:
    """Hopping PGD. Cost: at most 2 + `rivals` * (`rival_steps` + 1) + `restarts` * (`candidates` + `steps` + 1) forwards and
    `rivals` * `rival_steps` + `restarts` * `steps` backwards.

    Args:
        steps: steps of each climb.
        restarts: climbs of an example, at most; all work only on examples that are not broken yet.
        candidates: points screened for the beginning of each climb.
        loss: `ce`, `margin`, `dlr` or `probability`.
        rivals: after the first climb, so many climbs towards the next nearest wrong classes (untargeted goals only).
        rival_steps: steps of each of those.
        floor: climbs that every example gets, however far from broken it stays.
        near: an example that has more than `near` of its clean margin left after `floor` climbs gets no more, one with half of
            `near` left gets four times as many; None spends all on all.
        early_stop: leave an example once it is broken.
    """

    steps: int = 20
    restarts: int = 64
    candidates: int = 5
    loss: str = "probability"
    rivals: int = 3
    rival_steps: int = 8
    floor: int = 2
    near: float | None = 0.4
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "candidates", "rival_steps", "floor", "near")
        not_negative(self, "rivals")
        loss_named(self.loss)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        if not len(frontier):
            return frontier.best
        frontier.ask(frontier.x)
        clean, done = frontier.margin.clone(), 0
        while done < self.restarts:
            copies = min(max(done, 1), _TOGETHER, self.restarts - done)
            frontier.restart(copies, among=self._goes_on(frontier.margin / clean, done))
            if not len(frontier):
                break
            self._climb(frontier, region, done, streams)
            if not done and self.rivals and isinstance(goal, Untargeted):
                self._climb_to_rivals(frontier, region, goal)
            done += copies
        return frontier.best

    def _goes_on(self, left: PerExample, done: int) -> Tensor:
        """Which examples get more climbs, from how much of their clean margin is left."""
        if self.near is None or done < self.floor:
            return torch.ones_like(left, dtype=torch.bool)
        return ~(left > self.near * math.sqrt(self.floor / done))  # a ratio that is no number goes on

    def _climb(self, frontier: Frontier, region: Region, done: int, streams: Streams) -> None:
        """The climbs number `done`, `done` + 1, ... of each live example, one for each of its copies."""

        def start(copy: int, x: Batch, rows: Rows, space: Region) -> Batch:
            corner = start_named("blocks")(x, rows, space, streams)
            return _hop(frontier.best[rows], corner, x, rows, space, streams) if (done + copy) % 2 else corner

        ascend(
            frontier,
            best_start(lambda: frontier.each_copy(start), frontier, self.candidates),
            loss=loss_named(self.loss),
            steps=self.steps,
            step_size=region.reach,
            schedule=schedule_named("linear"),
        )

    def _climb_to_rivals(self, frontier: Frontier, region: Region, goal: Untargeted) -> None:
        """Towards the classes that are nearest at the best point, without the very nearest: the climb went there."""
        frontier.restart()
        if not len(frontier):
            return
        rows = frontier.rows
        logits = frontier.victim.logits(frontier.best[rows], rows)
        order = logits.scatter(1, goal.classes[rows, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        for k in range(1, min(1 + self.rivals, logits.shape[1] - 1)):
            rivals = goal.classes.clone()
            rivals[rows] = order[:, k]
            frontier.restart()
            if not len(frontier):
                return
            ascend(
                frontier,
                frontier.best[frontier.rows],
                loss=loss_named("margin"),
                steps=self.rival_steps,
                step_size=region.reach,
                schedule=schedule_named("linear"),
                towards=Rival(rivals, goal.classes),
            )


def _hop(best: Batch, corner: Batch, x: Batch, rows: Rows, region: Region, streams: Streams) -> Batch:
    """The best point, a random window of it replaced by the corner."""
    canvas = Canvas(x)
    low, high = _WINDOW
    share = low + (high - low) * streams.uniform(rows, (), dtype=x.dtype)
    inside, _, _ = canvas.window(rows, streams, canvas.sides(share, least=2))
    return region.project(canvas.back(torch.where(inside, canvas.picture(corner), canvas.picture(best))), x)


hopping_pgd = friendly(HoppingPGD)
