"""Training under noise against a statement of it that shares no code."""

import math

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.certify.smoothing import Smoothing, certified_accuracy
from hauberk.errors import SettingError
from hauberk.train import Cyclic, Gaussian, Moment, Natural, Recipe, fit, initialise, objective_named
from hauberk.victims import wrap


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("stability", [0.0, 2.0])
def test_the_loss_is_that_of_one_noisy_copy_and_the_divergence_to_it(stability: float) -> None:
    net, (x, y) = _net(), _batch()
    found = Gaussian(sigma=0.3, stability=stability)(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment())
    z = x + 0.3 * Streams(0, torch.arange(6)).normal(torch.arange(6), (1, 3, 4), dtype=torch.float64)
    p, q = net(x).softmax(dim=1), net(z).softmax(dim=1)
    want = -q[torch.arange(6), y].log().mean() + stability * (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(found.total, want)
    torch.testing.assert_close(found.logits, net(z))
    weights = list(net.parameters())
    for got, expected in zip(
        torch.autograd.grad(found.total, weights), torch.autograd.grad(want, weights), strict=True
    ):
        torch.testing.assert_close(got, expected)
    assert set(found.measures) == ({"divergence"} if stability else set())


def test_the_noise_is_normal_of_the_deviation_sigma_and_not_clipped() -> None:
    x = torch.zeros(50, 1, 28, 28)
    noise = Gaussian(sigma=0.5).perturb(x, streams=Streams(0, torch.arange(50)))
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.5, abs=0.01)
    assert noise.min() < -1.5
    assert noise.dtype == x.dtype


def test_an_example_draws_alike_in_every_batch() -> None:
    x, _ = _batch()
    whole = Gaussian().perturb(x, streams=Streams(0, torch.arange(6)))
    part = torch.tensor([4, 1])
    assert torch.equal(Gaussian().perturb(x[part], streams=Streams(0, part)), whole[part])


def test_it_is_read_by_name() -> None:
    assert objective_named("gaussian:sigma=0.5,stability=2") == Gaussian(sigma=0.5, stability=2.0)


def test_a_net_trained_under_noise_is_certified_further_than_one_that_was_not() -> None:
    """Two classes apart along one value, and a second value that tells them apart by a hair."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    x = torch.stack((0.3 + 0.4 * y, 0.5 + 0.01 * (2 * y - 1)), dim=1)
    x = x + 0.001 * torch.randn(x.shape, generator=generator)
    accuracy = {}
    for name, objective in {"natural": Natural(), "gaussian": Gaussian(sigma=0.1)}.items():
        net = initialise(lambda: nn.Linear(2, 2), seed=0)
        with torch.no_grad():  # it begins by listening to the second value
            net.weight.copy_(torch.tensor([[0.0, -50.0], [0.0, 50.0]]))
            net.bias.copy_(torch.tensor([25.0, -25.0]))
        fit(net, (x, y), objective, Recipe(epochs=40, batch_size=50, rate=Cyclic(0.5)))
        found = Smoothing(sigma=0.1, n=1000, alpha=0.01).certify(
            wrap(net), x[:40], streams=Streams(0, torch.arange(40))
        )
        accuracy[name] = certified_accuracy(found, y[:40], [0.1]).value[0]
    assert accuracy["natural"] < accuracy["gaussian"], accuracy


@pytest.mark.parametrize(
    "settings",
    [
        {"sigma": 0.0},
        {"sigma": -1.0},
        {"sigma": math.nan},
        {"sigma": math.inf},
        {"stability": -1.0},
        {"stability": math.nan},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="got"):
        Gaussian(**settings)
