"""AdvProp: two paths of batch norm, one of which is trained, attacked and dropped."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import ModelError
from hauberk.train import (
    AWP,
    AdvProp,
    DualBatchNorm,
    InnerPGD,
    Moment,
    Natural,
    Recipe,
    Regularised,
    extra_parameters,
    fit,
    initialise,
)
from hauberk.train.adv_prop import through_auxiliary, with_dual_norms, without_dual_norms
from hauberk.train.gradient_penalty import GradientPenalty


def _net() -> nn.Sequential:
    net = initialise(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3), nn.BatchNorm1d(3)
        ),
        seed=4,
    ).double()
    net(torch.rand((9, 1, 3, 4), generator=torch.Generator().manual_seed(2), dtype=torch.float64))  # statistics move
    return net


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


def _objective() -> AdvProp:
    return AdvProp(threat="linf:0.1", inner=InnerPGD(steps=2))


def _streams() -> Streams:
    return Streams(0, torch.arange(6))


@pytest.mark.parametrize("training", [True, False])
def test_both_paths_begin_as_the_net_that_was_given(training: bool) -> None:
    net, (x, _) = _net(), _batch()
    dual = with_dual_norms(net)
    net.train(training)
    dual.train(training)
    want = net(x)
    assert torch.equal(dual(x), want)
    with through_auxiliary(dual):
        assert torch.equal(dual(x), want)


def test_the_loss_is_the_sum_over_the_two_paths() -> None:
    net, (x, y) = with_dual_norms(_net()), _batch()
    z = x + 0.05
    with torch.no_grad():  # so that the paths differ
        for module in net.modules():
            if isinstance(module, DualBatchNorm):
                module.auxiliary.weight.add_(0.3)  # type: ignore[union-attr, operator]
    found = _objective().loss(net, x, z, y, at=Moment())

    def by_hand(inputs: Tensor, path: str) -> Tensor:
        out = inputs
        for layer in net:  # type: ignore[union-attr]
            if isinstance(layer, DualBatchNorm):
                norm = getattr(layer, path)
                axes = [0, *range(2, out.ndim)]
                shape = [1, -1] + [1] * (out.ndim - 2)
                mean, spread = out.mean(axes, keepdim=True), out.var(axes, unbiased=False, keepdim=True)
                out = (out - mean) / (spread + norm.eps).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)
            else:
                out = layer(out)
        return out

    def cross_entropy(scores: Tensor) -> Tensor:
        return (scores.exp().sum(1).log() - scores[torch.arange(6), y]).mean()

    want = cross_entropy(by_hand(x, "main")) + cross_entropy(by_hand(z, "auxiliary"))
    torch.testing.assert_close(found.total, want)
    torch.testing.assert_close(found.logits, by_hand(x, "main"))
    weights = list(net.parameters())
    for got, expected in zip(
        torch.autograd.grad(found.total, weights), torch.autograd.grad(want, weights), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_the_attack_climbs_through_the_auxiliary_path() -> None:
    net, (x, y) = with_dual_norms(_net()), _batch()
    z = _objective().perturb(net, x, y, streams=_streams(), at=Moment())
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, DualBatchNorm):
                module.main.weight.neg_()  # type: ignore[union-attr, operator]
    assert torch.equal(_objective().perturb(net, x, y, streams=_streams(), at=Moment()), z)
    net.eval()
    with through_auxiliary(net):
        assert F.cross_entropy(net(z), y) > F.cross_entropy(net(x), y)
    assert not any(module.divert for module in net.modules() if isinstance(module, DualBatchNorm))


def test_each_path_keeps_statistics_of_its_own_examples() -> None:
    net, (x, y) = with_dual_norms(_net()), _batch()
    first = net[1]  # type: ignore[index]
    before = first.main.running_mean.clone()
    net.train()
    z = x + 0.5
    _objective().loss(net, x, z, y, at=Moment())
    for norm, seen in ((first.main, x), (first.auxiliary, z)):
        mean = net[0](seen).mean((0, 2, 3))  # type: ignore[index]
        torch.testing.assert_close(norm.running_mean, 0.9 * before + 0.1 * mean)


def test_what_is_exported_has_the_architecture_and_the_weights_of_the_main_path() -> None:
    net, (x, y) = _net(), _batch()
    objective = _objective()
    trained = objective.prepare(net)  # which fit trains in place, and finishes
    exported = fit(trained, (x, y), objective, Recipe(epochs=3, batch_size=6)).net
    trained.eval()
    assert extra_parameters(trained) == 12
    assert list(exported.state_dict()) == list(net.state_dict())
    assert [type(module) for module in exported.modules()] == [type(module) for module in net.modules()]
    assert torch.equal(exported.eval()(x), trained(x))
    assert not torch.equal(exported(x), net.eval()(x))
    _net().load_state_dict(exported.state_dict())
    assert without_dual_norms(net) is net
    assert all(
        torch.equal(a, b) for a, b in zip(exported.parameters(), objective.finish(trained).parameters(), strict=True)
    )


def test_the_extra_parameters_are_those_of_the_auxiliary_norms() -> None:
    net = _net()
    dual = with_dual_norms(net)
    assert extra_parameters(net) == 0
    assert extra_parameters(dual) == 2 * 3 + 2 * 3
    assert sum(p.numel() for p in dual.parameters()) == sum(p.numel() for p in net.parameters()) + 12


def test_a_norm_that_stands_at_two_places_stays_one() -> None:
    norm = nn.BatchNorm1d(2)
    dual = with_dual_norms(nn.Sequential(norm, nn.Linear(2, 2), norm))
    assert dual[0] is dual[2]  # type: ignore[index]
    assert extra_parameters(dual) == 4
    alone = with_dual_norms(nn.BatchNorm1d(2))
    assert isinstance(alone, DualBatchNorm)
    assert isinstance(without_dual_norms(alone), nn.BatchNorm1d)


def test_the_net_that_is_given_is_left_alone_and_a_ready_one_is_given_back() -> None:
    net = _net()
    names = list(net.state_dict())
    dual = _objective().prepare(net)
    assert list(net.state_dict()) == names
    assert _objective().prepare(dual) is dual


def test_nets_without_batch_norm_are_refused() -> None:
    x, y = _batch()
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    with pytest.raises(ModelError, match="without any batch norm"):
        _objective().prepare(plain)
    with pytest.raises(ModelError, match="dual batch norms"):
        _objective()(plain, x, y, streams=_streams(), at=Moment())


def test_what_is_made_of_adv_prop_prepares_and_finishes_alike() -> None:
    x, y = _batch()
    for objective in (
        AWP(objective=_objective()),
        Regularised(objective=_objective(), regularisers=(GradientPenalty(),)),
    ):
        fitted = fit(_net(), (x, y), objective, Recipe(epochs=2, batch_size=6))
        assert list(fitted.net.state_dict()) == list(_net().state_dict())
        assert objective.finish(fitted.net) is fitted.net
    untouched = AWP(objective=_objective()).prepare(_net())
    assert Regularised(objective=Natural(), regularisers=(GradientPenalty(),)).prepare(untouched) is untouched
