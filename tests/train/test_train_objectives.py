"""Objectives against statements of them that share no code."""

import math

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import FastAdversarial, Natural, initialise


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64).round(decimals=1)
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


def _cross_entropy(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    z = net(x)
    return sum((z[i].exp().sum().log() - z[i, y[i]] for i in range(len(x))), torch.zeros(())) / len(x)


def _gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


def test_the_natural_loss_is_the_mean_cross_entropy() -> None:
    net, (x, y) = _net(), _batch()
    found = Natural()(net, x, y, streams=Streams(0, torch.arange(6)))
    torch.testing.assert_close(found.total, _cross_entropy(net, x, y))
    torch.testing.assert_close(found.logits, net(x))


def test_the_fast_objective_is_one_signed_step_from_a_uniform_start_pixel_by_pixel() -> None:
    net, (x, y) = _net(), _batch()
    ids = torch.tensor([5, 3, 11, 2, 7, 0])
    found = FastAdversarial(radius=0.3, step=0.375)(net, x, y, streams=Streams(9, ids, "train/0"))
    start = Streams(9, ids, "train/0").uniform(torch.arange(6), (1, 3, 4), dtype=torch.float64)
    moved = torch.empty_like(x)
    for i in range(6):
        delta = -0.3 + 0.6 * start[i]
        probe = (x[i] + delta).requires_grad_()
        (g,) = torch.autograd.grad(_cross_entropy(net, probe[None], y[i : i + 1]), probe)
        for place in torch.ones_like(x[i]).nonzero().tolist():
            at = tuple(place)
            change = float(delta[at]) + 0.375 * math.copysign(1.0, float(g[at]))
            moved[i][at] = min(max(float(x[i][at]) + min(max(change, -0.3), 0.3), 0.0), 1.0)
    want = _cross_entropy(net, moved, y)
    torch.testing.assert_close(found.total, want)
    torch.testing.assert_close(found.logits, net(moved))
    for got, expected in zip(_gradients(found.total, net), _gradients(want, net), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_fast_objective_leaves_no_gradient_of_its_inner_step_on_the_weights() -> None:
    net, (x, y) = _net(), _batch()
    FastAdversarial()(net, x, y, streams=Streams(0, torch.arange(6)))
    assert all(value.grad is None for value in net.parameters())
    assert x.grad is None
    assert not x.requires_grad


def test_the_fast_objective_perturbs_an_example_alike_in_every_batch() -> None:
    net, (x, y) = _net(), _batch()
    ids = torch.arange(6)
    whole = FastAdversarial()(net, x, y, streams=Streams(1, ids)).logits
    order = torch.tensor([4, 0, 2])
    part = FastAdversarial()(net, x[order], y[order], streams=Streams(1, ids[order])).logits
    torch.testing.assert_close(part, whole[order])


@pytest.mark.parametrize(
    "settings", [{"radius": 0.0}, {"radius": math.inf}, {"step": -1.0}, {"step": math.nan}, {"bounds": (1.0, 0.0)}]
)
def test_the_fast_objective_refuses_settings_that_mean_nothing(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="got"):
        FastAdversarial(**settings)  # type: ignore[arg-type]
