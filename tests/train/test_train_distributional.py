"""Distributional training against the paper's density, and its inner problem written out with torch's own Adam."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import Distributional, Moment, Recipe, fit, initialise
from hauberk.train.distributional import surprise


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    x = torch.rand((5, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 0, 1])


def test_the_surprise_is_minus_the_log_density_of_a_normal_number_through_tanh() -> None:
    mean, deviation = 0.4, 0.7
    grid = torch.linspace(-0.999, 0.999, 9, dtype=torch.float64)
    step = 1e-6
    through = torch.distributions.Normal(mean, deviation)
    density = (through.cdf(torch.atanh(grid + step)) - through.cdf(torch.atanh(grid - step))) / (2 * step)
    noise = (torch.atanh(grid) - mean) / deviation
    found = surprise(noise[:, None], torch.full((9, 1), deviation, dtype=torch.float64), grid[:, None])
    torch.testing.assert_close(found + math.log(2 * math.pi) / 2, -density.log(), rtol=1e-4, atol=1e-4)


def test_the_inner_problem_is_that_of_the_paper() -> None:
    net, (x, y) = _net(), _batch()
    objective = Distributional(threat="linf:0.3", entropy=0.2, steps=4, samples=3, step_size=0.25)
    at = Moment()
    z = objective.perturb(net, x, y, streams=Streams(3, torch.arange(5)), at=at)
    draws = Streams(3, torch.arange(5))
    mean, v = (torch.zeros_like(x).requires_grad_() for _ in range(2))
    adam = torch.optim.Adam([mean, v], lr=0.25, betas=(0.0, 0.0))
    for _ in range(4):
        adam.zero_grad()
        for _ in range(3):
            r = draws.normal(torch.arange(5), (1, 3, 4), dtype=torch.float64)
            s = F.softplus(v)
            d = torch.tanh(mean + s * r)
            entropy = (r**2 / 2 + s.log() + (1 - d**2).log()).flatten(1).mean(1)
            losses = F.cross_entropy(net((x + 0.3 * d).clamp(0, 1)), y, reduction="none")
            (-(losses + 0.2 * entropy).sum()).backward()
        adam.step()
    r = draws.normal(torch.arange(5), (1, 3, 4), dtype=torch.float64)
    want = (x + 0.3 * torch.tanh(mean + F.softplus(v) * r)).clamp(0, 1).detach()
    torch.testing.assert_close(z, want, rtol=1e-5, atol=1e-6)
    found = objective.loss(net, x, z, y, at=at)
    torch.testing.assert_close(found.total, F.cross_entropy(net(z), y))
    assert found.measures["spread"] == pytest.approx(F.softplus(v).mean().item(), rel=1e-5)


def test_more_weight_on_the_entropy_gives_broader_distributions() -> None:
    net, (x, y) = _net(), _batch()
    spreads = [
        Distributional(entropy=weight)(net, x, y, streams=Streams(3, torch.arange(5)), at=Moment()).measures["spread"]
        for weight in (0.0, 0.01, 10.0)
    ]
    assert spreads == sorted(spreads)
    assert spreads[0] < spreads[2]


def test_the_perturbation_stays_within_the_radius_raises_the_loss_and_touches_nothing() -> None:
    net, (x, y) = _net(), _batch()
    objective = Distributional(threat="linf:0.1", bounds=(-1.0, 2.0))
    z = objective.perturb(net, x, y, streams=Streams(3, torch.arange(5)), at=Moment())
    assert (z - x).abs().max() <= 0.1
    assert F.cross_entropy(net(z), y) > F.cross_entropy(net(x), y)
    assert all(value.grad is None for value in net.parameters())


def test_an_example_gets_the_same_distribution_in_every_batch() -> None:
    net, (x, y) = _net(), _batch()
    ids, part = torch.tensor([9, 1, 4, 0, 6]), torch.tensor([3, 1])
    whole = Distributional().perturb(net, x, y, streams=Streams(3, ids), at=Moment())
    cut = Distributional().perturb(net, x[part], y[part], streams=Streams(3, ids[part]), at=Moment())
    torch.testing.assert_close(cut, whole[part])


def test_distributional_training_costs_what_it_says() -> None:
    fitted = fit(_net(), _batch(), Distributional(steps=3, samples=2), Recipe(epochs=1, batch_size=5))
    assert (fitted.epochs[0].forwards, fitted.epochs[0].backwards) == (7, 7)


@pytest.mark.parametrize(
    "settings", [{"threat": "l2:1"}, {"entropy": -1.0}, {"steps": 0}, {"samples": 0}, {"step_size": math.inf}]
)
def test_distributional_training_refuses_settings_that_mean_nothing(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="got"):
        Distributional(**settings)  # type: ignore[arg-type]
