"""Bandits: an estimate of the gradient that is carried from step to step (time prior) and lives on tiles (data prior).

    q  = lift(v +- exploration u / sqrt(d)), both at length 1      u normal, v the prior, of d numbers
    s  = (l(z + probe q_+) - l(z - probe q_-)) / (probe * exploration);    v <- update(v, s exploration u / sqrt(d))
    z <- project(z + step_size steepest(lift(v)))

with l(z - probe q_-) asked at z + probe times the lift of v - exploration u / sqrt(d). In L-inf the prior is updated by exponentiated
gradients, v in (-1, 1); in L2 by gradient ascent. Three queries a step: two probes and the point itself.

Source: Ilyas, Engstrom, Madry 2019, "Prior Convictions: Black-Box Adversarial Attacks with Bandits and Priors", arXiv:1807.07978,
algorithms 2 and 3; constants from the authors' code.
**Differs from the paper:** what climbs is the goal's margin (paper: cross-entropy), whose slopes are divided by their running root mean
square, so that `learning_rate` does not depend on the scale of the scores; lengths are shares of the radius; the step is a tenth of the
radius (paper: a fifth in L-inf); probes stay in the box and keep to the mask; each step asks its point.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat, like
from hauberk.attacks._attack import ball_of, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, loss_named
from hauberk.blocks.estimators import asking
from hauberk.blocks.subspaces import subspace_named
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["Bandits", "bandits"]


@dataclass(frozen=True)
class Bandits:
    """Bandits with time and data priors. Cost: at most 1 + 3 * `steps` queries an example.

    Args:
        steps: of the ascent.
        space: where the prior lives: `tile:16`, another small space, or `identity` for the time prior alone.
        step_size: in units of the input; a tenth of the radius where None.
        learning_rate: of the prior.
        exploration: how far from the prior the probes look, in lengths of a random vector of length 1.
        probe: how far from the point they are asked, in L2: a share of the L2 length of the ball's largest change.
        loss: what is climbed.
        early_stop: leave an example once it is broken.
    """

    steps: int = 3000
    space: str = "tile:16"
    step_size: float | None = None
    learning_rate: float = 0.1
    exploration: float = 1.0
    probe: float = 0.1
    loss: str = "margin"
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "step_size", "learning_rate", "exploration", "probe")
        loss_named(self.loss)
        subspace_named(self.space)

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball, space = ball_of(self, region), subspace_named(self.space)
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        if not len(frontier) or not x[0].numel():
            return frontier.best
        loss, shape = None if self.loss == "margin" else loss_named(self.loss), tuple(x.shape[1:])
        small, values = space.shape(shape), x[0].numel()
        radius = torch.as_tensor(ball.radius, dtype=x.dtype, device=x.device).expand(len(x))
        longest = radius * math.sqrt(values) if ball.norm is Norm.LINF else radius
        step = torch.as_tensor(step_of(ball, self.step_size, 0.1), dtype=x.dtype, device=x.device).expand(len(x))
        z, prior = frontier.x, x.new_zeros(len(frontier), *small)
        frontier.ask(z)
        scale = z.new_zeros(len(z))  # the running mean of squared slopes
        z, prior, scale = frontier.compact(z, prior, scale)
        for count in range(1, self.steps + 1):
            if not len(frontier):
                break
            rows = frontier.rows
            u = self.exploration / math.sqrt(math.prod(small)) * streams.normal(rows, small, dtype=x.dtype)
            far = like(self.probe * longest[rows], z)
            pair = [z + far * _unit(space.lift(prior + sign * u, shape)) for sign in (1, -1)]
            values_there = asking(frontier, loss)(torch.stack(pair, dim=1))
            slope = (values_there[:, 0] - values_there[:, 1]).nan_to_num(0.0, 0.0, 0.0).to(z)
            scale = scale + (slope.square() - scale) / min(count, 100)
            slope = slope / scale.sqrt().clamp_min(torch.finfo(z.dtype).tiny)
            prior = self._updated(prior, like(slope, u) * u * math.sqrt(math.prod(small)), ball.norm)
            z, prior, scale = frontier.compact(z, prior, scale)
            if not len(frontier):
                break
            way = like(step[frontier.rows], z) * frontier.region.steepest(space.lift(prior, shape))
            z = frontier.region.project(z + way, frontier.x)
            frontier.ask(z)
            z, prior, scale = frontier.compact(z, prior, scale)
        return frontier.best

    def _updated(self, prior: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
        """The prior after one more estimate."""
        if norm is not Norm.LINF:
            return prior + self.learning_rate * gradient / math.sqrt(gradient[0].numel())
        odds = torch.log1p(prior) - torch.log1p(-prior) + self.learning_rate * gradient
        return torch.tanh(odds / 2).clamp(-1 + 1e-6, 1 - 1e-6)


def _unit(v: Batch) -> Batch:
    return v / like(flat(v).norm(dim=1).clamp_min(1e-12), v)


bandits = friendly(Bandits)
