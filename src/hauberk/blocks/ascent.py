"""The one compacting gradient loop: steepest ascent inside a region; an example leaves it when it is broken."""

from collections.abc import Callable

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, flat, like
from hauberk.blocks.frontier import Frontier
from hauberk.blocks.losses import Loss
from hauberk.blocks.schedules import Schedule
from hauberk.threat import Ball, Goal, Norm, Region

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
    nesterov: bool = False,
    towards: Goal | None = None,
    watch: Callable[[int, PerExample, Batch], None] | None = None,
) -> None:
    """Climb `loss` from `z` by projected steepest ascent; what is found is in the frontier.

        g_t = momentum * g_(t-1) + grad / |grad|_1      (the gradient itself where momentum is 0)
        z_(t+1) = project(z_t + step_size * schedule(t) * steepest(g_t))      (in L1 see `Ball.step`)
        nesterov: grad is that at project(z_t + step_size * schedule(t) * momentum * |g_(t-1)|_1 * along(g_(t-1))), where
        along(g) is steepest(g), in L-inf g over its mean absolute value

    Args:
        frontier: the examples to work on.
        z: (live rows, *shape) where to begin.
        step_size: in units of the region's norm; one number, or one for each example of the frontier's batch.
        towards: the goal of the whole batch that the loss climbs to, where it is not the one that counts as success.
        watch: called at each step with the step's number, the losses and the gradients of the live rows.

    Cost: at most `steps` + 1 forwards and `steps` backwards an example.
    """
    velocity = torch.zeros_like(z) if momentum else None
    for step in range(steps):
        if not len(frontier):
            return
        size = step_size[frontier.rows] if isinstance(step_size, Tensor) else step_size
        ahead = z
        if velocity is not None and nesterov and step:
            ahead = _ahead(frontier.region, z, velocity, like(size, z) * schedule(step, steps) * momentum, frontier.x)
        values, gradient = frontier.climb(ahead, loss, towards=None if towards is None else towards.take(frontier.rows))
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


def _ahead(region: Region, z: Batch, velocity: Batch, size: Tensor, x: Batch) -> Batch:
    """Where the past gradients lead to."""
    length = flat(velocity.abs()).sum(dim=1)
    if isinstance(region, Ball) and region.norm is Norm.LINF:
        return region.project(z + size * velocity * flat(velocity).shape[1], x)
    return region.project(z + size * like(length, z) * region.steepest(velocity), x)
