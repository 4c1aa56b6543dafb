"""GenAttack: a genetic search for a change within a ball, with scores alone.

    P_1 .. P_N    changes, each value uniform within the radius
    in each generation, with F the margins of x + P:
        the best is kept as it is; for each of the N - 1 others
        parents i, j drawn with probabilities p = softmax(F / temperature)
        child         each value from i with probability p_i / (p_i + p_j), else from j
        mutation      with probability rho each value moves by a uniform number within alpha times the radius
        and back into the ball
    rho = max(rho_min, 0.5 * 0.9^u),  alpha = max(alpha_min, 0.4 * 0.9^u)
    u counts plateaus: how often the best margin has not grown for `patience` generations in a row

Changes may live on a coarser picture (`side`) that is drawn larger between its points, which is what reaches ImageNet in few queries.

Source: Alzantot, Sharma, Chakraborty, Zhang, Hsieh, Srivastava 2019, "GenAttack: Practical Black-box Attacks with Gradient-Free
Optimization", arXiv:1805.11090, algorithm 1 and section 4; temperature from the reference code.
**Differs from the paper:** fitness is the margin of whatever the goal is, in logits (paper: targets only, the log ratio of the
target's probability to the largest other, the same number for a victim that shows probabilities through a softmax); the one kept is
not asked again, as in the reference code; in the reference code, the first ten generations mutate every value: not here; `patience`
counts generations at any margin (reference code: 100, or 300 far from success); changes on a coarse picture are limited there, then
once more after they were drawn larger.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier
from hauberk.blocks.subspaces import Bilinear, Identity
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Norm, Region, Scored

__all__ = ["GenAttack", "gen_attack"]


@dataclass(frozen=True)
class GenAttack:
    """GenAttack. Cost: at most `population` + `generations` * (`population` - 1) queries an example.

    Args:
        generations: after the first population.
        population: changes of each example, at least 2.
        temperature: the larger, the more alike the chances of good and bad parents; in units of the margin.
        rho: least probability with which a value mutates.
        alpha: least size of mutations, in radii.
        patience: generations without a larger margin after which both shrink.
        side: width and height of the picture that changes are searched on; None for that of the input.
    """

    generations: int = 1000
    population: int = 6
    temperature: float = 0.3
    rho: float = 0.001
    alpha: float = 0.2
    patience: int = 100
    side: int | None = None

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF})

    def __post_init__(self) -> None:
        positive(self, "generations", "population", "temperature", "patience", "side")
        not_negative(self, "rho", "alpha")
        if self.population < 2:
            raise SettingError(f"gen_attack crosses parents of a population, got population={self.population}")
        if self.rho > 1 or self.alpha > 1:
            raise SettingError(f"gen_attack needs rho and alpha in [0, 1], got rho={self.rho}, alpha={self.alpha}")

    def __call__(self, victim: Scored, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        space = Identity() if self.side is None else Bilinear(self.side)
        shape, small = tuple(x.shape[1:]), space.shape(tuple(x.shape[1:]))
        frontier = Frontier(victim, x, goal, ball)
        if not len(frontier):
            return frontier.best
        radius = like(torch.as_tensor(ball.radius, dtype=x.dtype, device=x.device).expand(len(x))[frontier.rows], x)[
            :, None
        ]

        def ask(changes: Tensor) -> PerExample:
            each = torch.arange(len(changes), device=x.device).repeat_interleave(changes.shape[1])
            clean = frontier.x[each]
            moved = clean + space.lift(changes.flatten(0, 1), shape)
            inside = frontier.region.take(each).project(moved, clean)
            return frontier.ask_each(inside.reshape(*changes.shape[:2], *shape)).nan_to_num(-torch.inf)

        count = self.population
        drawn = streams.uniform(frontier.rows, (count, *small), dtype=x.dtype)
        changes = (2 * drawn - 1) * radius
        fitness = ask(changes)
        best = fitness.amax(dim=1)
        idle, plateaus = torch.zeros_like(best), torch.zeros_like(best)
        radius, changes, fitness, best, idle, plateaus = frontier.compact(
            radius, changes, fitness, best, idle, plateaus
        )
        for _ in range(self.generations):
            if not len(frontier):
                break
            rows, one = frontier.rows, torch.arange(len(frontier), device=x.device)
            chance = _chances(fitness, self.temperature)
            first, second = (_drawn(chance, streams.uniform(rows, (count - 1,), dtype=torch.float64)) for _ in range(2))
            share = chance.gather(1, first) / (chance.gather(1, first) + chance.gather(1, second))
            coins = streams.uniform(rows, (count - 1, *small), dtype=torch.float64)
            from_first = coins < share.reshape(*share.shape, *(1,) * len(small))
            child = torch.where(from_first, changes[one[:, None], first], changes[one[:, None], second])
            shrunk = 0.9**plateaus
            rho, alpha = (0.5 * shrunk).clamp_min(self.rho), (0.4 * shrunk).clamp_min(self.alpha)
            hit = streams.uniform(rows, (count - 1, *small), dtype=torch.float64) < wide(rho, child)
            noise = 2 * streams.uniform(rows, (count - 1, *small), dtype=x.dtype) - 1
            child = torch.where(hit, child + wide(alpha, child) * radius * noise, child)
            child = torch.minimum(torch.maximum(child, -radius), radius)
            elite = fitness.argmax(dim=1)
            changes = torch.cat((changes[one, elite][:, None], child), dim=1)
            fitness = torch.cat((fitness[one, elite][:, None], ask(child)), dim=1)
            now = fitness.amax(dim=1)
            idle = torch.where(now > best, 0.0, idle + 1)
            plateaus = torch.where(idle >= self.patience, plateaus + 1, plateaus)
            idle, best = torch.where(idle >= self.patience, 0.0, idle), torch.maximum(best, now)
            radius, changes, fitness, best, idle, plateaus = frontier.compact(
                radius, changes, fitness, best, idle, plateaus
            )
        return frontier.best


def _chances(fitness: Tensor, temperature: float) -> Tensor:
    """(B, N) float64 probabilities of the parents; even where no margin is known."""
    known = fitness.to(torch.float64)
    top = known.amax(dim=1, keepdim=True)
    chance = torch.where(top.isfinite(), (known - top) / temperature, 0.0).exp()
    chance = chance.clamp_min(1e-300)  # a pair of the hopeless is still a pair
    return chance / chance.sum(dim=1, keepdim=True)


def _drawn(chance: Tensor, uniform: Tensor) -> Tensor:
    """(B, K) int64 indices drawn with these probabilities."""
    steps = chance.cumsum(dim=1)
    return torch.searchsorted(steps, uniform * steps[:, -1:], right=True).clamp_max(chance.shape[1] - 1)


gen_attack = friendly(GenAttack)
