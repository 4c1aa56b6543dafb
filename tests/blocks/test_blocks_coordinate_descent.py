"""Descents along coordinates: one pass of Newton's is exact on a plane, at walls, under masks and in small spaces."""

import math

import pytest
import torch

from hauberk.blocks import Closest
from hauberk.blocks.coordinate_descent import AdamDescent, NewtonDescent
from hauberk.blocks.subspaces import Identity, LowFrequencies, Subspace
from hauberk.testing import LinearVictim
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter

WEIGHTS = torch.tensor([[0.0] * 4, [3.0, -2.0, 1.0, 0.5]], dtype=torch.float64)
VICTIM = LinearVictim(WEIGHTS, torch.tensor([1.5, 0.0], dtype=torch.float64))  # the margin at z is <w, z> - 1.5
X = torch.tensor([[0.2, 0.4, 0.3, 0.6], [0.0, 0.05, 1.0, 0.0]], dtype=torch.float64)  # the second at walls
GOAL = Untargeted(torch.zeros(2, dtype=torch.int64))
ALL = torch.arange(4).expand(2, -1)


def one_pass(ball: Ball, space: Subspace, *turns: torch.Tensor) -> tuple[Meter, Closest]:
    meter = Meter(VICTIM, 2)
    found = Closest(meter, X, GOAL, ball)
    descent = NewtonDescent(found, found.ask(found.x), 0.01)
    descent.enter(space)
    for place, chosen in enumerate(turns):
        descent.step(chosen, whole=place == len(turns) - 1, pace=1.0)
        found.compact()
    return meter, found


@pytest.mark.parametrize("turns", [(ALL,), (ALL[:, :1], ALL[:, 1:3], ALL[:, 3:])])
def test_newton_finds_the_nearest_point_of_a_plane_in_the_box(turns: tuple[torch.Tensor, ...]) -> None:
    meter, found = one_pass(Ball(Norm.L2), Identity(), *turns)
    torch.testing.assert_close(found.size, VICTIM.optimal_distance(X, GOAL.classes, Norm.L2), rtol=2e-3, atol=0)
    assert meter.queries.tolist() == [1 + 8 + len(turns) + 4] * 2


def test_newton_keeps_to_its_mask() -> None:
    mask = torch.tensor([[True, False, False, True]])
    _, found = one_pass(Ball(Norm.L2, mask=mask), Identity(), ALL)
    gap = 1.5 - X @ WEIGHTS[1]
    torch.testing.assert_close(found.size[0], gap[0] / math.hypot(3.0, 0.5), rtol=2e-3, atol=0)
    assert torch.equal(found.best[:, 1:3], X[:, 1:3])


def test_newton_finds_the_nearest_point_of_a_small_space() -> None:
    space = LowFrequencies(2)
    _, found = one_pass(Ball(Norm.L2), space, ALL[:, :2])
    slope = space.lower(WEIGHTS[1:])
    gap = 1.5 - X @ WEIGHTS[1]
    torch.testing.assert_close(found.size[0], gap[0] / slope.norm(), rtol=2e-3, atol=0)
    change = (found.best - X)[:1]
    torch.testing.assert_close(space.lift(space.lower(change), (4,)), change)


def test_newton_carries_its_slopes_into_a_finer_space() -> None:
    meter = Meter(VICTIM, 2)
    found = Closest(meter, X, GOAL, Ball(Norm.L2))
    descent = NewtonDescent(found, found.ask(found.x), 0.01)
    descent.enter(LowFrequencies(2))
    descent.step(ALL[:, :2], whole=True, pace=1.0)
    coarse = found.size.clone()
    descent.enter(Identity())
    torch.testing.assert_close(
        descent.numbers()[0], LowFrequencies(2).lift(LowFrequencies(2).lower(WEIGHTS[1:]), (4,))[0]
    )
    descent.step(ALL, whole=True, pace=1.0)
    assert float(found.size[0]) < float(coarse[0])
    torch.testing.assert_close(found.size, VICTIM.optimal_distance(X, GOAL.classes, Norm.L2), rtol=2e-3, atol=0)


def test_later_slopes_are_averaged_with_earlier_ones() -> None:
    found = Closest(
        Meter(_Bent(), 1), torch.tensor([[0.5]], dtype=torch.float64), Untargeted(torch.tensor([0])), Ball(Norm.L2)
    )
    descent = NewtonDescent(found, found.ask(found.x), 0.01)
    descent.enter(Identity())
    seen = []
    for _ in range(2):
        at = float(found.best[0, 0]) if seen else 0.5
        descent.step(torch.tensor([[0]]), whole=True, pace=1.0)
        seen.append((at, float(descent.numbers()[0, 0])))
    assert seen[0][1] == pytest.approx(1.0, abs=1e-9)  # 2 z at 0.5
    assert seen[1][1] == pytest.approx((1.0 + 2 * seen[1][0]) / 2, abs=2e-3)


class _Bent:
    """Scores 0 and z^2 - 0.36."""

    def __new__(cls) -> LinearVictim:
        victim = LinearVictim(torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
        victim.logits = lambda x, rows: torch.cat((0 * x, x.square() - 0.36), dim=1)  # type: ignore[method-assign]
        return victim


def test_adam_counts_each_coordinate_by_itself() -> None:
    # the first step of Adam is the rate, whichever coordinate it is and whenever its turn comes
    found = Closest(Meter(VICTIM, 2), X[:1].repeat(2, 1), GOAL, Ball(Norm.L2))
    descent = AdamDescent(found, found.ask(found.x), 0.01, 0.02, tanh=False)
    descent.enter(Identity())
    for place in (0, 0, 1):
        descent.step(torch.full((2, 1), place), whole=False, pace=1.0)
    moved = descent.numbers()
    torch.testing.assert_close(moved[:, 1], torch.full((2,), -0.02, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(moved[:, 0], torch.full((2,), 0.04, dtype=torch.float64), rtol=0, atol=2e-3)
    assert not bool(moved[:, 2:].any())
