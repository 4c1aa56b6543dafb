"""Prior-guided RGF: random gradient-free ascent whose directions lean towards the gradient of a model of one's own.

    v      the prior's gradient at z, at length 1;   alpha = cos(g, v), from one query along v and an estimate of |g|
    u_i  = sqrt(lambda) v + sqrt(1 - lambda) xi_i,   xi_i random unit vectors orthogonal to v
    g    = mean of (l(z + sigma u_i) - l(z)) / sigma * u_i over `samples` of them;   z <- project(z + step_size steepest(g))

With q samples in D dimensions lambda is 0 where alpha^2 <= 1 / (D + 2q - 2), 1 where alpha^2 >= (2q - 1) / (D + 2q - 2) (then the step is v
and costs no samples), and else

    lambda = (1 - alpha^2) (alpha^2 (D + 2q - 2) - 1) / (2 alpha^2 D q - alpha^4 D (D + 2q - 2) - 1)

which makes the estimate's expected cosine with g largest. Without a prior lambda is 0: plain RGF.

Source: Cheng, Dong, Pang, Su, Zhu 2019, "Improving Black-box Adversarial Attacks with a Transfer-based Prior", arXiv:1906.06919,
section 3 and algorithm 1.
**Differs from the paper:** what climbs is the goal's margin, on the prior too (paper: cross-entropy); a prior that points the wrong way is
turned round; |g|^2 is D times the mean square of the slopes along 10 random directions, looked at every 10 steps as there; random
directions may come from any space of `hauberk.blocks.subspaces` (paper: bilinear), and lambda is for its dimension; each step asks its
point, which is the l(z) of the next.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like
from hauberk.attacks._attack import ball_of, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, loss_named
from hauberk.blocks.estimators import Ask, asking, normal_in
from hauberk.blocks.losses import value_and_cotangent
from hauberk.blocks.subspaces import subspace_named
from hauberk.errors import AccessError, SettingError
from hauberk.threat import Access, Goal, Norm, Region, Scored
from hauberk.victims import Victim, load, wrap

__all__ = ["PriorRGF", "prior_rgf"]

_EVERY, _LOOKS = 10, 10
"""Steps between looks at the gradient's length, and directions of each look."""


