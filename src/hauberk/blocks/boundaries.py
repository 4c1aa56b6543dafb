"""Decision boundaries seen as planes: how far away they are, and which is the nearest.

At a point z the rival class k is reached on the plane gap_k = <g_k, d>, with gap_k = f_y(z) - f_k(z) and g_k the gradient of
f_k - f_y. In the p-norm it lies gap_k / |g_k|_q away, q dual to p, and the nearest of its points along `steepest(g_k)`.
Coordinates that g_k pushes against a wall of the box cannot move and count as 0.

Source: Moosavi-Dezfooli, Fawzi, Frossard 2016, "DeepFool", arXiv:1511.04599, sections 2 and 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hauberk._shapes import Batch, Logits, PerExample, wide
from hauberk.blocks.closest import Closest
from hauberk.threat import Ball, Goal, Norm, Rival, Untargeted

__all__ = ["Plane", "margin_slope", "nearest_plane", "planes_at_start", "rivals_of", "shortest_step"]

_BEYOND = 2.0**-17
"""Of the largest score: twice what `Closest` doubts in float32."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane for each example.

    Attributes:
        gap: (B,) the margin that is missing.
        gradient: (B, *shape) of the margin, 0 where the box or the mask stops it.
        distance: (B,) in the ball's norm, >= 0; inf where the gradient is 0.
    """

    gap: PerExample
    gradient: Batch
    distance: PerExample

    def or_nearer(self, other: "Plane") -> "Plane":
        """Row by row, the one that is less far away; this one in a tie."""
        nearer = other.distance < self.distance
        return Plane(
            torch.where(nearer, other.gap, self.gap),
            torch.where(wide(nearer, self.gradient), other.gradient, self.gradient),
            torch.where(nearer, other.distance, self.distance),
        )


def rivals_of(logits: Logits, goal: Goal, candidates: int) -> Tensor:
    """(B, K) the classes whose planes count, by falling logits: the likeliest `candidates` but the true one.

    (B, 0) for a goal other than `Untargeted`: it has one plane, that of its margin.
    """
    if not isinstance(goal, Untargeted):
        return logits.new_zeros((len(logits), 0), dtype=torch.int64)
    others = logits.nan_to_num(-torch.inf).scatter(1, goal.classes[:, None], -torch.inf)
    return others.topk(min(candidates, logits.shape[1]) - 1, dim=1).indices


def nearest_plane(
    z: Batch,
    logits: Logits,
    vjp: Callable[[Logits], Batch],
    goal: Goal,
    ball: Ball,
    rivals: Tensor,
    lengths: Tensor | None = None,
    *,
    count: int = 3,
    first: int | None = None,
    walls: bool = True,
) -> tuple[Plane, Tensor]:
    """The nearest plane of each row at z, and the length |g_k|_q of every rival's gradient, (B, K), NaN where it was never
    looked at.

    Args:
        vjp: from a cotangent to a gradient, at z.
        rivals: of `rivals_of`.
        lengths: as this function gave them at an earlier point. Only the `count` rivals that are nearest if those still hold
            are then looked at; without them, all, or the `first` likeliest. What was never looked at counts as long as the
            longest that was.
        walls: False leaves in the gradient what the box stops.

    In float32 each gap is a little larger than it seems, so that rounding does not end short of a plane.

    Cost: a backward for each rival that is looked at, one at least.
    """
    logits = logits.nan_to_num(0.0, 0.0, 0.0)
    beyond = logits.abs().amax(dim=1) * (0.0 if logits.dtype == torch.float64 else _BEYOND)
    if rivals.shape[1] == 0:
        margin, slope = margin_slope(logits, goal)
        plane, _ = _plane(beyond - margin, slope, z, vjp, ball, walls)
        return plane, logits.new_zeros((len(z), 0))
    assert isinstance(goal, Untargeted)
    gaps = logits.gather(1, goal.classes[:, None]) - logits.gather(1, rivals) + beyond[:, None]
    if lengths is None:
        lengths = torch.full_like(gaps, torch.nan)
        order = torch.arange(rivals.shape[1], device=z.device).expand_as(rivals)[:, :first]
    else:
        guessed = torch.where(lengths.isnan(), lengths.nan_to_num(0.0).amax(dim=1, keepdim=True), lengths)
        order = (gaps / guessed).nan_to_num(torch.inf).topk(min(count, rivals.shape[1]), dim=1, largest=False).indices
        lengths = lengths.clone()
    best: Plane | None = None
    for place in order.split(1, dim=1):
        towards = torch.zeros_like(logits).scatter_(1, rivals.gather(1, place), 1.0)
        cotangent = towards.scatter_(1, goal.classes[:, None], -1.0)
        plane, length = _plane(gaps.gather(1, place).squeeze(1), cotangent, z, vjp, ball, walls)
        lengths.scatter_(1, place, length[:, None])
        best = plane if best is None else best.or_nearer(plane)
    assert best is not None
    return best, lengths


def planes_at_start(
    found: Closest, goal: Goal, most: int, *, norm: Norm | None = None, candidates: int = 10
) -> tuple[list[Goal], Tensor, Tensor]:
    """What runs from the examples can climb to, the nearest plane first, with the distances and the gradients' lengths there.

    Args:
        found: at its start, with a live row at least.
        goal: of the batch. An untargeted one is split into `Rival` goals, any other stays as it is.
        most: how many goals are wanted at most.
        norm: in which the planes are near; that of the region where None.

    Returns:
        K goals of the batch, and two of (n, K): the distances, inf where a gradient is 0, and the lengths, 0 there. Rows that are
        not live have inf and 0.

    Cost: a query and `candidates` - 1 backwards; one backward where the goal is not untargeted.
    """
    rows, n = found.rows, len(found.size)
    ball = found.space if norm is None else replace(found.space, norm=norm)
    _, logits, vjp = found.look(found.x)
    wanted = goal.take(rows)
    rivals = rivals_of(logits, wanted, candidates)
    plane, lengths = nearest_plane(found.x, logits, vjp, wanted, ball, rivals)
    goals: list[Goal] = [goal]
    if isinstance(goal, Untargeted):
        gaps = logits.gather(1, goal.classes[rows, None]) - logits.gather(1, rivals)
        distances, order = (gaps.clamp_min(0) / lengths).nan_to_num(torch.inf).sort(dim=1, stable=True)
        distances, order = distances[:, :most], order[:, :most]
        lengths = lengths.gather(1, order)
        named = goal.classes[:, None].repeat(1, order.shape[1])
        named[rows] = rivals.gather(1, order)
        goals = [Rival(rival, goal.classes) for rival in named.unbind(dim=1)]
    else:
        distances, lengths = plane.distance[:, None], ball.norm.dual.size(plane.gradient)[:, None]
    whole = [found.size.new_full((n, distances.shape[1]), fill) for fill in (torch.inf, 0.0)]
    for kept, part in zip(whole, (distances, lengths), strict=True):
        kept[rows] = part.to(kept)
    return goals, whole[0], whole[1]


def margin_slope(logits: Logits, goal: Goal) -> tuple[PerExample, Logits]:
    """The goal's margin and its derivative by the logits, unscaled, so that both speak of the same plane."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        margin = goal.margin(leaf)
        if not margin.requires_grad:  # a predicate that does not depend on the logits smoothly
            return margin, torch.zeros_like(leaf)
        (slope,) = torch.autograd.grad(margin.sum(), leaf)
    return margin.detach(), slope


def shortest_step(ball: Ball) -> float:
    """Half a step of the grid, 0 without one: the least that a walk should go on by where it has not crossed.

    A grid takes points back towards the example. A walk that keeps its own point, as it was before, and goes on by no less than
    this comes to another point of the grid after two steps; one that steps onto a plane just ahead stays where it is.
    """
    return 0.0 if ball.grid is None else (ball.box[1] - ball.box[0]) / ball.grid / 2


def _plane(
    gap: PerExample, cotangent: Logits, z: Batch, vjp: Callable[[Logits], Batch], ball: Ball, walls: bool
) -> tuple[Plane, PerExample]:
    low, high = ball.box
    gradient = vjp(cotangent)
    if walls:
        gradient.masked_fill_(torch.where(gradient > 0, z >= high, z <= low), 0.0)
    length = ball.norm.dual.size(gradient)
    return Plane(gap, gradient, torch.where(length > 0, gap.clamp_min(0) / length, torch.inf)), length
