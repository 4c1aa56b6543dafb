"""Hypersphere embedding: the head, and each objective on it against its formula in cosines."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import ModelError, SettingError
from hauberk.train import (
    AWP,
    PGDAT,
    Hypersphere,
    HypersphereHead,
    InnerPGD,
    JacobianPenalty,
    Moment,
    Recipe,
    Regularised,
    fit,
    initialise,
    with_hypersphere_head,
)

STREAMS = Streams(0, torch.arange(6))


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)), seed=4
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 2])


def _cosines(net: nn.Module, x: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """From the plain net's parts: its hidden layer and the weights of its last."""
    h = np.tanh(x.flatten(1).numpy() @ net[1].weight.detach().numpy().T + net[1].bias.detach().numpy())  # type: ignore[index]
    w = net[3].weight.detach().numpy()  # type: ignore[index]
    return np.array([[hi @ wk / np.sqrt((hi @ hi) * (wk @ wk)) for wk in w] for hi in h])


def test_the_head_scores_by_scaled_cosines() -> None:
    net, (x, _) = _net(), _batch()
    head = with_hypersphere_head(net, scale=7.0)
    np.testing.assert_allclose(head(x).detach().numpy(), 7.0 * _cosines(net, x), rtol=1e-12)
    assert head(x).abs().max().item() <= 7.0


def test_the_length_of_features_and_weights_plays_no_part() -> None:
    head = initialise(lambda: HypersphereHead(5, 3, scale=4.0), seed=1)
    h = torch.randn((6, 5), generator=torch.Generator().manual_seed(0))
    before = head(h)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[2.0], [0.1], [30.0]]))
    torch.testing.assert_close(head(100 * h), before)


def test_the_conversion_copies_and_draws_nothing() -> None:
    net = _net()
    before, drawn = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    other = with_hypersphere_head(net)
    assert torch.equal(torch.get_rng_state(), drawn)
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert list(other.state_dict()) == ["1.weight", "1.bias", "3.weight"]
    assert isinstance(other[3], HypersphereHead)  # type: ignore[index]


def test_a_net_within_a_net_and_a_bare_layer_convert_too() -> None:
    inner = nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Sequential(nn.ReLU(), nn.Linear(3, 2), nn.Identity())})
    found = with_hypersphere_head(inner)
    assert [type(module).__name__ for module in found.modules()].count("HypersphereHead") == 1
    assert isinstance(found.get_submodule("body"), nn.Linear)
    assert isinstance(with_hypersphere_head(nn.Linear(3, 2)), HypersphereHead)


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(ModelError, match="last linear layer"):
        with_hypersphere_head(nn.Conv2d(1, 1, 1))
    with pytest.raises(ModelError, match="use it as it is"):
        with_hypersphere_head(with_hypersphere_head(_net()))
    with pytest.raises(SettingError, match="scale"):
        with_hypersphere_head(_net(), scale=0.0)
    with pytest.raises(ModelError, match="with_hypersphere_head"):
        Hypersphere()(_net(), *_batch(), streams=STREAMS.child(0), at=Moment())


