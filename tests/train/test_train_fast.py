"""Fast adversarial training against its three lines of algebra, value by value."""

import math

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError, ThreatError
from hauberk.train import FastAdversarial, Moment, initialise


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


@pytest.mark.parametrize("start", ["uniform", "clean"])
def test_the_fast_objective_is_one_signed_step_pixel_by_pixel(start: str) -> None:
    net, (x, y) = _net(), _batch()
    ids = torch.tensor([5, 3, 11, 2, 7, 0])
    objective = FastAdversarial(threat="linf:0.3", step=1.25, start=start)
    found = objective(net, x, y, streams=Streams(9, ids, "train/0"), at=Moment())
    drawn = Streams(9, ids, "train/0").uniform(torch.arange(6), (1, 3, 4), dtype=torch.float64)
    moved = torch.empty_like(x)
    for i in range(6):
        delta = -0.3 + 0.6 * drawn[i] if start == "uniform" else torch.zeros_like(x[i])
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
    FastAdversarial()(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment())
    assert all(value.grad is None for value in net.parameters())
    assert x.grad is None
    assert not x.requires_grad


def test_the_fast_objective_perturbs_an_example_alike_in_every_batch() -> None:
    net, (x, y) = _net(), _batch()
    ids = torch.arange(6)
    whole = FastAdversarial()(net, x, y, streams=Streams(1, ids), at=Moment()).logits
    order = torch.tensor([4, 0, 2])
    part = FastAdversarial()(net, x[order], y[order], streams=Streams(1, ids[order]), at=Moment()).logits
    torch.testing.assert_close(part, whole[order])


@pytest.mark.parametrize(
    "settings",
    [
        {"threat": "linf:0"},
        {"threat": "linf:inf"},
        {"threat": "l2:0.3"},
        {"step": -1.0},
        {"step": math.nan},
        {"bounds": (1.0, 0.0)},
        {"start": "blocks"},
        {"mode": "sometimes"},
    ],
)
def test_the_fast_objective_refuses_settings_that_mean_nothing(settings: dict[str, object]) -> None:
    with pytest.raises((SettingError, ThreatError)):
        FastAdversarial(**settings)  # type: ignore[arg-type]


def test_the_fast_objective_has_no_inner_maximiser_to_choose() -> None:
    with pytest.raises(TypeError, match="inner"):
        FastAdversarial(inner=None)  # type: ignore[call-arg]
    assert "inner" not in repr(FastAdversarial())
