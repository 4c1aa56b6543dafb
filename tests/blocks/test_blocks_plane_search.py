"""The search for the nearest point of the boundary: exact with the slopes of a plane, which random changes teach it."""

import torch

from hauberk._rng import Streams
from hauberk.blocks import Closest
from hauberk.blocks.plane_search import PlaneSearch
from hauberk.blocks.subspaces import Identity, LowFrequencies
from hauberk.testing import LinearVictim
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter

WEIGHTS = torch.tensor([[0.0] * 4, [3.0, -2.0, 1.0, 0.5]], dtype=torch.float64)
VICTIM = LinearVictim(WEIGHTS, torch.tensor([1.5, 0.0], dtype=torch.float64))  # the margin at z is <w, z> - 1.5
X = torch.tensor([[0.2, 0.4, 0.3, 0.6], [0.3, 0.5, 0.4, 0.3]], dtype=torch.float64)
GOAL = Untargeted(torch.zeros(2, dtype=torch.int64))
OPTIMAL = VICTIM.optimal_distance(X, GOAL.classes, Norm.L2)


def searching(ball: Ball, budget: int | None = None) -> tuple[Meter, Closest, PlaneSearch]:
    meter = Meter(VICTIM, 2, budget=budget)
    found = Closest(meter, X, GOAL, ball)
    return meter, found, PlaneSearch(found, found.ask(found.x))


def test_with_the_slopes_of_a_plane_one_move_is_all() -> None:
    meter, found, search = searching(Ball(Norm.L2))
    search.slope[:] = WEIGHTS[1]
    search.move(1.0, 0)
    assert meter.queries.tolist() == [2, 2]
    torch.testing.assert_close(found.size, OPTIMAL, rtol=2e-3, atol=0)


def test_slopes_of_the_wrong_length_are_made_up_for_on_the_line() -> None:
    meter, found, search = searching(Ball(Norm.L2))
    search.slope[:] = 0.6 * WEIGHTS[1]
    search.move(1.0, 12)
    assert meter.queries.tolist() == [14, 14]
    torch.testing.assert_close(found.size, OPTIMAL, rtol=5e-3, atol=0)


def test_as_much_is_left_out_as_is_not_known() -> None:
    _, _, search = searching(Ball(Norm.L2))
    search.slope[:] = WEIGHTS[1]
    search.move(torch.tensor([0.5, 1.0], dtype=torch.float64), 0)
    sizes = search.change.norm(dim=1) / OPTIMAL
    torch.testing.assert_close(sizes, torch.tensor([0.5, 1.0], dtype=torch.float64), rtol=2e-3, atol=0)


def test_random_changes_teach_the_slopes() -> None:
    meter, _, search = searching(Ball(Norm.L2))
    search.change[:] = 0.1
    search.margin[:] += 0.1 * WEIGHTS[1].sum()
    streams = Streams(0, torch.arange(2), "plane")
    search.correct(Identity(), streams, 3)
    assert meter.queries.tolist() == [4, 4]
    early = (search.slope - WEIGHTS[1]).norm(dim=1)
    for _ in range(8):
        search.correct(Identity(), streams, 3)
    late = (search.slope - WEIGHTS[1]).norm(dim=1)
    assert bool((early < WEIGHTS[1].norm()).all())
    assert bool((late < 0.01 * early).all())


def test_random_changes_of_a_small_space_teach_what_they_see() -> None:
    _, _, search = searching(Ball(Norm.L2, mask=torch.tensor([[True, True, True, False]])))
    search.change[:, :3] = 0.1
    search.margin[:] += 0.1 * WEIGHTS[1, :3].sum()
    streams, space = Streams(0, torch.arange(2), "plane"), LowFrequencies(1)
    for _ in range(4):
        search.correct(space, streams, 2)
    # all values but the masked one move alike
    mean = WEIGHTS[1, :3].mean().expand(2, 3)
    torch.testing.assert_close(search.slope[:, :3], mean, rtol=1e-2, atol=0)
    assert not bool(search.slope[:, 3].any())


def test_who_cannot_pay_learns_from_what_was_answered() -> None:
    meter, found, search = searching(Ball(Norm.L2), budget=4)
    search.change[:] = 0.1
    search.margin[:] += 0.1 * WEIGHTS[1].sum()
    meter.queries[1] = 2
    search.correct(Identity(), Streams(0, torch.arange(2), "plane"), 3)
    assert meter.queries.tolist() == [4, 4]
    assert bool(search.slope.isfinite().all())
    assert bool(search.slope[1].any())
    found.compact()
    assert len(found) == 0
