"""The objective by scores alone: its value at hand-worked points, its cost, and the weight that follows."""

import torch

from hauberk.blocks import Closest
from hauberk.blocks.distance_and_margin import DistanceAndMargin
from hauberk.blocks.subspaces import Bilinear, Identity
from hauberk.testing import LinearVictim
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter

WEIGHTS = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
VICTIM = LinearVictim(WEIGHTS, torch.tensor([1.0, 0.0], dtype=torch.float64))  # the margin at z is z_0 + 2 z_1 - 1
X = torch.tensor([[0.0, 0.25], [0.5, 0.0]], dtype=torch.float64)
GOAL = Untargeted(torch.zeros(2, dtype=torch.int64))


def objective(ball: Ball, *, tanh: bool = False) -> tuple[Meter, Closest, DistanceAndMargin]:
    meter = Meter(VICTIM, 2)
    found = Closest(meter, X, GOAL, ball)
    made = DistanceAndMargin(found, Identity(), tanh=tanh)
    made.c = torch.tensor([2.0, 3.0], dtype=torch.float64)
    return meter, found, made


def test_its_value_is_the_squared_distance_and_the_weighed_hinge() -> None:
    meter, found, made = objective(Ball(Norm.L2))
    v = torch.tensor([[[0.0, 0.0], [0.1, 0.0], [0.5, 0.5]], [[0.0, 0.0], [0.0, 0.1], [0.0, 2.0]]], dtype=torch.float64)
    wanted = torch.tensor([[2 * 0.5, 0.01 + 2 * 0.4, 0.5], [3 * 0.5, 0.01 + 3 * 0.3, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(made.ask(v), wanted)  # the last of the second is clipped to the box
    assert meter.queries.tolist() == [3, 3]
    assert torch.equal(found.best, X)  # probes are not proposed
    z = made.points(v[:, 1])
    torch.testing.assert_close(made.value(z, found.ask(z)), wanted[:, 1])


def test_a_mask_holds_back_what_a_small_space_would_change() -> None:
    ball = Ball(Norm.L2, mask=torch.tensor([[True, False]]))
    found = Closest(Meter(VICTIM, 2), X, GOAL, ball)
    points = DistanceAndMargin(found, Bilinear(1)).points(torch.full((2, 1), 0.2, dtype=torch.float64))
    torch.testing.assert_close(points, torch.tensor([[0.2, 0.25], [0.7, 0.0]], dtype=torch.float64))


def test_tanh_space_begins_at_the_example_and_stays_in_the_box() -> None:
    _, _, made = objective(Ball(Norm.L2), tanh=True)
    torch.testing.assert_close(made.points(made.zeros()), X)
    for far in (50.0, -50.0):
        points = made.points(torch.full_like(X, far))
        assert bool(((points >= 0) & (points <= 1)).all())
        torch.testing.assert_close(points, torch.full_like(X, float(far > 0)), rtol=0, atol=1e-9)
    held = made.hold(torch.full_like(X, 50.0))
    assert float(held.abs().max()) < 5
    torch.testing.assert_close(made.points(held), made.points(torch.full_like(X, 50.0)))


def test_numbers_beyond_a_wall_are_held_there() -> None:
    _, _, made = objective(Ball(Norm.L2))
    held = made.hold(torch.tensor([[0.3, 0.9], [-0.6, -0.1]], dtype=torch.float64))
    torch.testing.assert_close(held, torch.tensor([[0.3, 0.75], [-0.5, 0.0]], dtype=torch.float64))


def test_the_first_weight_holds_the_nearest_point_of_the_boundary_four_times() -> None:
    # on a plane the nearest point has |d| = |m| / |g|, where 2 d = c g: the least c is 2 |m| / |g|^2
    _, found, made = objective(Ball(Norm.L2))
    made.c = torch.full_like(made.c, 10.0)
    margin = found.ask(found.x)
    share = made.begin(margin, torch.full_like(margin, 5.0 * 10.0**2))
    torch.testing.assert_close(made.c, 4 * 2 * margin.abs() / 5.0)
    torch.testing.assert_close(share, made.c / 10)


def test_the_weight_follows_each_example() -> None:
    _, _, made = objective(Ball(Norm.L2))
    made.follow(torch.tensor([True, False]), 0.25)
    torch.testing.assert_close(made.c, torch.tensor([2 / 1.25, 3 * 1.25], dtype=torch.float64))
