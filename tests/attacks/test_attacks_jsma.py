"""JSMA: its pairs are the best of all pairs, its values move the way they are told, and no more of them than allowed."""

import pytest
import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk.attacks import JSMA, run_attack
from hauberk.attacks.jsma import _best_pair, _best_single
from hauberk.errors import SettingError
from hauberk.testing import LinearVictim, linear_settings
from hauberk.threat import Ball, Norm, Predicate, Targeted, Untargeted
from hauberk.victims import Meter


def slopes(count: int, features: int, coarse: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.arange(count)
    streams = Streams(0, rows, "jsma")
    a, b = streams.normal(rows, (2, features), dtype=torch.float64).unbind(dim=1)
    if coarse:  # many ties
        a, b = (a * 2).round(), (b * 2).round()
    return a, b, streams.uniform(rows, (features,)) < 0.8


@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("features", [2, 3, 7, 40])
def test_the_pair_is_the_best_of_all_pairs(features: int, coarse: bool) -> None:
    a, b, allowed = slopes(100, features, coarse)
    pair, worth = _best_pair(a, b, allowed)
    seen = 0
    for row in range(100):
        places = allowed[row].nonzero().flatten().tolist()
        every = [(p, q) for p in places for q in places if p < q]
        products = [
            float((a[row, p] + a[row, q]) * (b[row, p] + b[row, q]))
            for p, q in every
            if a[row, p] + a[row, q] > 0 and b[row, p] + b[row, q] > 0
        ]
        assert float(worth[row]) == pytest.approx(max(products, default=0.0), abs=1e-12)
        if products:
            p, q = sorted(pair[row].tolist())
            assert (p, q) in every
            assert float((a[row, p] + a[row, q]) * (b[row, p] + b[row, q])) == pytest.approx(max(products))
            seen += 1
    assert seen > 5


def test_the_single_is_the_best_of_those_where_both_slopes_help() -> None:
    a = torch.tensor([[3.0, 2.0, -5.0, 9.0], [1.0, -1.0, -1.0, 2.0]])
    b = torch.tensor([[1.0, 2.0, -5.0, 9.0], [-1.0, 1.0, -1.0, 0.0]])
    allowed = torch.tensor([[True, True, True, False], [True] * 4])
    place, worth = _best_single(a, b, allowed)
    assert int(place[0]) == 1
    assert worth.tolist() == [4.0, 0.0]


def three_classes() -> tuple[LinearVictim, Tensor, Tensor]:
    # towards class 1: value 0 helps most alone; 1 and 2 help only together; 3 must fall
    weights = torch.tensor(
        [[-1.0, 1.5, -3.0, 4.0], [1.0, 2.0, -0.5, -4.0], [0.0, -1.0, 1.0, -2.0]], dtype=torch.float64
    )
    victim = LinearVictim(weights, torch.tensor([2.0, 0.0, -9.0], dtype=torch.float64))
    x = torch.tensor([[0.1, 0.1, 0.1, 0.5]], dtype=torch.float64)
    return victim, x, victim.labels(x, torch.zeros(1, dtype=torch.int64))


def test_a_first_pair_worked_by_hand() -> None:
    victim, x, y = three_classes()
    assert y.tolist() == [0]
    # a = w_1, b = -(w_0 + w_2) = (1, -.5, 2, -2): pairs 0-1 give 3 * .5, 0-2 .5 * 3, 1-2 1.5 * 1.5 and is the best
    found = run_attack(JSMA(gamma=0.5), victim, x, y, "l0", goal=Targeted(torch.tensor([1])))
    assert found.adversarials.tolist() == [[0.1, 1.0, 1.0, 0.5]]
    assert found.forwards.tolist() == [2]
    # one at a time value 0 comes first: 1 * 1
    found = run_attack(JSMA(gamma=0.25, at_once=1), victim, x, y, "l0:1", goal=Targeted(torch.tensor([1])))
    assert found.adversarials.tolist() == [[1.0, 0.1, 0.1, 0.5]]
    # and downwards only value 3 helps: 4 * 2
    found = run_attack(JSMA(at_once=1, direction="down"), victim, x, y, "l0:1", goal=Targeted(torch.tensor([1])))
    assert found.adversarials.tolist() == [[0.1, 0.1, 0.1, 0.0]]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_values_move_one_way_by_theta_and_few_of_them(direction: str) -> None:
    victim = LinearVictim.random(4, 40, 3)
    x = Streams(4, torch.arange(20), "jsma").uniform(torch.arange(20), (40,), dtype=torch.float64)
    y = victim.labels(x, torch.arange(20))
    found = run_attack(JSMA(theta=0.25, gamma=0.2, direction=direction), victim, x, y, "l0")
    change = found.adversarials - x
    assert bool((change >= 0).all() if direction == "up" else (change <= 0).all())
    assert int(found.sizes.max()) <= 8
    assert bool(found.broken.any())
    walled = (found.adversarials == 0) | (found.adversarials == 1)
    steps = change.abs() / 0.25
    assert bool((((steps - steps.round()).abs() < 1e-9) | walled).all())


def test_goals_without_a_class_and_settings_out_of_range_are_refused() -> None:
    victim, x, y = three_classes()
    goal = Predicate(lambda logits, context: logits[:, 1] - logits[:, 0], y)
    with pytest.raises(SettingError, match="about classes"):
        run_attack(JSMA(), victim, x, y, "l0", goal=goal)
    for wrong in ({"theta": 1.5}, {"gamma": 2}, {"at_once": 3}, {"direction": "sideways"}):
        with pytest.raises(SettingError):
            JSMA(**wrong)  # type: ignore[arg-type]


def test_with_a_mask_it_does_what_it_does_where_the_protected_values_do_not_exist() -> None:
    victim, setting = linear_settings()["classes"]
    free = torch.arange(24) % 3 > 0
    attack, ids = JSMA(gamma=1.0, direction="both"), torch.arange(1)
    for row in range(6):
        x, y = setting.x[row : row + 1], setting.y[row : row + 1]
        held = victim.weights[:, ~free] @ x.flatten()[~free]
        small = LinearVictim(victim.weights[:, free], victim.bias + held)
        ball = Ball(Norm.L0, mask=free.reshape(x.shape))
        masked = attack(Meter(victim, 1), x, Untargeted(y), ball, streams=Streams(0, ids))
        alone = attack(Meter(small, 1), x.flatten(1)[:, free], Untargeted(y), Ball(Norm.L0), streams=Streams(0, ids))
        assert torch.equal(masked.flatten(1)[:, free], alone)
        assert torch.equal(masked.flatten(1)[:, ~free], x.flatten(1)[:, ~free])
