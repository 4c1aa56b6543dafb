"""The inner ascent and the objectives made of it, against the formulas of their papers written out example by example."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import HauberkError, SettingError, ThreatError
from hauberk.train import PGDAT, Adversarial, Dynamic, FastAdversarial, InnerPGD, Mart, Moment, Trades, initialise

IDS = torch.tensor([5, 3, 11, 2, 7, 0])


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 2])


def _np(value: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    return value.detach().numpy()


def _softmax(
    z: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    e = np.exp(z)
    return e / e.sum()


def test_inner_pgd_is_signed_ascent_cut_to_ball_and_box_pixel_by_pixel() -> None:
    net, (x, y) = _net(), _batch()
    inner = InnerPGD(steps=3, step_size=0.07, start="clean")
    found = PGDAT(threat="linf:0.1", inner=inner).perturb(net, x, y, streams=Streams(0, IDS), at=Moment())
    for i in range(6):
        z = x[i].clone()
        for _ in range(3):
            probe = z[None].clone().requires_grad_()
            loss = net(probe)[0].exp().sum().log() - net(probe)[0, y[i]]
            (g,) = torch.autograd.grad(loss, probe)
            moved = (z + 0.07 * torch.sign(g[0])).flatten().tolist()
            kept = [
                min(max(v, max(c - 0.1, 0.0)), min(c + 0.1, 1.0))
                for v, c in zip(moved, x[i].flatten().tolist(), strict=True)
            ]
            z = torch.tensor(kept, dtype=torch.float64).reshape(1, 3, 4)
        torch.testing.assert_close(found[i], z)


def test_pgd_at_is_the_mean_cross_entropy_of_the_perturbed_examples() -> None:
    net, (x, y) = _net(), _batch()
    objective = PGDAT(threat="linf:0.1", inner=InnerPGD(steps=2))
    z = objective.perturb(net, x, y, streams=Streams(0, IDS), at=Moment())
    found = objective(net, x, y, streams=Streams(0, IDS), at=Moment())
    want = -np.mean([np.log(_softmax(_np(net(z))[i])[y[i]]) for i in range(6)])
    np.testing.assert_allclose(found.total.item(), want, rtol=1e-12)
    assert not torch.equal(z, x)
    torch.testing.assert_close(found.logits, net(z))


def test_trades_is_cross_entropy_plus_beta_times_the_divergence_from_clean_to_perturbed() -> None:
    net, (x, y) = _net(), _batch()
    objective = Trades(threat="linf:0.1", beta=3.0)
    z = x + 0.05
    found = objective.loss(net, x, z, y, at=Moment())
    terms = []
    for i in range(6):
        p, q = _softmax(_np(net(x))[i]), _softmax(_np(net(z))[i])
        terms.append(-np.log(p[y[i]]) + 3.0 * np.sum(p * np.log(p / q)))
    np.testing.assert_allclose(found.total.item(), np.mean(terms), rtol=1e-12)
    assert found.measures["divergence"] > 0


def test_trades_climbs_on_the_divergence_and_not_on_the_cross_entropy() -> None:
    net, (x, y) = _net(), _batch()
    objective = Trades(threat="linf:0.1", inner=InnerPGD(steps=1, start="blocks"))
    found = objective.perturb(net, x, y, streams=Streams(0, IDS), at=Moment())
    other = objective.perturb(net, x, (y + 1) % 4, streams=Streams(0, IDS), at=Moment())
    assert torch.equal(found, other)  # the label plays no part


def test_mart_is_boosted_cross_entropy_plus_divergence_weighted_by_the_doubt_about_the_clean_example() -> None:
    net, (x, y) = _net(), _batch()
    objective = Mart(threat="linf:0.1", beta=5.0)
    z = x + 0.05
    found = objective.loss(net, x, z, y, at=Moment())
    terms = []
    for i in range(6):
        p, q = _softmax(_np(net(x))[i]), _softmax(_np(net(z))[i])
        c = int(y[i])
        wrong = max(q[k] for k in range(4) if k != c)
        terms.append(-np.log(q[c]) - np.log(1 - wrong) + 5.0 * (1 - p[c]) * np.sum(p * np.log(p / q)))
    np.testing.assert_allclose(found.total.item(), np.mean(terms), rtol=1e-12)


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_the_gradient_by_the_weights_is_that_of_the_formula(name: str) -> None:
    net, (x, y) = _net(), _batch()
    z = x + 0.05
    objective = Trades(beta=3.0) if name == "trades" else Mart(beta=3.0)
    found = torch.autograd.grad(objective.loss(net, x, z, y, at=Moment()).total, list(net.parameters()))
    p, q, rows = net(x).softmax(1), net(z).softmax(1), torch.arange(6)
    apart = (p * (p / q).log()).sum(1)
    if name == "trades":
        want = (-p[rows, y].log() + 3.0 * apart).mean()
    else:
        wrong = torch.stack([max(q[i, k] for k in range(4) if k != y[i]) for i in range(6)])  # type: ignore[type-var]
        want = (-q[rows, y].log() - (1 - wrong).log() + 3.0 * (1 - p[rows, y]) * apart).mean()
    for got, expected in zip(found, torch.autograd.grad(want, list(net.parameters())), strict=True):
        torch.testing.assert_close(got, expected)


def test_mart_stays_finite_where_the_net_is_sure_of_a_wrong_class() -> None:
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[900.0, 0.0], [0.0, 900.0], [-900.0, -900.0]]))
    x, y = torch.eye(2), torch.tensor([1, 1])
    found = Mart(threat="linf:0.1").loss(layer, x, x, y, at=Moment())
    found.total.backward()
    assert math.isfinite(found.total.item())
    assert layer.weight.grad is not None
    assert bool(layer.weight.grad.isfinite().all())


@pytest.mark.parametrize("start", ["uniform", "clean", "blocks", "gaussian", "uniform+blocks"])
@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5", "l1:1"])
def test_a_perturbed_example_is_in_the_region_and_the_same_in_every_batch(start: str, threat: str) -> None:
    net, (x, y) = _net(), _batch()
    objective = PGDAT(threat=threat, inner=InnerPGD(steps=3, start=start))
    whole = objective.perturb(net, x, y, streams=Streams(1, IDS), at=Moment())
    assert bool(objective.ball.contains(whole, x).all())
    order = torch.tensor([4, 0, 2])
    part = objective.perturb(net, x[order], y[order], streams=Streams(1, IDS[order]), at=Moment())
    torch.testing.assert_close(part, whole[order])


@pytest.mark.parametrize(
    "objective",
    [
        PGDAT(threat="linf:0.2", inner=InnerPGD(steps=3, start="clean", ramp=0.5)),
        FastAdversarial(threat="linf:0.2", step=2.0, ramp=0.5),
        Dynamic(threat="linf:0.2", start="clean", c_max=0.0, ramp=0.5),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_a_ramp_lets_the_radius_grow_in_a_straight_line(objective: Adversarial) -> None:
    net, (x, y) = _net(), _batch()
    x = x / 2 + 0.25  # the box is far
    for step, share in [(0, 0.2), (2, 0.6), (4, 1.0), (9, 1.0)]:
        z = objective.perturb(net, x, y, streams=Streams(0, IDS), at=Moment(step=step, steps=10))
        torch.testing.assert_close((z - x).abs().amax(), torch.tensor(0.2 * share, dtype=torch.float64))


def test_the_inner_ascent_works_in_evaluation_mode_and_leaves_modes_statistics_and_gradients_as_they_were() -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 4)
    ).double()
    net[2].eval()  # a layer that somebody froze
    x, y = _batch()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    PGDAT(threat="linf:0.1").perturb(net, x, y, streams=Streams(0, IDS), at=Moment())
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(value.grad is None for value in net.parameters())
    assert not x.requires_grad


@pytest.mark.parametrize(
    "make",
    [
        lambda: PGDAT(threat="linf:0.1,0.2"),
        lambda: PGDAT(threat="linf"),
        lambda: PGDAT(threat="linf:8/255@grid255"),
        lambda: PGDAT(mode="sometimes"),
        lambda: PGDAT(bounds=(1.0, 0.0)),
        lambda: Trades(beta=0.0),
        lambda: Trades(beta=math.nan),
        lambda: Mart(beta=-1.0),
        lambda: InnerPGD(steps=0),
        lambda: InnerPGD(step_size=math.inf),
        lambda: InnerPGD(start="nowhere"),
        lambda: InnerPGD(ramp=1.5),
        lambda: FastAdversarial(ramp=-0.1),
        lambda: Dynamic(ramp=1.5),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_sentence(make: "type[Adversarial]") -> None:
    with pytest.raises(HauberkError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_errors_are_of_the_kind_that_their_docstrings_promise() -> None:
    with pytest.raises(ThreatError):
        PGDAT(threat="round:1")
    with pytest.raises(SettingError):
        FastAdversarial(step=0)
