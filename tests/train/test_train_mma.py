"""Max-margin training against the paper's formulas and on lines, whose margins are known."""

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import MMA, Moment, initialise


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    x = torch.rand((8, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = _net()(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 3
    return x, y


def _line() -> nn.Sequential:
    """Scores 0 and <w, x> - 1 in two dimensions."""
    layer = nn.Linear(2, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        layer.bias.copy_(torch.tensor([0.0, -1.0]))
    return nn.Sequential(layer)


def _streams(count: int) -> Streams:
    return Streams(3, torch.arange(count) * 5)


@pytest.mark.parametrize(("norm", "gain", "bar"), [("linf", 7.0, 1 + 1e-9), ("l2", 5.0, 1.02), ("l1", 4.0, 1.02)])
def test_mma_finds_the_margin_of_a_line(norm: str, gain: float, bar: float) -> None:
    x = torch.tensor([[0.5, 0.5], [0.3, 0.3], [0.1, 0.12]], dtype=torch.float64)
    y = torch.tensor([1, 1, 0])
    objective, at = MMA(threat=f"{norm}:0.6", steps=20, bisections=40, bounds=(-2.0, 2.0)), Moment()
    z = objective.perturb(_line(), x, y, streams=_streams(3), at=at)
    margin = (x @ torch.tensor([3.0, 4.0], dtype=torch.float64) - 1).abs() / gain
    ratio = at.memory["mma.batch"] / margin
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= bar
    torch.testing.assert_close(_line()(z).diff(dim=1), torch.zeros(3, 1, dtype=torch.float64), rtol=0, atol=1e-6)


def test_mma_leaves_wrong_examples_where_they_are_and_stops_past_the_largest_margin() -> None:
    x = torch.tensor([[0.9, 0.9], [0.9, 0.9]], dtype=torch.float64)
    at = Moment()
    objective = MMA(threat="linf:0.1", bisections=30)
    z = objective.perturb(_line(), x, torch.tensor([0, 1]), streams=_streams(2), at=at)
    assert torch.equal(z[0], x[0])
    torch.testing.assert_close(at.memory["mma.batch"], torch.tensor([0.0, 0.105], dtype=torch.float64))


@pytest.mark.parametrize("at_boundary", ["cross-entropy", "soft-margin"])
def test_the_mma_loss_is_that_of_the_paper(at_boundary: str) -> None:
    net, (x, y) = _net(), _batch()
    objective = MMA(threat="linf:0.12", clean=0.25, at_boundary=at_boundary, bounds=(-3.0, 3.0))
    at = Moment()
    z = objective.perturb(net, x, y, streams=_streams(8), at=at)
    found = objective.loss(net, x, z, y, at=at)
    total = torch.zeros((), dtype=torch.float64)
    chosen = 0
    for i in range(8):
        clean, moved = net(x[i : i + 1])[0], net(z[i : i + 1])[0]
        total = total + 0.25 * (clean.exp().sum().log() - clean[y[i]])
        others = [k for k in range(3) if k != y[i]]
        right = clean[y[i]] > clean[others].exp().sum().log()
        if right and (z[i] - x[i]).abs().max() < 0.12:
            margin = moved[others].exp().sum().log() - moved[y[i]]
            total = total + 0.75 * (margin if at_boundary == "soft-margin" else (1 + margin.exp()).log())
            chosen += 1
        elif not right:
            total = total + 0.75 * (clean.exp().sum().log() - clean[y[i]])
    assert 0 < chosen <= 5
    torch.testing.assert_close(found.total, total / 8)
    weights = list(net.parameters())
    for got, want in zip(
        torch.autograd.grad(found.total, weights), torch.autograd.grad(total / 8, weights), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_mma_searches_anew_from_the_radius_of_the_last_visit_whatever_the_batch() -> None:
    net, (x, y) = _net(), _batch()
    objective, whole, parts = MMA(threat="linf:0.2", steps=3), Moment(), Moment()
    ids, z = torch.tensor([40, 3, 11, 2, 7, 0, 100, 5]), x
    for epoch in range(3):
        z = objective.perturb(net, x, y, streams=Streams(1, ids, f"train/{epoch}"), at=whole)
        rows = torch.tensor([4, 0, 6]), torch.tensor([7, 1, 2, 3, 5])
        for part in rows:
            cut = objective.perturb(net, x[part], y[part], streams=Streams(1, ids[part], f"train/{epoch}"), at=parts)
            torch.testing.assert_close(cut, z[part])
    torch.testing.assert_close(whole.memory["mma.ids"], ids.sort().values)
    torch.testing.assert_close(whole.memory["mma.radii"], parts.memory["mma.radii"])
    first = MMA(threat="linf:0.2", steps=3).perturb(net, x, y, streams=Streams(1, ids, "train/2"), at=Moment())
    assert not torch.equal(first, z)


def test_mma_tells_the_mean_margin_and_leaves_nothing_on_the_weights() -> None:
    net, (x, y) = _net(), _batch()
    found = MMA(threat="linf:0.12")(net, x, y, streams=_streams(8), at=Moment())
    assert 0 < found.measures["margin"] <= 0.12
    assert 0 <= found.measures["right"] <= 5 / 8
    assert all(value.grad is None for value in net.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"threat": "l0:3"},
        {"steps": 0},
        {"bisections": 0},
        {"first": 0.0},
        {"first": 1.5},
        {"clean": 1.0},
        {"at_boundary": "hinge"},
    ],
)
def test_mma_refuses_settings_that_mean_nothing(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="got"):
        MMA(**settings)  # type: ignore[arg-type]
