"""How a step size falls over an attack: (step, steps) -> factor on the first step size."""

import math
from collections.abc import Callable
from typing import TypeAlias

from hauberk.errors import UnknownNameError

__all__ = ["SCHEDULES", "Schedule", "schedule_named"]

Schedule: TypeAlias = Callable[[int, int], float]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda step, steps: 1.0,
    "linear": lambda step, steps: 1 - step / steps,
    "cosine": lambda step, steps: (1 + math.cos(math.pi * step / steps)) / 2,
}


def schedule_named(name: str) -> Schedule:
    """The schedule of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in SCHEDULES:
        raise UnknownNameError.of("schedule", name, SCHEDULES)
    return SCHEDULES[name]
