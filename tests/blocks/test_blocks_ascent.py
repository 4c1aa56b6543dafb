"""The climb, the frontier, starts, schedules and the judge, against their definitions."""

import math
from typing import Any

import pytest
import torch

from hauberk._rng import Streams
from hauberk.blocks import SCHEDULES, STARTS, Frontier, ascend, loss_named, schedule_named, start_named
from hauberk.blocks.judge import judge
from hauberk.errors import SettingError, UnknownNameError
from hauberk.testing import LinearVictim
from hauberk.testing.setting import pictures, with_holes
from hauberk.threat import Access, Ball, Norm, Untargeted
from hauberk.victims import Meter

S = pictures()
ROWS = torch.arange(len(S))


def slope(x: torch.Tensor) -> torch.Tensor:
    logits, vjp = S.victim.pullback(x, ROWS)  # type: ignore[attr-defined]  # a TorchVictim
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        loss = -leaf.log_softmax(dim=1).gather(1, S.y[:, None]).sum()
    return vjp(torch.autograd.grad(loss, leaf)[0])


def climb(steps: int, step: float, momentum: float = 0.0, schedule: str = "constant") -> torch.Tensor:
    """The last point that an L-inf climb from the examples asks."""
    asked: list[torch.Tensor] = []

    class Spy(Meter):
        def logits(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            asked.append(x.clone())
            return super().logits(x, rows)

    frontier = Frontier(Spy(S.victim, len(S)), S.x, Untargeted(S.y), Ball(Norm.LINF, 0.05), early_stop=False)
    ascend(
        frontier,
        S.x,
        loss=loss_named("ce"),
        steps=steps,
        step_size=step,
        schedule=schedule_named(schedule),
        momentum=momentum,
    )
    assert len(asked) == 1  # climbing asks with gradients, only the last point without
    return asked[0]


def test_one_step_is_the_sign_of_the_gradient_clipped() -> None:
    expected = (S.x + 0.03 * slope(S.x).sign()).clamp(0, 1)
    assert torch.allclose(climb(1, 0.03), expected, atol=1e-12)


def test_two_steps_with_momentum_are_those_of_the_paper() -> None:
    g1 = slope(S.x)
    v = g1 / g1.abs().sum(dim=(1, 2, 3), keepdim=True)
    z = (S.x + 0.03 * v.sign()).clamp(0, 1)
    g2 = slope(z)
    v = 0.9 * v + g2 / g2.abs().sum(dim=(1, 2, 3), keepdim=True)
    z = z + 0.03 * v.sign()
    z = torch.max(torch.min(z, S.x + 0.05), S.x - 0.05).clamp(0, 1)
    assert torch.allclose(climb(2, 0.03, momentum=0.9), z, atol=1e-12)


def test_the_step_falls_as_its_schedule_says() -> None:
    z = (S.x + 0.02 * slope(S.x).sign()).clamp(0, 1)
    z = (z + 0.01 * slope(z).sign()).clamp(0, 1)
    assert torch.allclose(climb(2, 0.02, schedule="linear"), z, atol=1e-12)
    for schedule in SCHEDULES.values():
        assert schedule(0, 10) == 1
        factors = [schedule(step, 10) for step in range(10)]
        assert factors == sorted(factors, reverse=True)
        assert min(factors) > 0
    assert schedule_named("cosine")(5, 10) == pytest.approx(0.5)
    assert schedule_named("linear")(3, 12) == pytest.approx(0.75)
    with pytest.raises(UnknownNameError, match="cosine"):
        schedule_named("cosin")


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1, Norm.L0], ids=str)
def test_a_climb_goes_on_with_other_coordinates_where_the_best_one_stands_at_the_wall(norm: Norm) -> None:
    # the steepest coordinate has room for 0.1 only; the boundary is beyond it
    victim = LinearVictim(
        torch.tensor([[0.0, 0.0], [5.0, 1.0]], dtype=torch.float64), torch.tensor([5.2, 0.0], dtype=torch.float64)
    )
    x, y = torch.tensor([[0.9, 0.0]], dtype=torch.float64), torch.tensor([0])
    frontier = Frontier(Meter(victim, 1), x, Untargeted(y), Ball(norm, 2.0))
    ascend(frontier, x, loss=loss_named("margin"), steps=10, step_size=0.2, schedule=schedule_named("constant"))
    assert bool(frontier.margin > 0)


def test_broken_examples_leave_and_cost_nothing_more() -> None:
    meter = Meter(S.victim, len(S))
    frontier = Frontier(meter, S.x, Untargeted(S.y), Ball(Norm.LINF, 0.1))
    kept: list[int] = []

    def watch(step: int, values: torch.Tensor, gradient: torch.Tensor) -> None:
        kept.append(len(values))

    ascend(
        frontier,
        S.x,
        loss=loss_named("margin"),
        steps=8,
        step_size=0.03,
        schedule=schedule_named("constant"),
        watch=watch,
    )
    broken = frontier.margin > 0
    assert 0 < int(broken.sum()) < len(S)
    assert kept == sorted(kept, reverse=True)
    assert meter.queries[~broken].eq(9).all()
    assert meter.backwards[~broken].eq(8).all()
    assert meter.queries[broken].lt(9).all()
    assert int(meter.backwards.sum()) == sum(kept)
    assert torch.equal(Untargeted(S.y).margin(S.victim.logits(frontier.best, ROWS)) > 0, broken)


