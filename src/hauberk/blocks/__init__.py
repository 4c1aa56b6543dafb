"""What two algorithms share: losses, the frontier of unbroken examples, gradient ascent, starts, schedules,
picture windows, and the judge."""

from hauberk.blocks.ascent import ascend
from hauberk.blocks.canvas import Canvas
from hauberk.blocks.frontier import Frontier, improves
from hauberk.blocks.losses import LOSSES, Loss, loss_named
from hauberk.blocks.schedules import SCHEDULES, Schedule, schedule_named
from hauberk.blocks.starts import STARTS, Start, best_start, start_named

__all__ = [
    "LOSSES",
    "SCHEDULES",
    "STARTS",
    "Canvas",
    "Frontier",
    "Loss",
    "Schedule",
    "Start",
    "ascend",
    "best_start",
    "improves",
    "loss_named",
    "schedule_named",
    "start_named",
]
