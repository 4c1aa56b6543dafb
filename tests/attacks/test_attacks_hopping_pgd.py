"""Hopping PGD spends its climbs by what is left of the clean margin, and looks at rivals beyond the nearest."""

import torch

from hauberk._rng import Streams
from hauberk.attacks import HoppingPGD
from hauberk.testing import LinearVictim
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter

# class 1 begins at 0.5: at distance d the best point within eps keeps 1 - eps / d of the clean margin
LINE = LinearVictim(torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64))
X = torch.tensor([[0.1]], dtype=torch.float64)


def climbs(left: float, **settings: float | None) -> int:
    """How many climbs an example gets of which this share of the clean margin is left; one query is the clean one, one the rivals'."""
    meter = Meter(LINE, 1)
    attack = HoppingPGD(steps=3, candidates=2, **settings)  # type: ignore[arg-type]  # whole numbers where they must be
    region = Ball(Norm.LINF, 0.4 * (1 - left))
    attack(meter, X, Untargeted(torch.zeros(1, dtype=torch.int64)), region, streams=Streams(0, torch.tensor([0])))
    assert int(meter.backwards) % 3 == 0
    assert int(meter.queries) == 2 + int(meter.backwards) // 3 * (2 + 3 + 1)
    return int(meter.backwards) // 3


def test_an_example_that_stays_far_gets_the_floor() -> None:
    assert climbs(0.9) == 2
    assert climbs(0.9, floor=4) == 4
    assert climbs(0.5, restarts=1) == 1


def test_an_example_that_comes_near_gets_more() -> None:
    assert climbs(0.39) == 4  # 0.39 <= 0.4 after 2 climbs, but > 0.4 * sqrt(2 / 4)
    assert climbs(0.15) == 16  # 0.15 <= 0.4 * sqrt(2 / 12), but > 0.4 * sqrt(2 / 16)
    assert climbs(0.01) == 64


def test_without_near_every_example_gets_every_climb() -> None:
    assert climbs(0.9, near=None, restarts=13) == 13


def test_the_next_nearest_class_is_reached_where_the_nearest_cannot_be() -> None:
    # to the left class 1 rises, but not enough; to the right, beyond a valley, class 2 passes
    weights = torch.tensor([[0.0], [-0.2], [2.5]], dtype=torch.float64)
    victim = LinearVictim(weights, torch.tensor([0.0, 0.0, -2.15], dtype=torch.float64))
    x, region = torch.full((16, 1), 0.5, dtype=torch.float64), Ball(Norm.LINF, 0.4)
    goal, everyone = Untargeted(torch.zeros(16, dtype=torch.int64)), torch.arange(16)

    def left(rivals: int) -> int:
        attack = HoppingPGD(steps=3, restarts=1, candidates=1, rivals=rivals, loss="margin")
        points = attack(Meter(victim, 16), x, goal, region, streams=Streams(0, everyone))
        return int((goal.margin(victim.logits(points, everyone)) <= 0).sum())

    assert 0 < left(rivals=0) < 16  # those that begin at the right corner break at once
    assert left(rivals=1) == 0
