"""Objectives against statements of them that share no code."""

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.train import Moment, Natural, initialise


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
    found = Natural()(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment())
    torch.testing.assert_close(found.total, _cross_entropy(net, x, y))
    torch.testing.assert_close(found.logits, net(x))
