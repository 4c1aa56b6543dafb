"""Small trained nets on digits, shared by the tests of this folder."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from hauberk import data, zoo
from hauberk.victims import Victim


@dataclass(frozen=True)
class Digits:
    """Digits that no net of these tests was trained on, and two nets: an MLP of the zoo, and a small convolutional one."""

    x: Tensor
    y: Tensor
    mlp: Victim
    conv: nn.Module


def train_conv(x: Tensor, y: Tensor) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 10),
        )
        rule = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(12):
            for rows in torch.randperm(len(x)).split(64):
                rule.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                rule.step()
    return net.eval()


@pytest.fixture(scope="session")
def digits() -> Digits:
    chunk = next(iter(data.load("digits").chunks(1797)))
    # the zoo's recipe trained on some of these digits; what these tests ask is not how well it generalises
    return Digits(chunk.x[1200:], chunk.y[1200:], zoo.load("digits-mlp"), train_conv(chunk.x[:1200], chunk.y[:1200]))