def test_the_best_point_is_kept_and_never_one_with_scores_that_are_not_finite() -> None:
    holes = with_holes()
    frontier = Frontier(Meter(holes.victim, 9), holes.x, Untargeted(holes.y), Ball(Norm.LINF, 0.5), early_stop=False)
    frontier.ask(holes.x)
    first = frontier.margin.clone()
    inside = holes.x.clone()
    inside[:, 0, 0, 0] = 0.25
    frontier.ask(inside)
    assert torch.equal(frontier.margin, first)
    assert torch.equal(frontier.best, holes.x)
    values, gradient = frontier.climb(inside, loss_named("ce"))
    assert values.isnan().all()
    assert gradient.eq(0).all()


def test_a_label_that_stands_for_scores_that_are_not_finite_is_no_success() -> None:
    holes = with_holes()
    meter = Meter(holes.victim, 9, access=Access.LABELS)
    inside = holes.x.clone()
    inside[:, 0, 0, 0] = 0.25
    frontier = Frontier(meter, holes.x, Untargeted(holes.y), Ball(Norm.LINF, 0.5))
    frontier.ask(inside)
    assert frontier.margin.eq(-torch.inf).all()
    assert meter.labels(inside, ROWS).eq(-1).all()
    assert not judge(meter, inside, holes.x, Untargeted(holes.y), Ball(Norm.LINF, 0.5), ROWS).broken.any()


def test_examples_without_budget_leave_and_come_back_in_no_restart() -> None:
    meter = Meter(S.victim, len(S), budget=3)
    meter.queries[:4] = 3
    frontier = Frontier(meter, S.x, Untargeted(S.y), Ball(Norm.LINF, 0.001))
    assert frontier.rows.tolist() == [4, 5, 6, 7, 8]
    for _ in range(3):
        frontier.ask(frontier.x)
        frontier.compact()
    assert len(frontier) == 0
    frontier.restart()
    assert len(frontier) == 0
    assert torch.equal(frontier.best, S.x)


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("norm", list(Norm), ids=str)
def test_a_start_lies_in_the_region_and_does_not_depend_on_the_batch(name: str, norm: Norm) -> None:
    ball = Ball(norm, {Norm.LINF: 0.1, Norm.L2: 1.0, Norm.L1: 3.0, Norm.L0: 4.0}[norm])
    whole = start_named(name)(S.x, ROWS, ball, Streams(0, S.ids))
    assert ball.contains(whole, S.x).all()
    part = start_named(name)(S.x[5:6], torch.tensor([0]), ball, Streams(0, S.ids[5:6]))
    assert torch.allclose(whole[5:6], part, atol=1e-12)
    with pytest.raises(UnknownNameError, match="blocks"):
        start_named("block")


def test_a_block_corner_is_constant_on_blocks_of_every_side() -> None:
    n = 200
    x = torch.full((n, 2, 28, 28), 0.5, dtype=torch.float64)
    z = start_named("blocks")(x, torch.arange(n), Ball(Norm.LINF, 0.25), Streams(0, torch.arange(n)))
    signs = (z - x) / 0.25
    assert torch.allclose(signs.abs(), torch.ones_like(signs))
    sides = []
    for one in signs:
        side = next(
            s
            for s in (28, 14, 7, 4, 2)
            if all(block.std() == 0 for block in one.unfold(1, s, s).unfold(2, s, s).reshape(-1, s * s))
        )
        sides.append(side)
        assert {float(value) for value in one.unique()} <= {-1.0, 1.0}
    assert set(sides) == {28, 14, 7, 4, 2}


class Told:
    """A victim that answers scores it was told."""

    access, forwards_per_query = Access.SCORES, 1

    def __init__(self, scores: list[list[float]]) -> None:
        self.scores = torch.tensor(scores, dtype=torch.float64)

    def logits(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self.scores


def test_the_judge_believes_only_finite_points_in_the_region_that_reach_the_goal() -> None:
    nan, inf = math.nan, math.inf
    x = torch.full((7, 3), 0.5, dtype=torch.float64)
    points = x + torch.tensor([[0.1], [0.1], [0.11], [nan], [inf], [0.0], [0.1]], dtype=torch.float64)
    points[6, 0] = 1.5
    scores = [[0.0, 1.0]] * 7
    scores[1] = [1.0, 0.0]
    verdict = judge(
        Told(scores), points, x, Untargeted(torch.zeros(7, dtype=torch.int64)), Ball(Norm.LINF, 0.1), torch.arange(7)
    )
    assert verdict.allowed.tolist() == [True, True, False, False, False, True, False]
    assert verdict.broken.tolist() == [True, False, False, False, False, True, False]
    assert verdict.confidence[0].item() == pytest.approx(math.e / (1 + math.e))


@pytest.mark.parametrize(
    "scores", [[math.nan, 0.0], [0.0, math.nan], [-math.inf, 0.0], [0.0, math.inf], [math.nan, math.nan]]
)
def test_scores_that_are_not_finite_are_never_broken_and_have_no_label(scores: list[float]) -> None:
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    verdict = judge(Told([scores]), x, x, Untargeted(torch.tensor([0])), Ball(Norm.LINF, 0.1), torch.arange(1))
    assert verdict.broken.tolist() == [False]
    assert verdict.labels.tolist() == [-1]


@pytest.mark.parametrize(
    "points", [torch.zeros(2, 3), torch.zeros(3, 3, dtype=torch.float64), None], ids=["dtype", "count", "none"]
)
def test_an_attack_that_returns_something_else_than_points_is_named(points: Any) -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(SettingError, match="one point per example"):
        judge(
            Told([[0.0, 1.0]] * 2),
            points,
            x,
            Untargeted(torch.zeros(2, dtype=torch.int64)),
            Ball(Norm.LINF, 0.1),
            torch.arange(2),
        )
