"""The four kinds of label smoothing against their target distributions, and that no gradient goes through these."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import LabelSmoothing, Moment, Natural, initialise

KINDS = ["standard", "adversarial", "boltzmann", "second-best"]


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 2])


def _target(
    kind: str, z: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", c: int, alpha: float, t: float
) -> list[float]:
    spread = np.zeros(4)
    if kind == "standard":
        spread[:] = 1 / 4
    elif kind == "adversarial":
        spread[np.argmin(z)] = 1
    elif kind == "boltzmann":
        spread = np.exp(-z / t) / np.exp(-z / t).sum()
    else:
        spread[max((k for k in range(4) if k != c), key=lambda k: z[k])] = 1
    return [alpha * spread[k] + (1 - alpha) * (k == c) for k in range(4)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_cross_entropy_against_the_smoothed_target_which_is_a_constant(kind: str) -> None:
    net, (x, y) = _net(), _batch()
    found = LabelSmoothing(alpha=0.3, kind=kind, temperature=0.5)(
        net, x, y, streams=Streams(0, torch.arange(6)), at=Moment()
    )
    z = net(x)
    q = torch.tensor([_target(kind, z[i].detach().numpy(), int(y[i]), 0.3, 0.5) for i in range(6)], dtype=torch.float64)
    want = -(q * (z - z.exp().sum(1, keepdim=True).log())).sum(1).mean()
    torch.testing.assert_close(found.total, want)
    torch.testing.assert_close(found.logits, z)
    got = torch.autograd.grad(found.total, list(net.parameters()))
    for g, w in zip(got, torch.autograd.grad(want, list(net.parameters())), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_distributions_and_no_gradient_goes_through_them(kind: str) -> None:
    net, (x, y) = _net(), _batch()
    q = LabelSmoothing(alpha=0.4, kind=kind).targets(net(x), y)
    assert not q.requires_grad
    torch.testing.assert_close(q.sum(1), torch.ones(6, dtype=torch.float64))
    assert bool((q >= 0).all())
    assert bool((q.gather(1, y[:, None]) >= 0.6 - 1e-12).all())


def test_boltzmann_is_adversarial_when_cold_and_standard_when_hot() -> None:
    net, (x, y) = _net(), _batch()
    z = net(x)
    for temperature, kind in [(1e-6, "adversarial"), (1e9, "standard")]:
        q = LabelSmoothing(alpha=0.4, kind="boltzmann", temperature=temperature).targets(z, y)
        torch.testing.assert_close(q, LabelSmoothing(alpha=0.4, kind=kind).targets(z, y))


@pytest.mark.parametrize("kind", KINDS)
def test_without_smoothing_it_is_natural_training(kind: str) -> None:
    net, (x, y) = _net(), _batch()
    streams = Streams(0, torch.arange(6))
    found = LabelSmoothing(alpha=0.0, kind=kind)(net, x, y, streams=streams, at=Moment())
    torch.testing.assert_close(found.total, Natural()(net, x, y, streams=streams, at=Moment()).total)


@pytest.mark.parametrize(
    "settings", [{"alpha": 1.0}, {"alpha": -0.1}, {"alpha": math.nan}, {"kind": "soft"}, {"temperature": 0.0}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="got"):
        LabelSmoothing(**settings)  # type: ignore[arg-type]
