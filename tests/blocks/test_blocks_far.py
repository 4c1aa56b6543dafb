"""Far starts reach the goal, lie just beyond the boundary, and come from each example's own stream."""

import pytest
import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk.blocks import Closest
from hauberk.blocks.far import far_start
from hauberk.testing import LinearVictim
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter


def far(x: Tensor, victim: LinearVictim, blocks: bool, ids: Tensor) -> tuple[Tensor, Closest]:
    goal = Untargeted(victim.labels(x, torch.arange(len(x))))
    found = Closest(Meter(victim, len(x)), x, goal, Ball(Norm.L2))
    return far_start(found, Streams(0, ids, "far"), blocks=blocks), found


@pytest.mark.parametrize("blocks", [False, True], ids=["noise", "blocks"])
def test_a_far_start_lies_just_beyond_the_boundary(blocks: bool) -> None:
    ids = torch.arange(12)
    victim = LinearVictim.random(4, 36)
    x = Streams(4, ids, "examples").uniform(ids, (1, 6, 6), dtype=torch.float64)
    z, found = far(x, victim, blocks, ids)
    assert len(z) == len(found) > 6
    margin = found.goal.margin(victim.logits(z, found.rows))
    assert bool((margin > 0).all())
    back = found.x + 0.9 * (z - found.x)
    assert bool((found.goal.margin(victim.logits(back, found.rows)) < 0).all())
    alone, _ = far(x[5:6], victim, blocks, ids[5:6])
    place = (found.rows == 5).nonzero().flatten()
    assert torch.allclose(alone, z[place], atol=1e-12)


def test_examples_that_no_draw_breaks_have_no_far_start() -> None:
    ids = torch.arange(3)
    weights = torch.zeros(2, 4, dtype=torch.float64)
    victim = LinearVictim(weights, torch.tensor([1.0, 0.0], dtype=torch.float64))
    z, found = far(torch.full((3, 4), 0.5, dtype=torch.float64), victim, False, ids)
    assert len(z) == len(found) == 0
    assert found.victim.queries.tolist() == [10, 10, 10]
