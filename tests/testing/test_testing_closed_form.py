"""The closed forms agree with a linear programme, with bisection over the regions' own maximum, and with hand-worked cases."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from hauberk.errors import SettingError
from hauberk.testing import LinearVictim, ThresholdVictim, linear_settings
from hauberk.testing.setting import Setting
from hauberk.threat import Ball, Differentiable, Norm, Untargeted
from hauberk.victims import Victim


def bisected(victim: LinearVictim, setting: Setting, norm: Norm) -> torch.Tensor:
    """The same distances by bisection on the radius: does the best point for some rival have a margin >= 0?"""
    x, y = setting.x, setting.y
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 200.0, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        radius = middle.floor() if norm is Norm.L0 else middle
        reached = torch.zeros(len(x), dtype=torch.bool)
        for rival in range(victim.classes):
            gradient = (victim.weights[rival] - victim.weights[y]).reshape(x.shape)
            z = Ball(norm, radius).linear_max(gradient, x)
            margin = Untargeted(y).margin(victim.logits(z, torch.arange(len(x))))
            reached |= (margin >= 0) & (y != rival)
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return high.floor() if norm is Norm.L0 else high


@pytest.mark.parametrize("norm", list(Norm), ids=str)
@pytest.mark.parametrize("what", ["vectors", "pictures", "walls", "classes"])
def test_the_distance_is_where_the_best_point_of_the_ball_crosses_the_boundary(what: str, norm: Norm) -> None:
    victim, setting = linear_settings()[what]
    optimal = victim.optimal_distance(setting.x, setting.y, norm)
    possible = optimal.isfinite()
    assert int(possible.sum()) >= 12
    assert torch.allclose(optimal[possible], bisected(victim, setting, norm)[possible], rtol=1e-9)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L1], ids=str)
def test_the_distance_is_that_of_a_linear_programme(norm: Norm) -> None:
    victim, setting = linear_settings()["walls"]
    w = (victim.weights[1] - victim.weights[0]).numpy()
    gap0 = float(victim.bias[1] - victim.bias[0])
    d = len(w)
    for row in range(0, 24, 3):
        x = setting.x[row].flatten().numpy()
        sign = 1.0 if int(setting.y[row]) == 0 else -1.0
        gap = -sign * (w @ x + gap0)
        # variables: the change and its size (L-inf: one number, L1: one a coordinate)
        sizes = 1 if norm is Norm.LINF else d
        tie = np.ones((d, 1)) if norm is Norm.LINF else np.eye(d)
        upper = np.vstack(
            [np.hstack([np.eye(d), -tie]), np.hstack([-np.eye(d), -tie]), np.r_[-sign * w, np.zeros(sizes)][None]]
        )
        limit = np.r_[np.zeros(2 * d), -gap]
        bounds = [(-v, 1 - v) for v in x] + [(0, None)] * sizes
        found = linprog(np.r_[np.zeros(d), np.ones(sizes)], A_ub=upper, b_ub=limit, bounds=bounds)
        optimal = victim.optimal_distance(setting.x[row : row + 1], setting.y[row : row + 1], norm)
        assert found.status == 0
        assert float(optimal) == pytest.approx(found.fun, rel=1e-7)


def test_the_euclidean_distance_is_that_of_a_quadratic_programme() -> None:
    victim, setting = linear_settings()["vectors"]
    w = (victim.weights[1] - victim.weights[0]).numpy()
    gap0 = float(victim.bias[1] - victim.bias[0])
    for row in (1, 9, 23):
        x = setting.x[row].flatten().numpy()
        sign = 1.0 if int(setting.y[row]) == 0 else -1.0
        found = minimize(
            lambda z: float(((z - x) ** 2).sum()),  # noqa: B023  # called within this turn of the loop
            np.full_like(x, 0.5),
            jac=lambda z: 2 * (z - x),  # noqa: B023
            bounds=[(0, 1)] * len(x),
            constraints={"type": "ineq", "fun": lambda z: sign * (w @ z + gap0), "jac": lambda z: sign * w},  # noqa: B023
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        optimal = float(victim.optimal_distance(setting.x[row : row + 1], setting.y[row : row + 1], Norm.L2))
        assert optimal == pytest.approx(found.fun**0.5, rel=1e-5)


def test_distances_worked_by_hand() -> None:
    # f_0 - f_1 = 2 a + b - 1 at (0.9, 0.4): the gap is 1.2
    victim = LinearVictim(
        torch.tensor([[2.0, 1.0], [0.0, 0.0]], dtype=torch.float64), torch.tensor([-1.0, 0.0], dtype=torch.float64)
    )
    x, y = torch.tensor([[0.9, 0.4]], dtype=torch.float64), torch.tensor([0])
    assert float(victim.optimal_distance(x, y, Norm.LINF)) == pytest.approx(0.4)  # both fall by 0.4: 0.8 + 0.4
    assert float(victim.optimal_distance(x, y, Norm.L2)) == pytest.approx(1.2 / 5**0.5)
    assert float(victim.optimal_distance(x, y, Norm.L1)) == pytest.approx(0.6)  # the steeper one alone
    assert float(victim.optimal_distance(x, y, Norm.L0)) == 1
    x = torch.tensor([[0.5, 0.9]], dtype=torch.float64)  # the gap is 0.9, and the steeper one has room for 0.5
    assert float(victim.optimal_distance(x, y, Norm.LINF)) == pytest.approx(0.3)
    x = torch.tensor(
        [[0.2, 0.9]], dtype=torch.float64
    )  # the gap is 0.3; the steeper one alone has room for 0.4 of slope
    assert float(victim.optimal_distance(x, y, Norm.L1)) == pytest.approx(0.15)
    assert float(victim.optimal_distance(x, 1 - y, Norm.L1)) == 0  # misclassified already
    far = LinearVictim(victim.weights, torch.tensor([5.0, 0.0], dtype=torch.float64))
    assert float(far.optimal_distance(x, y, Norm.LINF)) == float("inf")  # no point of the box is class 1


def test_the_one_dimensional_victim_changes_class_at_each_threshold() -> None:
    victim = ThresholdVictim((0.2, 0.5, 0.9))
    x = torch.tensor([[0.1], [0.3], [0.6], [0.95]], dtype=torch.float64)
    rows = torch.arange(4)
    assert victim.labels(x, rows).tolist() == [0, 1, 0, 1]
    expected = torch.tensor([0.1, 0.1, 0.1, 0.05], dtype=torch.float64)
    assert torch.allclose(victim.optimal_distance(x, victim.labels(x, rows), Norm.L2), expected)
    assert victim.optimal_distance(x, victim.labels(x, rows), Norm.L0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("victim", [LinearVictim.random(0, 4), ThresholdVictim((0.5,))], ids=lambda victim: victim.name)
def test_the_victims_are_victims_and_their_gradients_are_right(victim: LinearVictim | ThresholdVictim) -> None:
    assert isinstance(victim, Victim)
    assert isinstance(victim, Differentiable)
    x = torch.rand(3, 4 if victim.name == "linear" else 1, dtype=torch.float64)
    rows = torch.arange(3)
    _, vjp = victim.pullback(x, rows)
    cotangent = torch.tensor([[1.0, -2.0]], dtype=torch.float64).expand(3, 2)
    step = 1e-6
    for axis in range(x.shape[1]):
        moved = torch.zeros_like(x)
        moved[:, axis] = step
        slope = ((victim.logits(x + moved, rows) - victim.logits(x - moved, rows)) * cotangent).sum(dim=1) / (2 * step)
        assert torch.allclose(vjp(cotangent)[:, axis], slope, atol=1e-6)
    assert len(victim.fingerprint()) == 64


def test_victims_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SettingError, match="two classes or more"):
        LinearVictim(torch.ones(1, 3))
    for thresholds in ((), (0.5, 0.2), (0.0, 0.5)):
        with pytest.raises(SettingError, match="thresholds"):
            ThresholdVictim(thresholds)
