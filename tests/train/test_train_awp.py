"""Adversarial weight perturbation: the step, the size, and that no weight is written."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train import (
    AWP,
    PGDAT,
    FastAdversarial,
    InnerPGD,
    Losses,
    Mart,
    Moment,
    Natural,
    Recipe,
    Trades,
    fit,
    initialise,
)

IDS = torch.tensor([5, 3, 11, 2, 7, 0])


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 2])


@pytest.mark.parametrize(
    "base", [PGDAT(threat="linf:0.1"), Trades(threat="linf:0.1", beta=2.0), Mart(threat="linf:0.1")], ids=repr
)
def test_the_loss_and_its_gradient_are_those_at_weights_one_relative_step_uphill(base: PGDAT) -> None:
    net, (x, y) = _net(), _batch()
    found = AWP(objective=base, gamma=0.05)(net, x, y, streams=Streams(1, IDS), at=Moment())
    z = base.perturb(net, x, y, streams=Streams(1, IDS), at=Moment())
    weights = dict(net.named_parameters())
    slopes = torch.autograd.grad(base.loss(net, x, z, y, at=Moment()).total, list(weights.values()))
    moved = {}
    for (name, w), g in zip(weights.items(), slopes, strict=True):
        if name.endswith("weight"):
            length = math.sqrt(sum(v**2 for v in w.flatten().tolist()))
            steep = math.sqrt(sum(v**2 for v in g.flatten().tolist()))
            moved[name] = (w + 0.05 * length * g / steep).detach()
        else:
            moved[name] = w.detach()
    moved = {name: value.requires_grad_() for name, value in moved.items()}

    class There(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional_call(net, moved, (x,))

    want = base.loss(There(), x, z, y, at=Moment())
    torch.testing.assert_close(found.total, want.total)
    assert found.total.item() > base.loss(net, x, z, y, at=Moment()).total.item()
    got = torch.autograd.grad(found.total, list(weights.values()))
    for g, w in zip(got, torch.autograd.grad(want.total, list(moved.values())), strict=True):
        torch.testing.assert_close(g, w)


def test_no_weight_statistic_mode_or_gradient_is_touched_while_the_step_is_sought() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4)).double()
    x, y = _batch()
    objective = AWP(objective=PGDAT(threat="linf:0.1"), gamma=0.05)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    objective(net, x, y, streams=Streams(1, IDS), at=Moment())
    after = net.state_dict()
    assert {key for key in after if not torch.equal(after[key], before[key])} == {
        "2.running_mean",
        "2.running_var",
        "2.num_batches_tracked",
    }
    assert (
        int(net.get_buffer("2.num_batches_tracked")) == 1
    )  # one forward in training mode, the one that the weights learn from
    assert all(module.training for module in net.modules())
    assert all(value.grad is None for value in net.parameters())


def test_a_layer_without_gradient_or_that_is_frozen_stays_where_it_is() -> None:
    net, (x, y) = _net(), _batch()
    net[1].requires_grad_(False)
    with torch.no_grad():
        net.get_parameter("3.weight").zero_()  # no length, so no step; and no gradient reaches the layer below
    plain = PGDAT(threat="linf:0.1")
    found = AWP(objective=plain)(net, x, y, streams=Streams(1, IDS), at=Moment())
    torch.testing.assert_close(found.total, plain(net, x, y, streams=Streams(1, IDS), at=Moment()).total)
    assert bool(torch.isfinite(torch.autograd.grad(found.total, net.get_parameter("3.weight"))[0]).all())


def test_in_the_warm_up_it_is_the_objective_itself() -> None:
    net, (x, y) = _net(), _batch()
    plain = PGDAT(threat="linf:0.1")
    objective = AWP(objective=plain, gamma=0.05, warm_up=2)
    want = plain(net, x, y, streams=Streams(1, IDS), at=Moment()).total
    for epoch, same in [(0, True), (1, True), (2, False)]:
        found = objective(net, x, y, streams=Streams(1, IDS), at=Moment(epoch=epoch)).total
        assert torch.equal(found, want) == same


def test_what_the_objective_remembers_it_remembers_once() -> None:
    class Counting(PGDAT):
        def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
            at.memory["calls"] = at.memory.get("calls", torch.tensor(0)) + 1
            return super().loss(net, x, z, y, at=at)

    net, (x, y) = _net(), _batch()
    at = Moment()
    AWP(objective=Counting(threat="linf:0.1"))(net, x, y, streams=Streams(1, IDS), at=at)
    assert int(at.memory["calls"]) == 1


def test_a_training_with_it_learns_and_resumes_to_bit_equal_weights(tmp_path: Path) -> None:
    x, y = _batch()
    objective = AWP(objective=FastAdversarial(threat="linf:0.05"), gamma=0.01)
    recipe = Recipe(epochs=30, batch_size=4)
    fitted = fit(_net(), (x, y), objective, recipe)
    assert fitted.epochs[-1].loss < fitted.epochs[0].loss
    fit(_net(), (x, y), objective, Recipe(epochs=30, batch_size=4), out=tmp_path)
    again = fit(_net(), (x, y), objective, recipe, out=tmp_path)
    left, right = fitted.net.state_dict(), again.net.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("settings", [{"gamma": 0.0}, {"gamma": math.inf}, {"warm_up": -1}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="got"):
        AWP(objective=PGDAT(inner=InnerPGD(steps=1)), **settings)  # type: ignore[arg-type]


def test_an_objective_that_does_not_perturb_first_is_refused() -> None:
    with pytest.raises(SettingError, match="Natural"):
        AWP(objective=Natural())  # type: ignore[arg-type]

    class Own(PGDAT):
        def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
            return super().__call__(net, x, y, streams=streams, at=at)

    with pytest.raises(SettingError, match="Own"):
        AWP(objective=Own())
