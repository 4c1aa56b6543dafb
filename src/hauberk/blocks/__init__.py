"""What two algorithms share: losses, the frontier of unbroken examples, the smallest changes found, gradient ascent, starts,
schedules, picture windows, and the judge."""

from hauberk.blocks.adaptive import AdaptiveClimb, checkpoints
from hauberk.blocks.ascent import ascend
from hauberk.blocks.canvas import Canvas
from hauberk.blocks.closest import Closest
from hauberk.blocks.frank_wolfe import Slope, frank_wolfe_gap
from hauberk.blocks.frontier import Frontier, improves
from hauberk.blocks.losses import LOSSES, Loss, loss_named
from hauberk.blocks.patience import Patience
from hauberk.blocks.schedules import SCHEDULES, Schedule, schedule_named
from hauberk.blocks.starts import STARTS, Start, best_start, start_named
from hauberk.blocks.targets import TARGETS, aimed, likeliest_rivals, pick_named

__all__ = [
    "LOSSES",
    "SCHEDULES",
    "STARTS",
    "TARGETS",
    "AdaptiveClimb",
    "Canvas",
    "Closest",
    "Frontier",
    "Loss",
    "Patience",
    "Schedule",
    "Slope",
    "Start",
    "aimed",
    "ascend",
    "best_start",
    "checkpoints",
    "frank_wolfe_gap",
    "improves",
    "likeliest_rivals",
    "loss_named",
    "pick_named",
    "schedule_named",
    "start_named",
]
