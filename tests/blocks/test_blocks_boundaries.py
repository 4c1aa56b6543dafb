"""Decision boundaries as planes, against the closed form of linear victims; and the small blocks beside them."""

import torch

from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope, nearest_plane, planes_at_start, rivals_of
from hauberk.blocks.confident import with_confidence
from hauberk.blocks.tanh_space import TanhSpace
from hauberk.testing import LinearVictim, linear_settings
from hauberk.threat import Ball, Norm, Predicate, Rival, Targeted, Untargeted
from hauberk.victims import Meter

VICTIM, SETTING = linear_settings()["classes"]
WIDE = LinearVictim(VICTIM.weights, VICTIM.bias, bounds=(-50, 50))
ROWS = torch.arange(len(SETTING))


def test_the_nearest_plane_of_a_linear_victim_is_its_optimum() -> None:
    logits, vjp = WIDE.pullback(SETTING.x, ROWS)
    goal = Untargeted(SETTING.y)
    rivals = rivals_of(logits, goal, 10)
    assert rivals.shape == (24, 4)
    for norm in (Norm.L2, Norm.LINF):
        plane, lengths = nearest_plane(SETTING.x, logits, vjp, goal, Ball(norm, box=(-50, 50)), rivals)
        assert torch.allclose(plane.distance, WIDE.optimal_distance(SETTING.x, SETTING.y, norm))
        again, _ = nearest_plane(SETTING.x, logits, vjp, goal, Ball(norm, box=(-50, 50)), rivals, lengths, count=1)
        assert torch.equal(again.distance, plane.distance)
        assert torch.equal(again.gradient, plane.gradient)


def test_only_the_planes_that_are_asked_for_cost_a_backward() -> None:
    meter = Meter(WIDE, 24)
    logits, vjp = meter.pullback(SETTING.x, ROWS)
    goal, ball = Untargeted(SETTING.y), Ball(Norm.L2, box=(-50, 50))
    rivals = rivals_of(logits, goal, 10)
    _, lengths = nearest_plane(SETTING.x, logits, vjp, goal, ball, rivals, first=2)
    assert meter.backwards.tolist() == [2] * 24
    assert lengths.isnan().sum(dim=1).tolist() == [2] * 24
    _, lengths = nearest_plane(SETTING.x, logits, vjp, goal, ball, rivals, lengths, count=4)
    assert meter.backwards.tolist() == [6] * 24
    assert not bool(lengths.isnan().any())


def test_a_plane_cannot_be_reached_along_what_stands_at_a_wall() -> None:
    x = torch.zeros_like(SETTING.x)
    logits, vjp = VICTIM.pullback(x, ROWS)
    goal = Targeted(torch.zeros(24, dtype=torch.int64))
    stopped, free = (
        nearest_plane(x, logits, vjp, goal, Ball(Norm.L2), rivals_of(logits, goal, 10), walls=walls)[0]
        for walls in (True, False)
    )
    assert bool((stopped.gradient >= 0).all())
    assert torch.equal(stopped.gradient, free.gradient.clamp_min(0))
    assert bool((stopped.distance >= free.distance).all())


def test_the_planes_at_the_start_come_by_distance_for_each_example() -> None:
    ball = Ball(Norm.L2, box=(-50, 50))
    found = Closest(WIDE, SETTING.x, Untargeted(SETTING.y), ball)
    goals, distances, lengths = planes_at_start(found, Untargeted(SETTING.y), 3)
    assert len(goals) == 3
    assert bool((distances.diff(dim=1) >= 0).all())
    assert torch.allclose(distances[:, 0], WIDE.optimal_distance(SETTING.x, SETTING.y, Norm.L2))
    logits = WIDE.logits(SETTING.x, ROWS)
    for goal, distance, length in zip(goals, distances.T, lengths.T, strict=True):
        assert isinstance(goal, Rival)
        assert torch.allclose(-goal.margin(logits), distance * length)
    goals, distances, _ = planes_at_start(found, Targeted((SETTING.y + 1) % 5), 3)
    assert [type(goal) for goal in goals] == [Targeted]
    assert distances.shape == (24, 1)


def test_a_predicate_without_a_slope_has_no_direction() -> None:
    logits = WIDE.logits(SETTING.x, ROWS)
    margin, slope = margin_slope(logits, Predicate(lambda scores, context: context, torch.full((24,), -1.0)))
    assert margin.tolist() == [-1.0] * 24
    assert not bool(slope.any())


def test_a_confidence_moves_the_margin_and_nothing_else() -> None:
    goal = Untargeted(SETTING.y)
    assert with_confidence(goal, 0.0) is goal
    logits = WIDE.logits(SETTING.x, ROWS)
    sure = with_confidence(goal, 2.5)
    assert torch.equal(sure.margin(logits), goal.margin(logits) - 2.5)
    assert torch.equal(sure.take(ROWS[3:5]).margin(logits[3:5]), goal.take(ROWS[3:5]).margin(logits[3:5]) - 2.5)
    assert torch.equal(sure.reached(SETTING.y), goal.reached(SETTING.y))


def test_tanh_space_has_a_slope_at_the_walls_and_leads_back() -> None:
    space = TanhSpace((-1.0, 3.0), 0.9)
    z = torch.linspace(-1, 3, 41, dtype=torch.float64)
    w = space.enter(z)
    back, slope = space.leave(w)
    assert bool(w.isfinite().all())
    assert torch.allclose(back, z, atol=1e-12)
    assert float(slope.min()) > 0.4  # (1 - 0.81) / 0.9 of half the width
    step = 1e-6
    ahead = (space.leave(w[1:-1] + step)[0] - space.leave(w[1:-1] - step)[0]) / (2 * step)
    assert torch.allclose(ahead, slope[1:-1], rtol=1e-6)
    assert torch.equal(space.leave(space.hold(w + 100))[0], torch.full_like(z, 3.0))