@dataclass(frozen=True)
class PriorRGF:
    """RGF with a transfer-based prior. Cost: at most 1 + `steps` * (`samples` + 2) queries an example and 10 for each ten steps begun, and
    as many gradients of the prior as steps, which are not the victim's.

    Args:
        steps: of the ascent.
        samples: directions of each step.
        prior: a model of one's own with gradients, for inputs in the same bounds: a victim, a `torch.nn.Module` that takes inputs as the
            victim does, or the path of a file that holds a whole model; None for plain RGF.
        sigma: how far from the point probes are asked, in widths of the box.
        step_size: in units of the input; a fifth of the radius where None.
        space: where random directions come from: `identity`, or a small space such as `bilinear:14`.
        early_stop: leave an example once it is broken.
    """

    steps: int = 200
    samples: int = 50
    prior: Any = None
    sigma: float = 0.001
    step_size: float | None = None
    space: str = "identity"
    early_stop: bool = True

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "sigma", "step_size")
        subspace_named(self.space)
        if self.prior is not None and not isinstance(self.prior, str | nn.Module | Victim):
            raise SettingError(
                f"prior_rgf takes a victim, a torch.nn.Module or the path of a model as prior, got {type(self.prior).__name__}"
            )

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball, space = ball_of(self, region), subspace_named(self.space)
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        if not len(frontier) or not x[0].numel():
            return frontier.best
        prior = self._prior(victim)
        size = math.prod(space.shape(tuple(x.shape[1:])))
        sigma = self.sigma * (ball.box[1] - ball.box[0])
        step = torch.as_tensor(step_of(ball, self.step_size, 0.2), dtype=x.dtype, device=x.device).expand(len(x))
        looks = streams.child("length")
        z, length = frontier.x, x.new_ones(len(frontier))
        value = frontier.ask(z).to(z)
        z, value, length = frontier.compact(z, value, length)
        for count in range(self.steps):
            if not len(frontier):
                break
            draw = _directions(normal_in(space, streams, frontier.rows, z))
            v, share = torch.zeros_like(z), torch.zeros_like(value)
            if prior is not None:
                if count % _EVERY == 0:
                    seen = _slopes(
                        asking(frontier),
                        z,
                        value,
                        _directions(normal_in(space, looks, frontier.rows, z))(_LOOKS),
                        sigma,
                    )
                    length = (size * seen.square().mean(dim=1)).sqrt()
                    z, value, length, v, share = frontier.compact(z, value, length, v, share)
                    if not len(frontier):
                        break
                    draw = _directions(normal_in(space, streams, frontier.rows, z))
                v = _leaning(prior, frontier, z)
                along = _slopes(asking(frontier), z, value, v[:, None], sigma)[:, 0]
                v = v * like(torch.where(along < 0, -1.0, 1.0).to(v), v)
                share = _share(along.abs() / length.clamp_min(torch.finfo(z.dtype).tiny), size, self.samples)
            g = self._estimate(frontier, z, value, v, share, draw, sigma)
            z, value, length, g = frontier.compact(z, value, length, g)
            if not len(frontier):
                break
            way = like(step[frontier.rows], z) * frontier.region.steepest(g)
            z = frontier.region.project(z + way, frontier.x)
            value = frontier.ask(z).to(z)
            z, value, length = frontier.compact(z, value, length)
        return frontier.best

    def _estimate(
        self, frontier: Frontier, z: Batch, value: PerExample, v: Batch, share: PerExample, draw: Any, sigma: float
    ) -> Batch:
        """The gradient, leaning on the prior; the prior itself where that is best."""
        xi = draw(self.samples)
        along = (flat(v)[:, None] * xi.flatten(2)).sum(dim=2)
        upright = xi - along.reshape(*along.shape, *(1,) * (z.ndim - 1)) * v[:, None]
        upright = upright / _lengths(upright)
        u = like(share.sqrt(), z)[:, None] * v[:, None] + like((1 - share).sqrt(), z)[:, None] * upright
        only = share >= 1
        if bool(only.all()):
            return v
        slopes = _slopes(asking(frontier), z, value, u, sigma)
        g = torch.einsum("bk,bk...->b...", slopes, u)
        return torch.where(like(only.to(z), z) > 0, v, g)

    def _prior(self, victim: Any) -> Victim | None:
        """The prior as a victim for the same inputs."""
        if self.prior is None:
            return None
        if isinstance(self.prior, str):
            made = load(self.prior, bounds=victim.bounds)
        else:
            made = self.prior if isinstance(self.prior, Victim) else wrap(self.prior, bounds=victim.bounds)
        if made.access < Access.GRADIENTS:
            raise AccessError(
                f"prior_rgf climbs on its prior and needs its gradients, and {made.name!r} gives {made.access}"
            )
        if made.bounds != victim.bounds:
            raise SettingError(
                f"the prior is for inputs in {made.bounds}, the victim for {victim.bounds}; wrap it with those bounds"
            )
        return made


def _leaning(prior: Any, frontier: Frontier, z: Batch) -> Batch:
    """The unit gradient of the goal's margin on the prior; 0 where it has none."""
    scores, vjp = prior.pullback(z.to(prior.dtype), torch.arange(len(z), device=z.device))
    _, cotangent = value_and_cotangent(loss_named("margin"), scores, frontier.goal)
    return Norm.L2.steepest(vjp(cotangent).nan_to_num(0.0, 0.0, 0.0).to(z))


def _directions(draw: Any) -> Any:
    """The same draws at length 1."""

    def unit(count: int) -> Tensor:
        u = draw(count)
        return u / _lengths(u)

    return unit


def _lengths(u: Tensor) -> Tensor:
    length = u.flatten(2).norm(dim=2).clamp_min(1e-12)
    return length.reshape(*length.shape, *(1,) * (u.ndim - 2))


def _slopes(ask: Ask, z: Batch, value: PerExample, u: Tensor, sigma: float) -> Tensor:
    """(live, K) one-sided slopes along these directions; 0 where a value is missing."""
    return ((ask(z[:, None] + sigma * u) - value[:, None]) / sigma).nan_to_num(0.0, 0.0, 0.0).to(z)


def _share(cosine: PerExample, size: int, samples: int) -> PerExample:
    """lambda of the module's head."""
    a, m = cosine.square().clamp_max(1.0), size + 2 * samples - 2
    between = (1 - a) * (a * m - 1) / (2 * a * size * samples - a.square() * size * m - 1)
    share = torch.where(a >= (2 * samples - 1) / m, torch.ones_like(a), between)
    return torch.where(a <= 1 / m, torch.zeros_like(a), share).nan_to_num(0.0).clamp(0, 1)


prior_rgf = friendly(PriorRGF)
