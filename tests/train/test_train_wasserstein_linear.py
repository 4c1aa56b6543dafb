"""Wasserstein-robust linear classifiers against linear programs, a general solver and distributions found by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from hauberk.errors import DataError, SettingError
from hauberk.train import WassersteinLinear, wasserstein_linear


def _data(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((count, 2), generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    return x, (x @ torch.tensor([3.0, 1.0], dtype=torch.float64) + noise * 0.5 > 2).long()


def _losses(loss: str, margins: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -margins) if loss == "logistic" else np.maximum(0, 1 - margins)


P = {"linf": math.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_no_general_solver_finds_a_smaller_worst_case(loss: str, norm: str) -> None:
    x, y = _data()
    fitted = wasserstein_linear((x, y), 0.03, norm=norm, loss=loss)
    s, a = 2 * y.numpy() - 1, x.numpy()

    def value(v: np.ndarray) -> float:
        return float(_losses(loss, s * (a @ v[:2] + v[2])).mean() + 0.03 * np.linalg.norm(v[:2], DUAL[norm]))

    at = np.array([*fitted.weights.tolist(), fitted.bias])
    assert fitted.worst_loss == pytest.approx(value(at))
    assert fitted.gap <= 1e-4
    assert np.abs(at).max() > 0.1
    best = min(
        minimize(value, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20000}).fun
        for start in (at, np.zeros(3), np.array([2.0, 1.0, -1.0]))
    )
    assert fitted.worst_loss <= best + 1e-4
    assert fitted.worst_loss - fitted.gap <= best + 1e-9


def test_the_hinge_agrees_with_a_linear_program() -> None:
    x, y = _data()
    s, a, n = 2 * y.numpy() - 1.0, x.numpy(), len(x)
    # variables: w+ (2), w- (2), b, slack (n); the dual of linf is l1
    cost = np.concatenate((np.full(4, 0.05), [0.0], np.full(n, 1 / n)))
    rows = -np.hstack((s[:, None] * a, -s[:, None] * a, s[:, None], np.eye(n)))
    program = linprog(cost, A_ub=rows, b_ub=-np.ones(n), bounds=[(0, None)] * 4 + [(None, None)] + [(0, None)] * n)
    fitted = wasserstein_linear((x, y), 0.05, norm="linf", loss="hinge", tolerance=1e-6)
    assert fitted.worst_loss == pytest.approx(program.fun, abs=2e-6)


def _worst_on_grid(fitted: WassersteinLinear, x: Tensor, y: Tensor, radius: float, kappa: float) -> float:
    """The worst distribution over far and near points, labels turned or not, by a linear program."""
    near = torch.linspace(-3, 3, 9, dtype=torch.float64)
    far = torch.cartesian_prod(near, near)
    q = {"linf": fitted.weights.sign(), "l2": fitted.weights / fitted.weights.norm()}
    if str(fitted.norm) == "l1":
        steep = torch.zeros(2, dtype=torch.float64)
        top = int(fitted.weights.abs().argmax())
        steep[top] = fitted.weights.sign()[top]
    else:
        steep = q[str(fitted.norm)]
    along = torch.tensor([0.01, 0.1, 1.0, 10.0, 1e3, 1e5], dtype=torch.float64)
    far = torch.cat((far, torch.zeros(1, 2, dtype=torch.float64), *(sign * along[:, None] * steep for sign in (-1, 1))))
    gains, costs, owner = [], [], []
    for i in range(len(x)):
        for turn in (1, -1) if math.isfinite(kappa) else (1,):
            sign = turn * (2 * int(y[i]) - 1)
            margins = sign * ((x[i] + far) @ fitted.weights + fitted.bias).numpy()
            gains.append(_losses(fitted.loss, margins))
            costs.append(np.linalg.norm(far.numpy(), P[str(fitted.norm)], axis=1) + (kappa if turn < 0 else 0))
            owner.extend([i] * len(far))
    eq = np.zeros((len(x), len(owner)))
    eq[owner, np.arange(len(owner))] = 1
    program = linprog(
        -np.concatenate(gains),
        A_ub=np.concatenate(costs)[None],
        b_ub=[radius],
        A_eq=eq,
        b_eq=np.full(len(x), 1 / len(x)),
    )
    assert program.success
    return -program.fun


@pytest.mark.parametrize("kappa", [math.inf, 0.4, 0.1, 2.0])
@pytest.mark.parametrize(("loss", "norm"), [("logistic", "l2"), ("logistic", "l1"), ("hinge", "linf"), ("hinge", "l2")])
def test_the_certificate_is_the_worst_case_of_a_linear_program_over_distributions(
    loss: str, norm: str, kappa: float
) -> None:
    x, y = _data(12)
    fitted = wasserstein_linear(_data(), 0.03, norm=norm, loss=loss)
    for radius in (0.02, 0.15):
        bound = fitted.worst_case((x, y), radius, kappa=kappa)
        found = _worst_on_grid(fitted, x, y, radius, kappa)
        assert found <= bound + 1e-7
        assert found == pytest.approx(bound, rel=2e-3)


def test_labels_that_turn_for_nothing_are_always_the_worse_ones() -> None:
    fitted, (x, y) = wasserstein_linear(_data(), 0.03), _data()
    margins = (2 * y - 1) * (x @ fitted.weights + fitted.bias)
    want = torch.nn.functional.softplus(margins.abs()).mean().item() + 0.1 * fitted.weights.norm().item()
    assert fitted.worst_case((x, y), 0.1, kappa=0.0) == pytest.approx(want)


def test_the_worst_case_on_its_own_data_is_the_one_that_was_minimised() -> None:
    fitted = wasserstein_linear(_data(), 0.03)
    assert fitted.worst_case(_data(), 0.03) == pytest.approx(fitted.worst_loss)
    assert fitted.worst_case(_data(), 0.0) == pytest.approx(fitted.mean_loss)


def test_a_larger_radius_gives_smaller_weights_and_a_huge_one_none() -> None:
    sizes = [wasserstein_linear(_data(), radius).weights.norm().item() for radius in (0.001, 0.01, 0.05, 10.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == pytest.approx(0.0, abs=1e-6)


def test_its_net_scores_as_it_does() -> None:
    fitted, (x, y) = wasserstein_linear(_data(), 0.01), _data()
    scores = fitted.net()(x)
    torch.testing.assert_close(scores[:, 1] - scores[:, 0], x @ fitted.weights + fitted.bias)
    assert (scores.argmax(1) == y).double().mean() > 0.8


def test_what_means_nothing_is_refused() -> None:
    for settings in (
        {"radius": 0.0},
        {"radius": -1.0},
        {"radius": math.inf},
        {"radius": 0.1, "norm": "l0"},
        {"radius": 0.1, "norm": "l7"},
        {"radius": 0.1, "loss": "square"},
        {"radius": 0.1, "tolerance": 0.0},
        {"radius": 0.1, "most_rounds": 0},
    ):
        with pytest.raises(SettingError, match="got"):
            wasserstein_linear(_data(), **settings)  # type: ignore[arg-type]
    x, y = _data()
    with pytest.raises(DataError, match="label 2"):
        wasserstein_linear((x, y + 1), 0.1)
    fitted = wasserstein_linear((x, y), 0.1)
    with pytest.raises(DataError, match="2 values, got 3"):
        fitted.worst_case((torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)), 0.1)
    with pytest.raises(SettingError, match="kappa"):
        fitted.worst_case((x, y), 0.1, kappa=-1.0)
