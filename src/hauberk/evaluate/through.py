"""An attack on a substitute of the victim, run as if it were one on the victim; and what stages are called."""

from collections.abc import Sequence
from typing import Any

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks import Attack, name_of, settings_of
from hauberk.threat import Access, Goal, Region
from hauberk.victims import Meter

__all__ = ["Through", "label_of", "shown_settings"]


class Through:
    """An attack on a substitute, as an attack on the victim: proposes what it finds, and charges what it asked.

    Args:
        attack: what runs.
        substitute: whom it asks.
        steps: what makes the substitute, for its name.
    """

    def __init__(self, attack: Attack, substitute: Any, steps: Sequence[str]) -> None:
        self.attack, self.substitute, self.steps = attack, substitute, tuple(steps)
        self.norms = attack.norms
        self.access = Access.LABELS  # of the victim it asks nothing

    @property
    def label(self) -> str:
        """Its name in ledgers and tables."""
        return f"{name_of(self.attack)} ({', '.join(self.steps)})"

    def __repr__(self) -> str:
        return f"{self.attack!r} through {', '.join(self.steps)}"

    def __call__(self, victim: Any, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        behind = Meter(self.substitute, len(x))
        points = self.attack(_posed_like(victim, behind), x, goal, region, streams=streams)
        counted = _meter_of(victim)
        counted.forwards += behind.forwards
        counted.backwards += behind.backwards
        counted.queries += behind.queries
        return points


def label_of(attack: object) -> str:
    """What ledgers and tables call a stage."""
    return attack.label if isinstance(attack, Through) else name_of(attack)


def shown_settings(attack: object) -> dict[str, Any]:
    """The settings of a stage, for the result."""
    if isinstance(attack, Through):
        return settings_of(attack.attack) | {"through": list(attack.steps)}
    return settings_of(attack)


def _meter_of(victim: Any) -> Any:
    """The meter behind a chart, or the victim where it is one."""
    return victim if isinstance(victim, Meter) else victim.victim


def _posed_like(victim: Any, behind: Meter) -> Any:
    """The substitute behind the same chart as the victim."""
    if isinstance(victim, Meter):
        return behind
    return type(victim)(behind, victim.chart, victim.x)