@pytest.mark.parametrize("on", ["at", "alp", "trades"])
def test_each_objective_is_its_formula_in_cosines(on: str) -> None:
    plain, (x, y) = _net(), _batch()
    z, s, m, beta = x + 0.05, 7.0, 0.2, 1.5
    net = with_hypersphere_head(plain, scale=s)
    objective = Hypersphere(on=on, margin=m, beta=None if on == "at" else beta)
    found = objective.loss(net, x, z, y, at=Moment())

    def learn(c: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", k: int) -> float:
        top = np.exp(s * (c[k] - m))
        return float(-np.log(top / (top + sum(np.exp(s * c[j]) for j in range(4) if j != k))))

    a, b = _cosines(plain, x), _cosines(plain, z)
    terms = []
    for i in range(6):
        k = int(y[i])
        p, q = (np.exp(s * c[i]) / np.exp(s * c[i]).sum() for c in (a, b))
        terms.append(
            {
                "at": learn(b[i], k),
                "alp": (learn(a[i], k) + learn(b[i], k)) / 2 + beta * np.mean((a[i] - b[i]) ** 2),
                "trades": learn(a[i], k) + beta * np.sum(p * np.log(p / q)),
            }[on]
        )
    np.testing.assert_allclose(found.total.item(), np.mean(terms), rtol=1e-10)


def test_the_gradient_by_the_weights_is_that_of_the_formula() -> None:
    net, (x, y) = with_hypersphere_head(_net(), scale=7.0), _batch()
    found = torch.autograd.grad(Hypersphere(margin=0.2).loss(net, x, x, y, at=Moment()).total, list(net.parameters()))
    h = net[:3](x)  # type: ignore[index]
    w = net[3].weight  # type: ignore[index]
    cosine = (h @ w.T) / (h.norm(dim=1)[:, None] * w.norm(dim=1))
    rows = torch.arange(6)
    top = (7.0 * (cosine[rows, y] - 0.2)).exp()
    rest = (7.0 * cosine).exp().sum(1) - (7.0 * cosine[rows, y]).exp()
    want = -(top / (top + rest)).log().mean()
    for got, expected in zip(found, torch.autograd.grad(want, list(net.parameters())), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_inner_maximiser_has_no_margin() -> None:
    net, (x, y) = with_hypersphere_head(_net()), _batch()
    inner = InnerPGD(steps=2)
    found = Hypersphere(threat="linf:0.1", inner=inner, margin=0.4).perturb(
        net, x, y, streams=STREAMS.child(0), at=Moment()
    )
    plain = PGDAT(threat="linf:0.1", inner=inner).perturb(net, x, y, streams=STREAMS.child(0), at=Moment())
    assert torch.equal(found, plain)


def test_trades_on_the_hypersphere_climbs_on_the_divergence() -> None:
    net, (x, y) = with_hypersphere_head(_net()), _batch()
    objective = Hypersphere(threat="linf:0.1", on="trades", inner=InnerPGD(steps=1, start="blocks"))
    a = objective.perturb(net, x, y, streams=STREAMS.child(0), at=Moment())
    assert torch.equal(a, objective.perturb(net, x, (y + 1) % 4, streams=STREAMS.child(0), at=Moment()))


def test_a_net_trained_on_the_hypersphere_is_an_ordinary_net_and_awp_wraps_it() -> None:
    x, y = _batch()
    objective = AWP(objective=Hypersphere(threat="linf:0.05", inner=InnerPGD(steps=1)))
    net = objective.prepare(_net())
    fitted = fit(net, (x, y), objective, Recipe(epochs=150, batch_size=6))
    assert fitted.epochs[-1].loss < fitted.epochs[0].loss
    assert bool((fitted.net(x).argmax(1) == y).all())


def test_a_net_that_has_a_head_is_ready_and_wrappers_pass_that_on() -> None:
    ready = with_hypersphere_head(_net(), scale=3.0)
    objective = Hypersphere()
    assert objective.prepare(ready) is ready
    for outer in (AWP(objective=objective), Regularised(objective=objective, regularisers=(JacobianPenalty(),))):
        assert outer.prepare(ready) is ready
        assert isinstance(outer.prepare(_net())[3], HypersphereHead)  # type: ignore[index]
        assert outer.finish(ready) is ready


def test_the_betas_are_the_authors_unless_given() -> None:
    assert [Hypersphere(on=on).beta for on in ("at", "alp", "trades")] == [None, 0.5, 6.0]
    assert Hypersphere(on="alp") == Hypersphere(on="alp", beta=0.5)
    assert [Hypersphere(on=on).prepare(_net())[3].scale for on in ("at", "alp", "trades")] == [15.0, 20.0, 15.0]  # type: ignore[index]


@pytest.mark.parametrize(
    "settings",
    [{"on": "mart"}, {"margin": -0.1}, {"margin": math.nan}, {"beta": 6.0}, {"on": "alp", "beta": 0.0}],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="got"):
        Hypersphere(**settings)  # type: ignore[arg-type]
