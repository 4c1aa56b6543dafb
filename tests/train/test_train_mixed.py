"""Mixed training: who is perturbed, how far, and what it weighs."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import Mixed, Moment, initialise


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 2])


def _many(count: int) -> tuple[Tensor, Tensor]:
    x = torch.rand((count, 1, 3, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 2 + 0.25
    return x, torch.arange(count) % 4


def test_the_loss_is_the_weighted_mean_of_the_paper() -> None:
    net, (x, y) = _net(), _batch()
    z = x.clone()
    z[3:] += 0.05  # k = 3 of m = 6
    found = Mixed(share=0.5, weight=0.3).loss(net, x, z, y, at=Moment())
    a = net(z).detach().numpy()
    each = [float(np.log(np.exp(a[i]).sum()) - a[i][int(y[i])]) for i in range(6)]
    np.testing.assert_allclose(found.total.item(), (sum(each[:3]) + 0.3 * sum(each[3:])) / (3 + 0.3 * 3), rtol=1e-12)
    assert found.measures["perturbed"] == 0.5


def test_the_gradient_by_the_weights_is_that_of_the_formula() -> None:
    net, (x, y) = _net(), _batch()
    z = x.clone()
    z[4:] += 0.05
    found = torch.autograd.grad(
        Mixed(share=1 / 3, weight=0.3).loss(net, x, z, y, at=Moment()).total, list(net.parameters())
    )
    scores = net(z)
    each = scores.exp().sum(1).log() - scores[torch.arange(6), y]
    want = (each[:4].sum() + 0.3 * each[4:].sum()) / (4 + 0.3 * 2)
    for got, expected in zip(found, torch.autograd.grad(want, list(net.parameters())), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("target", ["least-likely", "random", "true"])
def test_the_step_lies_along_the_sign_of_the_gradient_towards_its_target(target: str) -> None:
    net, (x, y) = _net(), _many(40)
    z = Mixed(threat="linf:0.2", target=target, share=1.0).perturb(
        net, x, y, streams=Streams(0, torch.arange(40)), at=Moment()
    )
    for i in range(40):
        step = (z[i] - x[i]).flatten()
        size = float(step.abs().max())
        assert 0 < size <= 0.2
        probe = x[i][None].clone().requires_grad_()
        scores = net(probe)[0]
        if target == "true":
            towards = [-1]
            wanted = [torch.autograd.grad(scores.exp().sum().log() - scores[y[i]], probe)[0]]
        else:
            towards = [int(scores.argmin())] if target == "least-likely" else [k for k in range(4) if k != int(y[i])]
            wanted = [
                -torch.autograd.grad(scores.exp().sum().log() - scores[k], probe, retain_graph=True)[0] for k in towards
            ]
        assert any(torch.allclose(step, size * w.flatten().sign()) for w in wanted), (i, towards)


def test_about_the_share_of_the_examples_is_perturbed_and_the_others_are_untouched() -> None:
    net, (x, y) = _net(), _many(2000)
    z = Mixed(threat="linf:0.2", share=0.3).perturb(net, x, y, streams=Streams(0, torch.arange(2000)), at=Moment())
    moved = (z != x).flatten(1).any(1)
    assert abs(float(moved.double().mean()) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)
    for share, want in [(0.0, 0), (1.0, 2000)]:
        z = Mixed(threat="linf:0.2", share=share).perturb(
            net, x, y, streams=Streams(0, torch.arange(2000)), at=Moment()
        )
        assert int((z != x).flatten(1).any(1).sum()) == want


def test_the_lengths_are_those_of_a_normal_of_half_the_radius_cut_at_the_radius() -> None:
    from scipy.stats import kstest, truncnorm

    net, (x, y) = _net(), _many(3000)
    z = Mixed(threat="linf:0.2", share=1.0).perturb(net, x, y, streams=Streams(0, torch.arange(3000)), at=Moment())
    lengths = (z - x).flatten(1).abs().amax(1).numpy()
    assert lengths.max() <= 0.2
    assert kstest(lengths, truncnorm(0, 2, scale=0.1).cdf).pvalue > 1e-3


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5", "l1:1"])
def test_a_perturbed_example_is_in_the_region_and_the_same_in_every_batch(threat: str) -> None:
    net, (x, y) = _net(), _batch()
    ids = torch.tensor([5, 3, 11, 2, 7, 0])
    objective = Mixed(threat=threat, target="random", share=0.7)
    whole = objective.perturb(net, x, y, streams=Streams(1, ids), at=Moment())
    assert bool(objective.ball.contains(whole, x).all())
    order = torch.tensor([4, 0, 2])
    part = objective.perturb(net, x[order], y[order], streams=Streams(1, ids[order]), at=Moment())
    torch.testing.assert_close(part, whole[order])


def test_batches_cut_in_two_give_the_same_loss_by_rows() -> None:
    net, (x, y) = _net(), _batch()
    ids = torch.arange(6)
    whole = Mixed()(net, x, y, streams=Streams(1, ids), at=Moment()).total
    parts = [
        Mixed()(net, x[r], y[r], streams=Streams(1, ids[r]), at=Moment()).total * len(r) for r in (ids[:2], ids[2:])
    ]
    torch.testing.assert_close(whole, sum(parts, torch.zeros(())) / 6)


@pytest.mark.parametrize(
    "settings", [{"share": 1.5}, {"share": math.nan}, {"weight": 0.0}, {"weight": math.inf}, {"target": "nearest"}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="got"):
        Mixed(**settings)  # type: ignore[arg-type]
