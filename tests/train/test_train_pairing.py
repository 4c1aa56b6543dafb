"""Logit pairing, adversarial and clean, against its formula."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import ALP, CLP, Moment, initialise


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 2])


def _cross_entropy(scores: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", c: int) -> float:
    return float(np.log(np.exp(scores).sum()) - scores[c])


def test_alp_learns_both_halves_and_pairs_their_scores() -> None:
    net, (x, y) = _net(), _batch()
    z = x + 0.05
    found = ALP(weight=0.7).loss(net, x, z, y, at=Moment())
    a, b = net(x).detach().numpy(), net(z).detach().numpy()
    terms = [
        (_cross_entropy(a[i], int(y[i])) + _cross_entropy(b[i], int(y[i]))) / 2 + 0.7 * np.sum((a[i] - b[i]) ** 2) / 4
        for i in range(6)
    ]
    np.testing.assert_allclose(found.total.item(), np.mean(terms), rtol=1e-12)
    torch.testing.assert_close(found.logits, net(z))


def test_both_sides_of_a_pair_learn() -> None:
    net, (x, y) = _net(), _batch()
    z = x + 0.05
    found = torch.autograd.grad(ALP(weight=9.0).loss(net, x, z, y, at=Moment()).total, list(net.parameters()))
    scores = torch.cat((net(x), net(z)))
    picked = scores[torch.arange(12), torch.cat((y, y))]
    want = (scores.exp().sum(1).log() - picked).mean() + 9.0 * ((scores[:6] - scores[6:]) ** 2).mean()
    for got, expected in zip(found, torch.autograd.grad(want, list(net.parameters())), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("count", [6, 5, 1])
def test_clp_pairs_the_first_half_of_a_noisy_batch_with_the_second(count: int) -> None:
    net, (x, y) = _net(), _batch()
    x, y, ids = x[:count], y[:count], torch.tensor([5, 3, 11, 2, 7, 0])[:count]
    found = CLP(weight=0.7, noise=0.5)(net, x, y, streams=Streams(3, ids), at=Moment())
    noisy = x + 0.5 * Streams(3, ids).normal(torch.arange(count), (1, 3, 4), dtype=torch.float64)
    a = net(noisy).detach().numpy()
    want = np.mean([_cross_entropy(a[i], int(y[i])) for i in range(count)])
    m = count // 2
    if m:
        want += 0.7 * np.mean([np.sum((a[i] - a[i + m]) ** 2) / 4 for i in range(m)])
    np.testing.assert_allclose(found.total.item(), want, rtol=1e-12)


def test_clp_without_noise_sees_the_examples_themselves() -> None:
    net, (x, y) = _net(), _batch()
    found = CLP(weight=0.0, noise=0.0)(net, x, y, streams=Streams(3, torch.arange(6)), at=Moment())
    assert torch.equal(found.logits, net(x))
    torch.testing.assert_close(found.total, nn.functional.cross_entropy(net(x), y))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_that_mean_nothing_are_refused(weight: float) -> None:
    for kind in (ALP, CLP):
        with pytest.raises(SettingError, match="weight"):
            kind(weight=weight)
    with pytest.raises(SettingError, match="noise"):
        CLP(noise=weight)
