"""Auto-PGD: projected gradient ascent that sets its own step size, restarts from its best point and needs no tuning.

    v = project(z_t + eta * steepest(grad))                          (L-inf, L2; eta_0 = 2 eps)
    z_(t+1) = project(z_t + a (v - z_t) + (1 - a) (z_t - z_(t-1)))     a = 0.75, in the first step 1
    at checkpoints: halve eta and go back to the best point, where fewer than rho of the steps since the last checkpoint
    raised the loss, or neither eta nor the best loss has changed since it

L1 (Croce and Hein 2021): sign steps of length eta on the k largest gradient entries, k and eta adapted to the sparsity of
the best point; the first 60 % of the steps climb in balls of three and two times the radius.

Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", arXiv:2003.01690; L1: Croce and Hein 2021, "Mind the box", arXiv:2103.01208. Targeted runs: section 5.1 there.
**Differs from the paper:** an example leaves once it is broken; L2 steps are projected onto ball and box together (paper:
scaled, then clipped); any loss on any goal; in L1 the first ball begins with a fifth of the entries, as the authors' code does
without a starting point; a last forward judges the last point, and no gradient is taken there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, like
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import AdaptiveClimb, Frontier, Loss, checkpoints, likeliest_rivals, loss_named
from hauberk.threat import Access, Ball, Differentiable, Goal, Norm, Region

__all__ = ["AutoPGD", "auto_pgd"]


@dataclass(frozen=True)
class AutoPGD:
    """Auto-PGD. Cost: at most `restarts` * max(`targets`, 1) * (`steps` + 1) forwards, about as many backwards, an
    example; in L1 `steps` + 3.

    Args:
        steps: steps of each run.
        loss: `ce`, `dlr`, `margin` or `probability`.
        restarts: runs from fresh random starts, on examples that are not broken yet.
        targets: 0 climbs away from the true class; k runs towards each of the k most likely wrong classes in turn (one
            more query; fewer if the model has fewer classes), on an untargeted goal only.
        rho: share of rising steps below which the step size is halved.
        early_stop: leave an example once it is broken.
    """

    steps: int = 100
    loss: str = "ce"
    restarts: int = 1
    targets: int = 0
    rho: float = 0.75
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "rho")
        not_negative(self, "targets")
        loss_named(self.loss)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        loss = loss_named(self.loss)
        for wanted in self._goals(frontier, goal):
            for _ in range(self.restarts):
                frontier.restart()
                if not len(frontier):
                    return frontier.best
                if region.norm is Norm.L1:
                    self._climb_l1(frontier, loss, wanted, streams)
                else:
                    self._climb(frontier, loss, wanted, streams)
        return frontier.best

    def _goals(self, frontier: Frontier, goal: Goal) -> Sequence[Goal]:
        if not self.targets:
            return [goal]
        asker = f"auto_pgd with targets={self.targets}"
        return likeliest_rivals(frontier, goal, self.targets, asker=asker, instead="targets=0")

    def _climb(self, frontier: Frontier, loss: Loss, wanted: Goal, streams: Streams) -> None:
        ball = frontier.region
        assert isinstance(ball, Ball)
        z = frontier.region.project(frontier.x + _edge(ball, frontier, streams), frontier.x)
        values, gradient = frontier.climb(z, loss, towards=wanted.take(frontier.rows))
        state = AdaptiveClimb(z, values, gradient, eta=2 * _per_example(ball.radius, z))
        state.compact(frontier)
        marks = checkpoints(self.steps)
        for step in range(self.steps):
            if not len(frontier):
                return
            region, x = frontier.region, frontier.x
            v = region.project(state.z + like(state.eta, x) * region.steepest(state.gradient), x)
            if step:
                v = region.project(state.z + 0.75 * (v - state.z) + 0.25 * (state.z - state.before), x)
            if step == self.steps - 1:
                frontier.ask(v)
                frontier.compact()
                return
            state.move(v, *frontier.climb(v, loss, towards=wanted.take(frontier.rows)))
            state.compact(frontier)
            if step + 1 in marks:
                state.check(self.rho, marks[step + 1])

    def _climb_l1(self, frontier: Frontier, loss: Loss, wanted: Goal, streams: Streams) -> None:
        wider = int(0.3 * self.steps)  # steps in each of the two larger balls
        z = frontier.x + streams.normal(frontier.rows, frontier.x.shape[1:], dtype=frontier.x.dtype)
        for factor, steps in ((3.0, wider), (2.0, wider), (1.0, self.steps - 2 * wider)):
            if steps and len(frontier):
                z = self._climb_l1_ball(frontier, loss, wanted, z, factor, steps, fresh=factor == 3 or not wider)

    def _climb_l1_ball(
        self, frontier: Frontier, loss: Loss, wanted: Goal, z: Batch, factor: float, steps: int, *, fresh: bool
    ) -> Batch:
        """Climb in a ball of `factor` times the radius; only points of the ball itself are proposed. Returns the best points."""
        features = math.prod(frontier.x.shape[1:])

        def ball() -> Ball:
            region = frontier.region
            assert isinstance(region, Ball)
            return region.with_radius(region.radius * factor)

        z = ball().project(z, frontier.x)
        values, gradient = frontier.climb(z, loss, towards=wanted.take(frontier.rows), allowed=factor == 1)
        radius = _per_example(ball().radius, z)
        state = AdaptiveClimb(z, values, gradient, eta=radius.clone())
        count = Norm.L0.size(z - frontier.x)
        state.extra = [  # share of the gradient's entries in a step; changed values at the last check; radius
            torch.full_like(radius, 0.2) if fresh else count / features / 1.5,
            torch.full_like(count, features) if fresh else count,
            radius,
        ]
        state.compact(frontier)
        every = max(int(0.04 * steps), 1)
        for step in range(steps):
            if not len(frontier):
                break
            share, known, radius = state.extra
            x, region = frontier.x, ball()
            direction = _sparse_sign(state.gradient if region.mask is None else state.gradient * region.mask, share)
            v = region.project(state.z + like(state.eta, x) * direction, x)
            if step == steps - 1 and factor == 1:
                frontier.ask(v)
                frontier.compact()
                break
            state.move(v, *frontier.climb(v, loss, towards=wanted.take(frontier.rows), allowed=factor == 1))
            state.compact(frontier)
            if (step + 1) % every == 0 and len(frontier):
                share, known, radius = state.extra
                sparse = Norm.L0.size(state.best - frontier.x)
                settle = sparse / known < 0.95
                state.eta = torch.where(settle, radius, (state.eta / 1.5).clamp_min(0).maximum(radius / 10))
                state.back_to_best(settle)
                state.extra = [sparse / features / 1.5, sparse, radius]
        return state.best


def _edge(ball: Ball, frontier: Frontier, streams: Streams) -> Batch:
    """A random change of the full radius: uniform scaled to the sphere for L-inf, a random direction for L2."""
    x, rows = frontier.x, frontier.rows
    if ball.norm is Norm.LINF:
        u = streams.uniform(rows, x.shape[1:], dtype=x.dtype) * 2 - 1
        return u / like(flat(u.abs()).amax(dim=1).clamp_min(1e-12), x) * like(ball.radius, x)
    return Norm.L2.steepest(streams.normal(rows, x.shape[1:], dtype=x.dtype)) * like(ball.radius, x)


def _per_example(radius: float | Tensor, x: Batch) -> Tensor:
    return torch.as_tensor(radius, dtype=x.dtype, device=x.device).expand(len(x)).clone()


def _sparse_sign(gradient: Batch, share: Tensor) -> Batch:
    """The signs of the largest `share` of each gradient's entries, of L1 size 1."""
    g = flat(gradient)
    features = g.shape[1]
    place = ((1 - share) * features).clamp(0, features - 1).long()
    threshold = g.abs().sort(dim=1).values.gather(1, place[:, None])
    signs = torch.where(g.abs() >= threshold, g.sign(), torch.zeros_like(g))
    return (signs / signs.abs().sum(dim=1, keepdim=True).clamp_min(1e-10)).reshape(gradient.shape)


auto_pgd = friendly(AutoPGD)
