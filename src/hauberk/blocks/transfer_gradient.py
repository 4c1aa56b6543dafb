"""The gradient that a transfer attack climbs: over copies of a point, tuned by its variance nearby, or penalised for its size.

    copies     G(z) = mean over the copies c of z of grad loss(c)
    variance   G(z) + v,    v = mean_i G(z' + r_i) - G(z') of the step before, r_i uniform in the ball of `spread` radii
    penalty    mean_i of (1 - weight) G(z_i) + weight G(z_i - step_size G(z_i) / mean |G(z_i)|),    z_i = z + r_i

Sources: Wang, He 2021, "Enhancing the transferability of adversarial attacks through variance tuning", arXiv:2103.15571 (VMI);
Ge, Liu, Wang, Shang, Liu 2023, "Boosting adversarial transferability by achieving flat local maxima", arXiv:2306.05225 (PGN), as its
authors' code scales the step back; momentum and the look ahead as in `hauberk.blocks.ascent`.
**Differs from the papers:** every example draws for itself; what leaves the box is clipped; in balls other than L-inf, r_i is uniform
in that ball and the step back goes along `steepest`.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, Rows, double, flat, like
from hauberk.blocks.ascent import _ahead
from hauberk.blocks.frontier import Frontier
from hauberk.blocks.losses import Loss, value_and_cotangent
from hauberk.blocks.transfer import InputTransform, Scene, Translate, copies_of
from hauberk.errors import SettingError
from hauberk.threat import Ball, Goal, Norm, Untargeted

__all__ = ["Penalty", "TransferClimb", "Variance"]

Scaled: TypeAlias = tuple[Batch, PerExample]
"""Gradients, and what each example's is multiplied by, in float64: it may be too small for float32, and only ratios count."""


@dataclass(frozen=True)
class Variance:
    """VMI: how many neighbours, and how far they lie in radii."""

    neighbours: int = 20
    spread: float = 1.5


@dataclass(frozen=True)
class Penalty:
    """PGN: how many neighbours, how far they lie in radii, and the weight of the gradient one step back."""

    neighbours: int = 20
    spread: float = 3.0
    weight: float = 0.5


