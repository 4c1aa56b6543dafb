"""Regularisers by the input's gradient against statements of them that share no code, and how they are added."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import HauberkError, SettingError
from hauberk.train import (
    FastAdversarial,
    GradAlign,
    GradientPenalty,
    JacobianPenalty,
    Moment,
    Natural,
    Recipe,
    Regularised,
    Regulariser,
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


def _gradient(net: nn.Module, x: Tensor, c: int) -> Tensor:
    """Of the cross-entropy of one example, attached."""
    leaf = x.detach()[None].requires_grad_()
    z = net(leaf)[0]
    return torch.autograd.grad(z.exp().sum().log() - z[c], leaf, create_graph=True)[0].flatten()


def _compare(found: Tensor, want: Tensor, net: nn.Module) -> None:
    torch.testing.assert_close(found, want)
    got = torch.autograd.grad(found, list(net.parameters()), materialize_grads=True)
    for g, w in zip(got, torch.autograd.grad(want, list(net.parameters()), materialize_grads=True), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("both", [False, True])
def test_gradient_alignment_is_one_minus_the_cosine_to_the_gradient_at_a_random_point(both: bool) -> None:
    net, (x, y) = _net(), _batch()
    found = GradAlign(weight=0.2, threat="linf:0.3", both=both)(net, x, y, streams=Streams(1, IDS), at=Moment())
    d = (2 * Streams(1, IDS).uniform(torch.arange(6), (1, 3, 4), dtype=torch.float64) - 1) * 0.3
    terms = []
    for i in range(6):
        a, b = _gradient(net, x[i], int(y[i])), _gradient(net, x[i] + d[i], int(y[i]))
        a = a if both else a.detach()
        terms.append(1 - (a @ b) / (a @ a).sqrt() / (b @ b).sqrt())
    _compare(found, 0.2 * torch.stack(terms).mean(), net)
    assert found.item() > 0


def test_gradient_alignment_of_a_linear_binary_net_is_nothing() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    x, y = _batch()
    found = GradAlign()(net, x, y % 2, streams=Streams(1, IDS), at=Moment())
    assert abs(found.item()) < 1e-12


def test_gradient_alignment_reads_directions_too_small_to_square_and_skips_none_at_all() -> None:
    net = initialise(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), seed=0)
    x, _ = _batch()
    with torch.no_grad():  # p of the other class about 1e-30: the square of the gradient is 0 in float32
        net.get_parameter("1.bias").copy_(torch.tensor([69.0, 0.0]))
    found = GradAlign()(net, x.float(), torch.zeros(6, dtype=torch.int64), streams=Streams(1, IDS), at=Moment())
    found.backward()
    assert abs(found.item()) < 1e-5
    net.get_parameter("1.bias").data[0] = 1e6  # no gradient whatever
    found = GradAlign()(net, x.float(), torch.zeros(6, dtype=torch.int64), streams=Streams(1, IDS), at=Moment())
    assert found.item() == 0.0
    assert found.requires_grad
    for part in torch.autograd.grad(found, list(net.parameters()), materialize_grads=True):
        assert bool(part.isfinite().all())


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l2", 1), ("l1", 1), ("l1", 2), ("linf", 1)])
def test_the_gradient_penalty_is_the_mean_norm_of_the_losss_gradient(norm: str, power: int) -> None:
    net, (x, y) = _net(), _batch()
    found = GradientPenalty(weight=0.3, norm=norm, power=power)(net, x, y, streams=Streams(1, IDS), at=Moment())
    terms = []
    for i in range(6):
        g = _gradient(net, x[i], int(y[i])).abs()
        terms.append({"l2": (g * g).sum().sqrt(), "l1": g.sum(), "linf": g.max()}[norm] ** power)
    _compare(found, 0.3 * torch.stack(terms).mean(), net)


def test_the_gradient_penalty_of_a_sure_net_learns_no_nan() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    net.get_parameter("1.bias").data.copy_(torch.tensor([1e6, 0.0]))
    for norm in ("l1", "l2", "linf"):
        for power in (1, 2):
            net.zero_grad()
            found = GradientPenalty(norm=norm, power=power)(
                net, _batch()[0], torch.zeros(6, dtype=torch.int64), streams=Streams(1, IDS), at=Moment()
            )
            found.backward()
            learnt = net.get_parameter("1.weight").grad
            assert learnt is not None
            assert bool(learnt.isfinite().all())


def test_the_exact_jacobian_penalty_is_half_the_squared_frobenius_norm() -> None:
    net, (x, y) = _net(), _batch()
    found = JacobianPenalty(weight=0.3, projections=None)(net, x, y, streams=Streams(1, IDS), at=Moment())
    terms = []
    for i in range(6):
        leaf = x[i][None].clone().requires_grad_()
        rows = [torch.autograd.grad(net(leaf)[0, k], leaf, create_graph=True)[0].flatten() for k in range(4)]
        terms.append(sum(((row * row).sum() for row in rows), torch.zeros(())))
    _compare(found, 0.15 * torch.stack(terms).mean(), net)


def test_random_projections_estimate_the_exact_jacobian_penalty_without_bias() -> None:
    net, (x, y) = _net(), _batch()
    exact = JacobianPenalty(projections=None)(net, x, y, streams=Streams(1, IDS), at=Moment()).item()
    drawn = [JacobianPenalty()(net, x, y, streams=Streams(seed, IDS), at=Moment()).item() for seed in range(600)]
    error = np.std(drawn) / math.sqrt(len(drawn))
    assert abs(np.mean(drawn) - exact) < 4 * error < 0.1 * exact
    many = JacobianPenalty(projections=600)(net, x, y, streams=Streams(1, IDS), at=Moment()).item()
    assert abs(many - exact) < 0.15 * exact


@pytest.mark.parametrize("regulariser", [GradAlign(), GradientPenalty(), JacobianPenalty(projections=2)], ids=repr)
def test_a_regulariser_is_a_mean_over_examples_however_the_batch_was_cut_and_leaves_nothing_behind(
    regulariser: Regulariser,
) -> None:
    net, (x, y) = _net(), _batch()
    whole = regulariser(net, x, y, streams=Streams(1, IDS), at=Moment())
    parts = [
        regulariser(net, x[r], y[r], streams=Streams(1, IDS[r]), at=Moment()) * len(r)
        for r in (torch.arange(2), torch.arange(2, 6))
    ]
    torch.testing.assert_close(whole, sum(parts, torch.zeros(())) / 6)
    assert whole.ndim == 0
    assert all(value.grad is None for value in net.parameters())
    assert not x.requires_grad


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_regularisers_leave_the_modes_of_the_net_as_they_were(mode: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.Linear(9, 4)).double()
    x, y = _batch()
    before = net.get_buffer("2.running_mean").clone()
    for regulariser in (GradAlign(mode=mode), GradientPenalty(mode=mode), JacobianPenalty(mode=mode)):
        regulariser(net, x, y, streams=Streams(1, IDS), at=Moment())
        assert all(module.training for module in net.modules())
    assert torch.equal(net.get_buffer("2.running_mean"), before) == (mode == "eval")


@dataclass(frozen=True)
class _Constant:
    value: float

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Tensor:
        return self.value * next(net.parameters()).sum()


def test_a_regularised_objective_is_the_sum_of_its_parts() -> None:
    net, (x, y) = _net(), _batch()
    plain = Natural()(net, x, y, streams=Streams(0, IDS), at=Moment())
    both = Regularised(objective=Natural(), regularisers=(_Constant(2.0), _Constant(3.0)))
    found = both(net, x, y, streams=Streams(0, IDS), at=Moment())
    weights = next(net.parameters()).sum()
    _compare(found.total, plain.total + 5.0 * weights, net)
    assert torch.equal(found.logits, plain.logits)
    assert sorted(found.measures.values()) == sorted([2.0 * weights.item(), 3.0 * weights.item()])
    assert len(found.measures) == 2  # alike in name, and none hides the other


def test_a_regulariser_changes_no_draw_of_the_objective() -> None:
    net, (x, y) = _net(), _batch()
    plain = FastAdversarial()(net, x, y, streams=Streams(0, IDS), at=Moment())
    found = Regularised(objective=FastAdversarial(), regularisers=(GradAlign(),))(
        net, x, y, streams=Streams(0, IDS), at=Moment()
    )
    assert torch.equal(found.logits, plain.logits)
    assert set(found.measures) == {"grad_align"}


def test_a_regularised_training_learns_and_its_records_hold_the_penalty() -> None:
    x, y = _batch()
    objective = Regularised(objective=Natural(), regularisers=(GradientPenalty(weight=1.0), JacobianPenalty()))
    fitted = fit(_net(), (x, y), objective, Recipe(epochs=60, batch_size=6))
    assert set(fitted.epochs[-1].measures) == {"gradient_penalty", "jacobian"}
    loose = fit(_net(), (x, y), Natural(), Recipe(epochs=60, batch_size=6)).net
    penalty = [GradientPenalty()(net, x, y, streams=Streams(0, IDS), at=Moment()).item() for net in (fitted.net, loose)]
    assert penalty[0] < penalty[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradAlign(weight=0.0),
        lambda: GradAlign(threat="linf:0.1,0.2"),
        lambda: GradAlign(mode="x"),
        lambda: GradientPenalty(weight=math.nan),
        lambda: GradientPenalty(norm="l3"),
        lambda: GradientPenalty(power=3),
        lambda: GradientPenalty(mode="x"),
        lambda: JacobianPenalty(weight=-1.0),
        lambda: JacobianPenalty(projections=0),
        lambda: JacobianPenalty(mode="x"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: "type[object]") -> None:
    with pytest.raises(HauberkError, match="got"):
        make()


def test_a_regularised_objective_without_regularisers_is_refused() -> None:
    with pytest.raises(SettingError, match="at least one"):
        Regularised(objective=Natural(), regularisers=())
