"""YOPO against its algorithm written out for a net whose first layer is known, and its cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import ModelError, SettingError
from hauberk.train import Moment, Recipe, Yopo, fit, initialise


def _make() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(inplace=True), nn.Linear(9, 3))


def _net() -> nn.Sequential:
    return initialise(_make, seed=4).double()


def _batch() -> tuple[Tensor, Tensor]:
    x = torch.rand((6, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


def _streams(ids: Tensor | None = None) -> Streams:
    return Streams(2, torch.arange(6) if ids is None else ids)


@pytest.mark.parametrize("layer", ["", "1"])
def test_yopo_is_the_algorithm_of_the_paper(layer: str) -> None:
    net, (x, y) = _net(), _batch()
    m, n, radius, step = 3, 4, 0.2, 0.07
    objective = Yopo(threat="linf:0.2", propagations=m, inner_steps=n, step_size=step, layer=layer)
    found = objective(net, x, y, streams=_streams(), at=Moment())
    w1, b1, w2, b2 = net.parameters()
    z = (x + (2 * _streams().uniform(torch.arange(6), (1, 3, 4), dtype=torch.float64) - 1) * radius).clamp(0, 1)
    total = logits = torch.zeros((), dtype=torch.float64)
    for _ in range(m):
        hidden = z.flatten(1) @ w1.T + b1
        logits = hidden.clamp_min(0) @ w2.T + b2
        loss = (logits.exp().sum(1).log() - logits[torch.arange(6), y]).mean()
        total = total + loss / m
        (p,) = torch.autograd.grad(loss, hidden, retain_graph=True)
        for _ in range(n):
            gradient = (p @ w1).reshape(z.shape)  # the Hamiltonian <p, w1 z + b1> is linear in z
            z = (z + step * gradient.sign()).maximum(x - radius).minimum(x + radius).clamp(0, 1).detach()
    torch.testing.assert_close(found.total, total)
    torch.testing.assert_close(found.logits, logits)
    for got, want in zip(
        torch.autograd.grad(found.total, list(net.parameters())),
        torch.autograd.grad(total, list(net.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_yopo_costs_as_many_passes_as_propagations() -> None:
    x = torch.rand((10, 1, 3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fitted = fit(_net(), (x, torch.arange(10) % 3), Yopo(propagations=3, inner_steps=9), Recipe(epochs=1, batch_size=4))
    assert (fitted.epochs[0].forwards, fitted.epochs[0].backwards) == (3, 3)


def test_yopo_with_one_inner_step_ascends_as_pgd_does() -> None:
    net, (x, y) = _net(), _batch()
    one = Yopo(threat="linf:0.2", propagations=1)(net, x, y, streams=_streams(), at=Moment()).total
    many = Yopo(threat="linf:0.2", propagations=8, inner_steps=1)(net, x, y, streams=_streams(), at=Moment())
    assert F.cross_entropy(many.logits, y) > one


def test_yopo_perturbs_an_example_alike_in_every_batch() -> None:
    net, (x, y) = _net(), _batch()
    ids, part = torch.tensor([5, 3, 11, 2, 7, 0]), torch.tensor([4, 0, 2])
    whole = Yopo()(net, x, y, streams=_streams(ids), at=Moment()).logits
    cut = Yopo()(net, x[part], y[part], streams=_streams(ids[part]), at=Moment()).logits
    torch.testing.assert_close(cut, whole[part])


class _Scaled(nn.Module):
    """A net that prepares its input, and a layer that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _net()
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - 0.5) / 0.25)


def test_yopo_finds_the_first_layer_behind_a_preparation_of_the_input() -> None:
    net, (x, y) = _Scaled(), _batch()
    found = Yopo()(net, x, y, streams=_streams(), at=Moment())
    found.total.backward()
    assert all(value.grad is not None for value in net.body.parameters())
    with pytest.raises(ModelError, match="got 0 runs"):
        Yopo(layer="unused")(net, x, y, streams=_streams(), at=Moment())
    with pytest.raises(SettingError, match="got 'head'"):
        Yopo(layer="head")(net, x, y, streams=_streams(), at=Moment())
    with pytest.raises(SettingError, match="got none"):
        Yopo()(nn.Flatten(), x, y, streams=_streams(), at=Moment())


@pytest.mark.parametrize("settings", [{"propagations": 0}, {"inner_steps": 0}, {"step_size": -1.0}])
def test_yopo_refuses_settings_that_mean_nothing(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="got"):
        Yopo(**settings)  # type: ignore[arg-type]
