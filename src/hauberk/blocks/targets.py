"""Classes that an attack climbs to although leaving the true class is what counts: the likeliest, the least likely, a random one."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from hauberk._rng import Streams
from hauberk._shapes import Labels, Logits
from hauberk.blocks.live import Live
from hauberk.blocks.losses import Loss
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Classed, Goal, Rival, Targeted, Untargeted

__all__ = ["TARGETS", "Pick", "aimed", "likeliest_rivals", "pick_named"]

Pick: TypeAlias = Callable[[Logits, Goal, Streams, Labels], Labels]
"""(scores of the live rows, their goal, streams, rows) -> the class to climb to for each."""


def _least_likely(logits: Logits, goal: Goal, streams: Streams, rows: Labels) -> Labels:
    """The class of the smallest score, the one to leave excepted."""
    if isinstance(goal, Classed):
        logits = logits.scatter(1, goal.classes[:, None], torch.inf)
    return logits.argmin(dim=1)


def _random(logits: Logits, goal: Goal, streams: Streams, rows: Labels) -> Labels:
    """Any class with the same chance, the one to leave excepted."""
    if not isinstance(goal, Classed):
        return streams.integers(rows, logits.shape[1])
    drawn = streams.integers(rows, logits.shape[1] - 1)
    return drawn + (drawn >= goal.classes)


TARGETS: dict[str, Pick] = {"least-likely": _least_likely, "random": _random}


def pick_named(name: str) -> Pick:
    """The rule of this name that chooses a class to climb to.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in TARGETS:
        raise UnknownNameError.of("target", name, TARGETS)
    return TARGETS[name]


def aimed(live: Live[Any], loss: Loss, pick: Pick, streams: Streams) -> Loss:
    """The loss towards one class of each example, chosen from the first scores seen of it: no query is spent on the choice.

    A goal that names a class to reach keeps it.
    """
    chosen = torch.full((len(streams),), -1, dtype=torch.int64, device=live.x.device)

    def towards(logits: Logits, goal: Goal) -> Logits:
        if isinstance(goal, Classed) and goal.sign > 0:
            return loss(logits, goal)
        known = chosen[live.rows]
        new = known < 0
        if bool(new.any()):
            known = torch.where(new, pick(logits.detach(), goal, streams, live.rows), known)
            chosen[live.rows] = known
        return loss(logits, Targeted(known))

    return towards


def likeliest_rivals(live: Live[Any], goal: Goal, count: int | None, *, asker: str, instead: str) -> list[Rival]:
    """Goals towards the `count` most likely wrong classes (None: all), the likeliest first; one query for each live example.

    They are goals of the whole batch; fewer where the model has fewer classes, none where no example is live.

    Raises:
        SettingError: the goal is not untargeted; the message says who asks, and what to use instead.
    """
    if not isinstance(goal, Untargeted):
        raise SettingError(
            f"{asker} chooses the targets itself and needs an untargeted goal, got {type(goal).__name__}; use {instead}"
        )
    if not len(live):
        return []
    rows = live.rows
    logits = live.victim.logits(live.x, rows)
    order = logits.scatter(1, goal.classes[rows, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranked = goal.classes[:, None].repeat(1, logits.shape[1] - 1)
    ranked[rows] = order[:, :-1]
    return [Rival(ranked[:, k], goal.classes) for k in range(ranked.shape[1])[:count]]
