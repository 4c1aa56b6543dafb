"""WRM: the inner problem and its certificate, on quadratics and grids where the worst case is known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import DataError, ModelError, SettingError
from hauberk.train import Moment, Recipe, Wrm, fit, initialise, smoothness_bound, wrm_certificate


def _net(activation: nn.Module | None = None) -> nn.Sequential:
    return initialise(lambda: nn.Sequential(nn.Linear(2, 5), activation or nn.ELU(), nn.Linear(5, 3)), seed=4).double()


def _data() -> tuple[Tensor, Tensor]:
    x = torch.rand((6, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


def test_the_inner_ascent_and_the_loss_are_those_of_the_paper() -> None:
    net, (x, y) = _net(), _data()
    found = Wrm(gamma=1.3, steps=4)(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment())
    z = x.clone()
    for t in range(1, 5):
        leaf = z.clone().requires_grad_()
        value = F.cross_entropy(net(leaf), y, reduction="sum") / (2 * 1.3) - (leaf - x).square().sum() / 2
        (g,) = torch.autograd.grad(value, leaf)
        z = z + g / math.sqrt(t)
    want = F.cross_entropy(net(z), y) - 1.3 * (z - x).square().sum(1).mean()
    torch.testing.assert_close(found.total, want)
    assert found.measures["transport"] == pytest.approx((z - x).square().sum(1).mean().item())
    weights = list(net.parameters())
    for got, expected in zip(
        torch.autograd.grad(found.total, weights),
        torch.autograd.grad(F.cross_entropy(net(z), y), weights),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_a_higher_price_moves_examples_less_and_a_net_trains_at_it() -> None:
    net, (x, y) = _net(), _data()
    moved = [
        Wrm(gamma=gamma)(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment()).measures["transport"]
        for gamma in (1.0, 4.0, 16.0)
    ]
    assert moved == sorted(moved, reverse=True)
    fitted = fit(net, (x, y), Wrm(gamma=2.0), Recipe(epochs=30, batch_size=6))
    assert fitted.epochs[-1].loss < fitted.epochs[0].loss
    assert fitted.epochs[0].forwards == 16


@pytest.mark.parametrize("activation", [nn.ELU(), nn.Softplus(beta=2.0), nn.Tanh(), nn.Sigmoid()], ids=repr)
def test_the_smoothness_bound_is_never_exceeded_by_a_hessian(activation: nn.Module) -> None:
    net = _net(activation)
    bound = smoothness_bound(net)
    generator = torch.Generator().manual_seed(2)
    seen = 0.0
    for label in range(3):
        for _ in range(40):
            x = 4 * torch.randn(2, generator=generator, dtype=torch.float64)
            hessian = torch.autograd.functional.hessian(
                lambda u, label=label: F.cross_entropy(net(u[None]), torch.tensor([label])), x
            )
            assert isinstance(hessian, Tensor)
            seen = max(seen, float(torch.linalg.matrix_norm(hessian, 2)))
    assert 0.02 * bound < seen <= bound


def test_the_smoothness_bound_of_a_linear_net_is_half_its_squared_norm() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(2, 3))).double()
    size = np.linalg.norm(net[1][0].weight.detach().numpy(), 2)  # type: ignore[index]
    assert smoothness_bound(net) == pytest.approx(size**2 / 2)


class _Doubled(nn.Tanh):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # torch's name
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "layer", [nn.ReLU(), nn.ELU(alpha=0.5), nn.BatchNorm1d(5), nn.Softplus(threshold=1), _Doubled()], ids=repr
)
def test_a_net_without_a_smoothness_bound_is_named_and_gets_no_proof(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match=type(layer).__name__):
        smoothness_bound(_net(layer.double()))
    found = wrm_certificate(_net(layer), _data(), 5.0, 0.1, steps=5)
    assert not found.proven
    assert type(layer).__name__ in found.note
    assert math.isinf(found.slack)


def test_the_certificate_bounds_the_worst_distribution_and_is_tight_at_its_own_transport() -> None:
    net, (x, y) = _net(), _data()
    gamma = 0.6 * smoothness_bound(net)
    found = wrm_certificate(net, (x, y), gamma, 0.0)
    assert found.proven
    assert found.slack < 1e-12
    assert found.loss == pytest.approx(F.cross_entropy(net(x), y).item())

    def worst(rho: float) -> float:
        """The worst distribution by a linear program over a grid around each example."""
        side = torch.linspace(-1.5, 1.5, 81, dtype=torch.float64)
        steps = torch.cartesian_prod(side, side)
        gains = torch.stack(
            [F.cross_entropy(net(x[i] + steps), y[i].expand(len(steps)), reduction="none") for i in range(6)]
        )
        costs = steps.square().sum(1).repeat(6)[None].numpy()
        rows = np.kron(np.eye(6), np.ones((1, len(steps))))
        program = linprog(-gains.detach().flatten().numpy(), A_ub=costs, b_ub=[rho], A_eq=rows, b_eq=np.full(6, 1 / 6))
        return -program.fun

    for rho in (0.001, 0.05, found.transport):
        bound = wrm_certificate(net, (x, y), gamma, rho).bound
        assert bound >= worst(rho) - 1e-9
    assert wrm_certificate(net, (x, y), gamma, found.transport).bound == pytest.approx(worst(found.transport), rel=2e-3)


def test_the_supremum_in_the_certificate_agrees_with_a_solver_for_each_example() -> None:
    net, (x, y) = _net(nn.Tanh()), _data()
    gamma = 0.55 * smoothness_bound(net)
    values = []
    for i in range(6):

        def fall(u: np.ndarray, i: int = i) -> float:
            z = torch.from_numpy(u)
            return float(gamma * (z - x[i]).square().sum() - F.cross_entropy(net(z[None]), y[i : i + 1]).detach())

        values.append(-minimize(fall, x[i].numpy(), tol=1e-12).fun)
    found = wrm_certificate(net, (x, y), gamma, 0.3, batch_size=4)
    assert found.bound == pytest.approx(0.3 * gamma + np.mean(values), rel=1e-7)


def test_an_ascent_that_was_cut_short_is_made_good_by_the_slack() -> None:
    net, (x, y) = _net(), _data()
    gamma = 0.55 * smoothness_bound(net)
    full = wrm_certificate(net, (x, y), gamma, 0.1)
    short = wrm_certificate(net, (x, y), gamma, 0.1, steps=1)
    assert short.proven
    assert short.bound >= full.bound
    assert short.bound - short.slack < full.bound


def test_a_price_below_half_the_smoothness_proves_nothing_and_says_so() -> None:
    found = wrm_certificate(_net(), _data(), 0.1, 0.1)
    assert not found.proven
    assert "gamma is 0.1" in found.note
    told = wrm_certificate(_net(), _data(), 0.1, 0.1, smoothness=0.1)
    assert told.proven


def test_wrm_climbs_an_example_alike_in_every_batch() -> None:
    net, (x, y) = _net(), _data()
    whole = Wrm().perturb(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment())
    part = torch.tensor([5, 0])
    torch.testing.assert_close(Wrm().perturb(net, x[part], y[part], streams=Streams(0, part), at=Moment()), whole[part])


@pytest.mark.parametrize("settings", [{"gamma": 0.0}, {"gamma": math.inf}, {"steps": 0}, {"mode": "test"}])
def test_wrm_refuses_settings_that_mean_nothing(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="got"):
        Wrm(**settings)  # type: ignore[arg-type]


def test_the_certificate_refuses_what_means_nothing() -> None:
    for settings in (
        {"gamma": -1.0, "rho": 0.1},
        {"gamma": 1.0, "rho": -0.1},
        {"gamma": 1.0, "rho": 0.1, "steps": 0},
        {"gamma": 1.0, "rho": 0.1, "smoothness": -1.0},
    ):
        with pytest.raises(SettingError, match="got"):
            wrm_certificate(_net(), _data(), **settings)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="got str"):
        wrm_certificate(_net(), "digits", 1.0, 0.1)
