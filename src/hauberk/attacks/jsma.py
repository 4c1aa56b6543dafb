"""JSMA, the Jacobian saliency map attack: move the one or two values that the scores of the classes agree on, again and again.

    a_i =  s * d z_c / d x_i                    c the target, s = 1; untargeted: the true class, s = -1
    b_i = -s * sum over j != c of d z_j / d x_i
    pairs:   move p, q of largest (a_p + a_q) (b_p + b_q), where both sums are > 0
    singles: move p of largest a_p b_p, where both are > 0
    by `theta` widths of the box upwards; downwards a and b change their signs; values at the wall leave the search

Source: Papernot, McDaniel, Jha, Fredrikson, Celik, Swami 2016, "The limitations of deep learning in adversarial settings",
arXiv:1511.07528, algorithms 2 and 3, eqs. 8 and 9. Untargeted, and both directions at once: Wiyatno and Xu 2018, "Maximal
Jacobian-based saliency map attack", arXiv:1808.07945, sections 3.1 and 3.2.
**Differs from the paper:** the pair is found without trying all pairs: in the best pair each value is surpassed, in a and b both,
by no other value but its partner, and few values are; where one slot is left, a single fills it; values that cannot move are not
in the search from the start; with a radius, that is the most values that change, whatever `gamma` says.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Logits, flat
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.errors import SettingError
from hauberk.threat import Access, Classed, Differentiable, Goal, Norm, Region

__all__ = ["JSMA", "jsma"]

_DIRECTIONS = ("up", "down", "both")


@dataclass(frozen=True)
class JSMA:
    """JSMA. Cost: with k values to change, at most k / `at_once` / `theta` forwards, about, and twice as many backwards, an example.

    Args:
        theta: how far a value moves at a time, in widths of the box.
        gamma: the largest share of the values that changes, where the threat has no radius.
        at_once: 2 moves pairs of values, 1 single ones.
        direction: `up` raises values, `down` lowers them, `both` does what is best for each.
    """

    theta: float = 1.0
    gamma: float = 0.145
    at_once: int = 2
    direction: str = "up"

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})
    smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "theta", "gamma", "at_once")
        if self.theta > 1 or self.gamma > 1:
            raise SettingError(f"jsma needs theta and gamma in (0, 1], got theta={self.theta}, gamma={self.gamma}")
        if self.at_once > 2:
            raise SettingError(f"jsma moves 1 or 2 values at once, got at_once={self.at_once}")
        if self.direction not in _DIRECTIONS:
            raise SettingError(f"jsma moves values {', '.join(_DIRECTIONS)}, got direction={self.direction!r}")

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        if not isinstance(goal, Classed):
            raise SettingError(f"jsma needs a goal about classes, got {type(goal).__name__}; use sigma_zero or fmn")
        features = math.prod(x.shape[1:])
        slots = torch.as_tensor(region.radius, dtype=torch.float64, device=x.device).expand(len(x))
        slots = (
            torch.where(slots.isinf(), max(math.floor(self.gamma * features), self.at_once), slots)
            .clamp_max(features)
            .to(torch.int64)
        )
        found = Closest(victim, x, goal, region)
        z = found.x
        signs = torch.tensor({"up": [1.0], "down": [-1.0], "both": [1.0, -1.0]}[self.direction]).to(x)
        for _ in range(features * math.ceil(1 / self.theta) + 1):
            if not len(found):
                break
            margin, logits, vjp = found.look(z)
            found.drop(found.succeeds(margin, logits))
            towards, others = _saliency(logits, found.goal)
            a, b = flat(vjp(towards)), flat(vjp(others))
            z, a, b = found.compact(z, a, b)
            if not len(found):
                break
            z, moved = self._move(z, a, b, slots[found.rows], signs, found)
            found.drop(~moved)
            (z,) = found.compact(z)
        return found.best

    def _move(
        self, z: Batch, a: Tensor, b: Tensor, slots: Tensor, signs: Tensor, found: Closest
    ) -> tuple[Batch, Tensor]:
        """The next points, and which of them are new."""
        low, high = found.space.box
        values, changed = flat(z), flat(z != found.x)
        free = slots - changed.sum(dim=1)
        steps = [(values + sign * self.theta * (high - low)).clamp(low, high) for sign in signs]
        mask = found.space.mask
        open_to = changed | (free > 0)[:, None]
        if mask is not None:  # what it protects has no gradient, and would look harmless beside a useful value
            open_to &= flat(mask.to(z.device))
        may = [(step != values) & open_to for step in steps]
        a, b = (torch.cat([sign * part for sign in signs], dim=1) for part in (a, b))
        open_ = torch.cat(may, dim=1)
        one, worth = _best_single(a, b, open_)
        picked = one.repeat(1, 2)
        if self.at_once == 2:
            two, worth_two = _best_pair(a, b, open_)
            pair = (free != 1) & (worth_two > 0)
            picked = torch.where(pair[:, None], two, picked)
            worth = torch.where(free != 1, worth_two, worth)
        to = torch.cat(steps, dim=1).gather(1, picked)
        moved = worth > 0
        new = values.scatter(1, picked % values.shape[1], to)
        return torch.where(moved[:, None], new, values).reshape(z.shape), moved


def _saliency(logits: Logits, goal: Goal) -> tuple[Logits, Logits]:
    """Cotangents of the class's score and of the sum of the others, signed so that both should rise."""
    assert isinstance(goal, Classed)
    own = torch.zeros_like(logits).scatter_(1, goal.classes[:, None], 1.0)
    return goal.sign * own, -goal.sign * (1 - own)


def _best_single(a: Tensor, b: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1) the place of the largest a * b with a, b > 0, and (B,) that product; 0 where there is none."""
    worth = (a.clamp_min(0) * b.clamp_min(0) * allowed).max(dim=1, keepdim=True)
    return worth.indices, worth.values[:, 0]


def _best_pair(a: Tensor, b: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2) the places p != q of the largest (a_p + a_q) (b_p + b_q) with both sums > 0, and (B,) that product; 0 where there is none.

    Both sums rise with each of their terms, so that in a best pair each value is at least as large as a third one in a or in b:
    walking down in a, only values are of use whose b is above the second largest b before them.
    """
    lowest = torch.finfo(a.dtype).min
    a, b = a.masked_fill(~allowed, -torch.inf), b.masked_fill(~allowed, -torch.inf)
    falling, order = a.sort(dim=1, descending=True, stable=True)
    beside = b.gather(1, order)
    first = beside.cummax(dim=1).values
    before = torch.cat((torch.full_like(first[:, :1], -torch.inf), first[:, :-1]), dim=1)
    second = torch.minimum(beside, before).cummax(dim=1).values  # the second largest so far
    useful = beside > torch.cat((torch.full_like(second[:, :1], -torch.inf), second[:, :-1]), dim=1)
    count = max(int(useful.sum(dim=1).max()), 2)
    places = useful.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : min(count, a.shape[1])]
    a, b, useful = (part.gather(1, places) for part in (falling, beside, useful))
    a, b = a.masked_fill(~useful, lowest / 4), b.masked_fill(~useful, lowest / 4)
    sum_a, sum_b = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]
    apart = ~torch.eye(a.shape[1], dtype=torch.bool, device=a.device)
    worth = torch.where((sum_a > 0) & (sum_b > 0) & apart, sum_a * sum_b, 0.0).flatten(1)
    best = worth.max(dim=1)
    pair = torch.stack((best.indices // a.shape[1], best.indices % a.shape[1]), dim=1)
    return order.gather(1, places.gather(1, pair)), best.values


jsma = friendly(JSMA)
