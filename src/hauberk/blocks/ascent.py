"""The one compacting gradient loop: steepest ascent inside a region; an example leaves it when it is broken."""

from collections.abc import Callable

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, flat, like
from hauberk.blocks.frontier import Frontier
from hauberk.blocks.losses import Loss
from hauberk.blocks.schedules import Schedule

__all__ = ["ascend"]


def ascend(
    frontier: Frontier,
    z: Batch,
    *,
    loss: Loss,
    steps: int,
    step_size: PerExample | float,
    schedule: Schedule,
    momentum: float = 0.0,
    watch: Callable[[int, PerExample, Batch], None] | None = None,
) -> None:
    """Climb `loss` from `z` by projected steepest ascent; what is found is in the frontier.

        g_t = momentum * g_(t-1) + grad / |grad|_1      (the gradient itself where momentum is 0)
        z_(t+1) = project(z_t + step_size * schedule(t) * steepest(g_t))      (in L1 see `Ball.step`)

    Args:
        frontier: the examples to work on.
        z: (live rows, *shape) where to begin.
        step_size: in units of the region's norm; one number, or one for each example of the frontier's batch.
        watch: called at each step with the step's number, the losses and the gradients of the live rows.

    Cost: at most `steps` + 1 forwards and `steps` backwards an example.
    """
    velocity = torch.zeros_like(z) if momentum else None
    for step in range(steps):
        if not len(frontier):
            return
        values, gradient = frontier.climb(z, loss)
        if watch is not None:
            watch(step, values, gradient)
        if velocity is None:
            z, gradient = frontier.compact(z, gradient)
        else:
            z, gradient, velocity = frontier.compact(z, gradient, velocity)
            scale = flat(gradient.abs()).sum(dim=1).clamp_min(torch.finfo(z.dtype).tiny)
            gradient = velocity = momentum * velocity + gradient / like(scale, z)
        size = step_size[frontier.rows] if isinstance(step_size, Tensor) else step_size
        z = frontier.region.project(frontier.region.step(z, gradient, size * schedule(step, steps)), frontier.x)
    if len(frontier):
        frontier.ask(z)
        frontier.compact()
