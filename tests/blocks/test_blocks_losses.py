"""Losses against the formulas of the papers, written out for one example at a time."""

import math

import pytest
import torch

from hauberk.blocks import LOSSES, loss_named
from hauberk.blocks.losses import cross_entropy, dlr, margin, probability_margin, value_and_cotangent
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Goal, Predicate, Rival, Targeted, TopK, Untargeted

LOGITS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
TRUE = torch.arange(40) % 6
OTHER = (TRUE + 1 + torch.arange(40) % 5) % 6


def test_cross_entropy_is_minus_the_log_probability_to_leave_and_plus_the_one_to_reach() -> None:
    for row, (z, y, t) in enumerate(zip(LOGITS.tolist(), TRUE.tolist(), OTHER.tolist(), strict=True)):
        total = sum(math.exp(value) for value in z)
        away = cross_entropy(LOGITS[row : row + 1], Untargeted(TRUE[row : row + 1]))
        towards = cross_entropy(LOGITS[row : row + 1], Targeted(OTHER[row : row + 1]))
        rival = cross_entropy(LOGITS[row : row + 1], Rival(OTHER[row : row + 1], TRUE[row : row + 1]))
        assert away.item() == pytest.approx(-math.log(math.exp(z[y]) / total))
        assert towards.item() == rival.item() == pytest.approx(math.log(math.exp(z[t]) / total))


def test_dlr_is_equation_6_and_with_a_target_equation_7() -> None:
    for row, (z, y, t) in enumerate(zip(LOGITS.tolist(), TRUE.tolist(), OTHER.tolist(), strict=True)):
        pi = sorted(z, reverse=True)
        best_other = max(value for k, value in enumerate(z) if k != y)
        plain = -(z[y] - best_other) / (pi[0] - pi[2])
        targeted = -(z[y] - z[t]) / (pi[0] - (pi[2] + pi[3]) / 2)
        one = slice(row, row + 1)
        assert dlr(LOGITS[one], Untargeted(TRUE[one])).item() == pytest.approx(plain)
        assert dlr(LOGITS[one], Rival(OTHER[one], TRUE[one])).item() == pytest.approx(targeted)


def test_dlr_does_not_change_when_the_logits_are_shifted_or_scaled() -> None:
    for goal in (Untargeted(TRUE), Rival(OTHER, TRUE), Targeted(OTHER)):
        assert torch.allclose(dlr(LOGITS, goal), dlr(LOGITS * 100 + 7, goal))


@pytest.mark.parametrize("classes", [2, 3])
def test_dlr_works_with_few_classes(classes: int) -> None:
    logits, y = LOGITS[:, :classes], TRUE % classes
    for goal in (Untargeted(y), Rival(y, (y + 1) % classes)):
        values, cotangent = value_and_cotangent(dlr, logits, goal)
        assert bool(values.isfinite().all())
        assert bool(cotangent.isfinite().all())
        assert torch.equal(values > 0, goal.margin(logits) > 0)


def test_the_margin_loss_is_the_largest_other_logit_minus_the_own() -> None:
    for row, (z, y) in enumerate(zip(LOGITS.tolist(), TRUE.tolist(), strict=True)):
        one = slice(row, row + 1)
        assert margin(LOGITS[one], Untargeted(TRUE[one])).item() == max(v for k, v in enumerate(z) if k != y) - z[y]
        p = [math.exp(v) / sum(map(math.exp, z)) for v in z]
        expected = max(v for k, v in enumerate(p) if k != y) - p[y]
        assert probability_margin(LOGITS[one], Untargeted(TRUE[one])).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "goal", [Untargeted(TRUE), Targeted(OTHER), Rival(OTHER, TRUE)], ids=lambda goal: type(goal).__name__
)
def test_the_cotangent_points_along_the_slope_of_the_loss(name: str, goal: Goal) -> None:
    loss = loss_named(name)
    values, cotangent = value_and_cotangent(loss, LOGITS, goal)
    step = 1e-6
    slope = torch.zeros_like(LOGITS)
    for k in range(6):
        moved = torch.zeros_like(LOGITS)
        moved[:, k] = step
        slope[:, k] = (loss(LOGITS + moved, goal) - loss(LOGITS - moved, goal)) / (2 * step)
    largest = slope.abs().amax(dim=1, keepdim=True)
    climbs = largest[:, 0] > 1e-6  # DLR is flat where the true class is third: there is no direction to compare
    assert int(climbs.sum()) >= 20
    assert torch.allclose(cotangent[climbs], (slope / largest)[climbs], rtol=1e-4, atol=1e-6)
    assert not values.requires_grad


@pytest.mark.parametrize("lead", [20.0, 50.0, 300.0])
def test_a_loss_keeps_its_direction_however_sure_the_model_is(lead: float) -> None:
    # in float32 p - 1 is 0 from a margin of 17 on, and p itself from 103 on
    logits, goal = torch.tensor([[lead, 0.0, -2.0]]), Untargeted(torch.tensor([0]))
    a, b = 1 / (1 + math.exp(-2)), math.exp(-2) / (1 + math.exp(-2))  # shares of the others in what p leaves them
    for loss, exact in (
        (cross_entropy, [-1.0, a, b]),
        (probability_margin, [-1.0, 2 * a / (1 + a), b / (1 + a)]),
    ):
        _, cotangent = value_and_cotangent(loss, logits, goal)
        assert cotangent[0].tolist() == pytest.approx(exact, abs=1e-5)


def test_a_rival_that_is_reached_means_the_true_class_is_left() -> None:
    reached = Rival(OTHER, TRUE).margin(LOGITS) > 0
    assert bool(reached.any())
    assert bool((Untargeted(TRUE).margin(LOGITS) > 0)[reached].all())
    rows = torch.tensor([3, 1])
    part = Rival(OTHER, TRUE).take(rows)
    assert torch.equal(part.margin(LOGITS[rows]), Rival(OTHER, TRUE).margin(LOGITS)[rows])
    assert part.reached(OTHER[rows]).all()


def test_a_goal_that_is_not_about_classes_is_refused_with_the_loss_that_takes_it() -> None:
    goal = Predicate(lambda logits, context: logits[:, 0] - context, torch.zeros(40, dtype=torch.float64))
    for loss in (cross_entropy, dlr):
        with pytest.raises(SettingError, match="use loss='margin'"):
            loss(LOGITS, goal)
    assert torch.equal(margin(LOGITS, goal), LOGITS[:, 0])
    steps = Predicate(lambda logits, context: (logits[:, 0] > context).double(), torch.zeros(40, dtype=torch.float64))
    assert value_and_cotangent(margin, LOGITS, steps)[1].eq(0).all()  # no slope: no direction, no error


def test_top_k_climbs_by_every_loss() -> None:
    goal = TopK(TRUE, 2)
    assert value_and_cotangent(cross_entropy, LOGITS, goal)[0].isfinite().all()
    assert torch.equal(dlr(LOGITS, goal) > 0, goal.margin(LOGITS) > 0)


def test_an_unknown_loss_is_named_with_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="margin"):
        loss_named("margn")
