"""Objectives that keep something from step to step: a killed training goes on as if nothing had happened, and they can be sharpened."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.train import (
    AWP,
    MMA,
    Adversarial,
    Curriculum,
    Distributional,
    Dynamic,
    Free,
    Losses,
    Moment,
    Recipe,
    fit,
    initialise,
)

OBJECTIVES = [
    MMA(threat="linf:0.2", steps=2, bisections=3),
    Free(replays=3),
    Free(replays=2, start="uniform"),
    Dynamic(c_max=0.01, steps=3),
    Curriculum(strongest=3, window=2),
    Distributional(steps=2, samples=1),
]


def _net() -> nn.Sequential:
    return initialise(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), seed=1).double()


def _data() -> tuple[Tensor, Tensor]:
    x = torch.rand((20, 1, 2, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, (x[:, 0, 0, 0] > 0.5).long()


class _KilledError(Exception):
    pass


@dataclass(frozen=True)
class _Failing:
    """Stops the training at its n-th call, and looks like the one it wraps."""

    inner: Adversarial
    calls: list[int]

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def visits(self) -> int:
        return getattr(self.inner, "visits", 1)

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        self.calls[0] -= 1
        if self.calls[0] < 0:
            raise _KilledError
        return self.inner(net, x, y, streams=streams, at=at)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, objective: Adversarial) -> None:
    recipe = Recipe(epochs=3, batch_size=6)
    whole = fit(_net(), _data(), objective, recipe)
    with pytest.raises(_KilledError):
        fit(_net(), _data(), _Failing(objective, [6]), recipe, out=tmp_path, checkpoint_every=1)
    resumed = fit(_net(), _data(), objective, recipe, out=tmp_path, checkpoint_every=1)
    assert resumed.resumed_at > 0
    for got, want in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_it_can_be_sharpened_and_remembers_the_same(objective: Adversarial) -> None:
    recipe = Recipe(epochs=1, batch_size=6)
    plain = fit(_net(), _data(), objective, recipe)
    sharp = fit(_net(), _data(), AWP(objective=objective, gamma=1e-12), recipe)
    assert sharp.epochs[0].measures == pytest.approx(plain.epochs[0].measures, rel=1e-6)
    for got, want in zip(sharp.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