@dataclass(frozen=True, eq=False)
class TransferClimb:
    """Momentum ascent in the region along such gradients; what is found is in the frontier.

        g = momentum * g + grad / |grad|_1      (the gradient itself where momentum is 0)
        z = project(z + step_size * step(g))

    Args:
        inputs: the transforms that make the copies.
        smooth: what the gradient goes through before momentum.
        loss: to climb.
        steps, momentum: as `hauberk.blocks.ascend` has them.
        look_ahead: take the gradient where the past ones lead to (NI).
        nearby: variance tuning, or a penalty, or neither.

    Each step asks the point itself, the rest of its `queries` are copies that may not be proposed. An example that cannot pay for a
    whole step and the point after it leaves.
    """

    inputs: list[InputTransform]
    smooth: list[Translate]
    loss: Loss
    steps: int
    momentum: float
    look_ahead: bool
    nearby: Variance | Penalty | None = None

    @property
    def copies(self) -> int:
        """How many copies of each point."""
        count = 1
        for transform in self.inputs:
            count *= transform.copies
        return count

    @property
    def itself(self) -> bool:
        """The first copy of the point is the point, so that it need not be asked besides."""
        return all(transform.keeps for transform in self.inputs) and not isinstance(self.nearby, Penalty)

    @property
    def backwards(self) -> int:
        """What a step costs in backwards."""
        if isinstance(self.nearby, Variance):
            return self.copies * (1 + self.nearby.neighbours)
        return self.copies * (2 * self.nearby.neighbours if isinstance(self.nearby, Penalty) else 1)

    @property
    def queries(self) -> int:
        """What a step costs in queries; after the last step one more is asked."""
        return self.backwards + (0 if self.itself else 1)

    def __call__(self, frontier: Frontier, z: Batch, step_size: PerExample | float, streams: Streams) -> None:
        """Climb from z, (live, *shape) allowed points."""
        velocity, drift = torch.zeros_like(z), torch.zeros_like(z)
        drift_scale = torch.zeros(len(z), dtype=double(z), device=z.device)
        for step in range(self.steps):
            if not len(frontier):
                return
            ahead = z
            if self.look_ahead and self.momentum and step:
                size = like(_of(step_size, frontier.rows), z)
                ahead = _ahead(frontier.region, z, velocity, size * self.momentum, frontier.x)
            point = frontier.region.snap(ahead, frontier.x)
            first = self._asked(frontier, point, _leave(frontier.goal), streams)
            z, point, velocity, drift, drift_scale, *first = frontier.compact(
                z, point, velocity, drift, drift_scale, *first
            )
            rest = self.queries - 1
            if rest:
                frontier.keep_only(frontier.victim.left(frontier.rows) > rest)
                z, point, velocity, drift, drift_scale, *first = frontier.compact(
                    z, point, velocity, drift, drift_scale, *first
                )
            if not len(frontier):
                return
            size = _of(step_size, frontier.rows)
            scene = Scene(frontier.rows, streams, _ball(frontier).box, _leave(frontier.goal))
            known = (first[0], first[1]) if first else None
            if isinstance(self.nearby, Penalty):
                found = self._penalised(frontier, point, scene, size, self.nearby)
            else:
                found = self._at(frontier, point, scene, known)
            tuned = found
            if isinstance(self.nearby, Variance):
                tuned = _mean([(found, 1.0), ((drift, drift_scale), 1.0)])
                near = [
                    (self._at(frontier, self._near(frontier, point, scene, self.nearby.spread), scene), 1.0)
                    for _ in range(self.nearby.neighbours)
                ]
                count = self.nearby.neighbours
                drift, drift_scale = _mean([(part, weight / count) for part, weight in near] + [(found, -1.0)])
            gradient = tuned[0]
            for smooth in self.smooth:
                gradient = smooth(gradient)
            if self.momentum:
                length = flat(gradient.abs()).sum(dim=1).clamp_min(torch.finfo(z.dtype).tiny)
                gradient = velocity = self.momentum * velocity + gradient / like(length, z)
            z = frontier.region.project(frontier.region.step(z, gradient, size), frontier.x)
        if len(frontier):
            frontier.ask(z)
            frontier.compact()

    def _asked(self, frontier: Frontier, point: Batch, leave: Tensor | None, streams: Streams) -> list[Tensor]:
        """Ask the point itself; its gradient too where it is the first copy."""
        if not self.itself:
            frontier.ask(point)
            return []
        logits, gradient, scale = _pulled(frontier, point, self.loss)
        frontier._record(point, frontier._margin(logits))
        return [gradient, scale]

    def _at(self, frontier: Frontier, point: Batch, scene: Scene, known: Scaled | None = None) -> Scaled:
        """The mean gradient over the copies of the point; `known`: that of the first, which is the point."""
        if not self.inputs:
            return _pulled(frontier, point, self.loss)[1:] if known is None else known
        with torch.enable_grad():
            leaf = point.detach().requires_grad_()
            copies = copies_of(self.inputs, leaf, scene)
        parts = [
            known if place == 0 and known is not None else _pulled(frontier, copy.detach(), self.loss)[1:]
            for place, copy in enumerate(copies)
        ]
        top = torch.stack([scale for _, scale in parts]).amax(dim=0)
        sent = [part * like(_ratio(scale, top) / len(parts), part) for part, scale in parts]
        (found,) = torch.autograd.grad(copies, leaf, sent)
        return found.nan_to_num(0.0, 0.0, 0.0), top

    def _penalised(
        self, frontier: Frontier, point: Batch, scene: Scene, size: PerExample | float, penalty: Penalty
    ) -> Scaled:
        found: list[tuple[Scaled, float]] = []
        region, (low, high) = _ball(frontier), _ball(frontier).box
        for _ in range(penalty.neighbours):
            near = self._near(frontier, point, scene, penalty.spread)
            here = self._at(frontier, near, scene)
            if region.norm is Norm.LINF:
                mean = flat(here[0].abs()).mean(dim=1).clamp_min(torch.finfo(near.dtype).tiny)
                back = here[0] / like(mean, near)
            else:
                back = region.steepest(here[0])
            there = self._at(frontier, (near - like(size, near) * back).clamp(low, high), scene)
            found += [(here, 1 - penalty.weight), (there, penalty.weight)]
        return _mean([(part, weight / penalty.neighbours) for part, weight in found])

    def _near(self, frontier: Frontier, point: Batch, scene: Scene, spread: float) -> Batch:
        ball = _ball(frontier)
        moved = ball.norm.sample(scene.streams, scene.rows, point, ball.radius * spread, ball.mask)
        return (point + moved).clamp(*ball.box)


def _pulled(frontier: Frontier, points: Batch, loss: Loss) -> tuple[Tensor, Batch, PerExample]:
    """The scores, the gradients of the loss divided by the largest derivative by a score, and that: one forward, one backward."""
    logits, vjp = frontier.victim.pullback(points, frontier.rows)
    _, cotangent = value_and_cotangent(loss, logits, frontier.goal)
    return logits, vjp(cotangent).nan_to_num_(0.0, 0.0, 0.0), _steepness(loss, logits, frontier.goal)


def _steepness(loss: Loss, logits: Tensor, goal: Goal) -> PerExample:
    """(B,) the largest derivative of each row's loss by a logit, which `value_and_cotangent` divides by."""
    with torch.enable_grad():
        leaf = logits.detach().to(double(logits)).requires_grad_()
        values = loss(leaf, goal)
        if not values.requires_grad:
            return torch.zeros_like(leaf[:, 0].detach())
        (slope,) = torch.autograd.grad(values.sum(), leaf)
    return slope.abs().amax(dim=1).nan_to_num(0.0, 0.0, 0.0)


def _mean(parts: list[tuple[Scaled, float]]) -> Scaled:
    """The weighted sum of scaled gradients."""
    top = torch.stack([scale for (_, scale), _ in parts]).amax(dim=0)
    total = torch.zeros_like(parts[0][0][0])
    for (gradient, scale), weight in parts:
        total = total + gradient * like(_ratio(scale, top) * weight, gradient)
    return total, top


def _ratio(scale: PerExample, top: PerExample) -> PerExample:
    return torch.where(top > 0, scale / top, 0.0)


def _of(size: PerExample | float, rows: Rows) -> PerExample | float:
    return size[rows] if isinstance(size, Tensor) else size


def _leave(goal: Goal) -> Tensor | None:
    return goal.classes if isinstance(goal, Untargeted) else None


def _ball(frontier: Frontier) -> Ball:
    if not isinstance(frontier.region, Ball):
        raise SettingError(f"a transfer attack works in balls, got {type(frontier.region).__name__}")
    return frontier.region
