"""Far starts reach the goal, lie just beyond the boundary, and come from each example's own stream."""

import pytest
import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk.blocks import Closest
from hauberk.blocks.far import FAR, far_start
from hauberk.testing import LinearVictim
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter


def far(x: Tensor, victim: LinearVictim, draw: str, ids: Tensor) -> tuple[Tensor, Closest]:
    goal = Untargeted(victim.labels(x, torch.arange(len(x))))
    found = Closest(Meter(victim, len(x)), x, goal, Ball(Norm.L2))
    return far_start(found, Streams(0, ids, "far"), FAR[draw]), found


@pytest.mark.parametrize("draw", ["noise", "blocks"])
def test_a_far_start_lies_just_beyond_the_boundary(draw: str) -> None:
    ids = torch.arange(12)
    victim = LinearVictim.random(4, 36)
    x = Streams(4, ids, "examples").uniform(ids, (1, 6, 6), dtype=torch.float64)
    z, found = far(x, victim, draw, ids)
    assert len(z) == len(found) > 6
    margin = found.goal.margin(victim.logits(z, found.rows))
    assert bool((margin > 0).all())
    back = found.x + 0.9 * (z - found.x)
    assert bool((found.goal.margin(victim.logits(back, found.rows)) < 0).all())
    alone, _ = far(x[5:6], victim, draw, ids[5:6])
    place = (found.rows == 5).nonzero().flatten()
    assert torch.allclose(alone, z[place], atol=1e-12)


def test_examples_that_no_draw_breaks_have_no_far_start() -> None:
    ids = torch.arange(3)
    weights = torch.zeros(2, 4, dtype=torch.float64)
    victim = LinearVictim(weights, torch.tensor([1.0, 0.0], dtype=torch.float64))
    z, found = far(torch.full((3, 4), 0.5, dtype=torch.float64), victim, "noise", ids)
    assert len(z) == len(found) == 0
    assert found.victim.queries.tolist() == [10, 10, 10]


def test_salt_throws_at_most_about_half_of_the_values_of_the_best_to_the_walls() -> None:
    ids = torch.arange(8)
    victim = LinearVictim.random(4, 400)
    x = 0.25 + Streams(4, ids, "examples").uniform(ids, (400,), dtype=torch.float64) / 2
    _, found = far(x, victim, "noise", ids)
    z = FAR["salt"](found, Streams(0, ids, "salt"))
    best = found.best[found.rows]
    thrown = (z != best).double().mean(dim=1)
    assert bool(((z == best) | (z == 0) | (z == 1)).all())
    assert float(thrown.max()) < 0.56
    assert float(thrown.std()) > 0.05  # a share of its own for each example
