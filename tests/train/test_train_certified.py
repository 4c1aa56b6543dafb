"""Training by bounds against statements of it in matrices that share no code, and what it promises."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.bounds import Inputs, lower_bounds, ranges_of
from hauberk.errors import ModelError, SettingError
from hauberk.layered.from_torch import from_torch
from hauberk.threat import ThreatModel
from hauberk.train import (
    IBP,
    CrownIBP,
    Cyclic,
    InnerPGD,
    Losses,
    Moment,
    MtlIBP,
    Natural,
    Objective,
    Recipe,
    Regularised,
    ReluStability,
    Sabr,
    fit,
    initialise,
    objective_named,
    prepare,
    regulariser_named,
)
from hauberk.train._intervals import (
    Certified,
    box_ranges,
    graph_of,
    scale_for_intervals,
    worst_by_crown,
    worst_by_intervals,
)

END = Moment(step=99, steps=100)
"""The last step of a training: every ramp is over."""


def _mlp() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)),
        seed=4,
    ).double()


def _conv() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2, stride=1, padding=1),
            nn.ReLU(),
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(18, 3),
        ),
        seed=5,
    ).double()


NETS = [_mlp, _conv]


def _batch() -> tuple[Tensor, Tensor]:
    x = torch.rand((6, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


def _call(objective: Objective, net: nn.Module, at: Moment = END) -> Losses:
    x, y = _batch()
    return objective(net, x, y, streams=Streams(0, torch.arange(6)), at=at)


def _matrices(net: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """The layers as dense matrices and biases, (out, in) and (out,), attached to the weights."""
    found: list[tuple[Tensor, Tensor]] = []
    shape: tuple[int, ...] = (1, 3, 4)
    for layer in net:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            size = math.prod(shape)
            zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
            columns = layer(torch.eye(size, dtype=torch.float64).reshape(size, *shape)) - zero
            found.append((columns.flatten(1).T, zero.flatten()))
        shape = tuple(layer(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    return found


def _split(matrix: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    up, down = matrix.clamp_min(0), matrix.clamp_max(0)
    return up @ low + down @ high, up @ high + down @ low


def _worst(net: nn.Sequential, x: Tensor, c: int, radius: float, beta: float = 0.0) -> Tensor:
    """(classes,) the worst logits of one example by sign-split matrices, and by a linear function carried backward."""
    *hidden, (last, bias) = _matrices(net)
    low, high = (x.flatten() - radius).clamp(0, 1), (x.flatten() + radius).clamp(0, 1)
    box, before = (low, high), []
    for weight, shift in hidden:
        low, high = _split(weight, low, high)
        before.append((low + shift, high + shift))
        low, high = (low + shift).clamp_min(0), (high + shift).clamp_min(0)
    rows, constant = last[c] - last, bias[c] - bias
    margin = _split(rows, low, high)[0] + constant
    if beta:
        margin = (1 - beta) * margin + beta * torch.stack(
            [_backward(row, value, hidden, before, box) for row, value in zip(rows, constant, strict=True)]
        )
    return -margin


def _backward(a: Tensor, constant: Tensor, hidden: list[Any], before: list[Any], box: tuple[Tensor, Tensor]) -> Tensor:
    for (weight, shift), (low, high) in zip(reversed(hidden), reversed(before), strict=True):
        slopes, offset = [], torch.zeros((), dtype=torch.float64)
        for k, value in enumerate(a):
            least, most = low[k], high[k]
            if least >= 0 or most <= 0:
                slope = torch.ones(()) if least >= 0 else torch.zeros(())
            elif value >= 0:
                slope = torch.tensor(float(most > -least))
            else:
                slope = most / (most - least)
                offset = offset - value * slope * least
            slopes.append(value * slope)
        a = torch.stack(slopes).double()
        constant, a = constant + offset + a @ shift, a @ weight
    return constant + _split(a[None], *box)[0][0]


def _cross_entropy(logits: Tensor, c: int) -> Tensor:
    return logits.exp().sum().log() - logits[c]


def _stated(net: nn.Sequential, radius: float, kappa: float, beta: float = 0.0) -> Tensor:
    x, y = _batch()
    natural = torch.stack([_cross_entropy(net(x[i : i + 1])[0], int(y[i])) for i in range(6)]).mean()
    robust = [_cross_entropy(_worst(net, x[i], int(y[i]), radius, beta), int(y[i])) for i in range(6)]
    return kappa * natural + (1 - kappa) * torch.stack(robust).mean()


def _compare(found: Tensor, want: Tensor, net: nn.Module) -> None:
    torch.testing.assert_close(found, want)
    weights = list(net.parameters())
    for got, expected in zip(torch.autograd.grad(found, weights), torch.autograd.grad(want, weights), strict=True):
        assert got.abs().max() > 0
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize(("step", "radius", "kappa"), [(99, 0.1, 0.3), (54, 0.05, 0.65)])
def test_the_interval_loss_is_that_of_sign_split_matrices(
    make: Callable[[], nn.Sequential], step: int, radius: float, kappa: float
) -> None:
    net = make()
    found = _call(IBP(threat="linf:0.1", warm_up=0.3, ramp=0.5, kappa_end=0.3), net, Moment(step, 100))
    _compare(found.total, _stated(net, radius, kappa), net)
    assert found.measures["radius"] == pytest.approx(radius)


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize(("step", "radius", "kappa", "beta"), [(99, 0.1, 0.3, 0.2), (54, 0.05, 0.65, 0.6)])
def test_the_crown_loss_is_that_of_a_linear_function_carried_backward(
    make: Callable[[], nn.Sequential], step: int, radius: float, kappa: float, beta: float
) -> None:
    net = make()
    objective = CrownIBP(threat="linf:0.1", warm_up=0.3, ramp=0.5, kappa_end=0.3, beta_end=0.2)
    _compare(_call(objective, net, Moment(step, 100)).total, _stated(net, radius, kappa, beta), net)


def test_without_the_linear_bound_crown_training_is_interval_training() -> None:
    net = _conv()
    crown, plain = (_call(kind(threat="linf:0.1"), net) for kind in (CrownIBP, IBP))
    assert torch.equal(crown.total, plain.total)
    assert torch.equal(crown.logits, plain.logits)


def _stepped(net: nn.Module, radius: float) -> Tensor:
    """One signed step of this length."""
    x, y = _batch()
    x.requires_grad_()
    loss = torch.stack([_cross_entropy(net(x)[i], int(y[i])) for i in range(6)]).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    return (x + radius * gradient.sign()).detach().clamp(0, 1)


ONE_STEP = InnerPGD(steps=1, start="clean", step_size=1.0)


@pytest.mark.parametrize("make", NETS)
def test_the_small_box_lies_around_a_point_of_large_loss(make: Callable[[], nn.Sequential]) -> None:
    net, (_, y) = make(), _batch()
    found = _call(Sabr(threat="linf:0.1", share=0.3, inner=ONE_STEP), net)
    z = _stepped(net, 0.07)
    terms = [_cross_entropy(_worst(net, z[i], int(y[i]), 0.03), int(y[i])) for i in range(6)]
    _compare(found.total, torch.stack(terms).mean(), net)


def test_a_small_box_of_full_size_is_interval_training() -> None:
    net = _mlp()
    whole = _call(Sabr(threat="linf:0.1", share=1.0), net)
    assert torch.equal(whole.total, _call(IBP(threat="linf:0.1", kappa_end=0.0), net).total)


@pytest.mark.parametrize("make", NETS)
def test_the_mixed_loss_weighs_intervals_and_an_adversarial_point(make: Callable[[], nn.Sequential]) -> None:
    net, (x, y) = make(), _batch()
    found = _call(MtlIBP(threat="linf:0.1", alpha=0.2, inner=ONE_STEP), net)
    z = _stepped(net, 0.1)
    terms = [
        0.2 * _cross_entropy(_worst(net, x[i], int(y[i]), 0.1), int(y[i]))
        + 0.8 * _cross_entropy(net(z[i : i + 1])[0], int(y[i]))
        for i in range(6)
    ]
    _compare(found.total, torch.stack(terms).mean(), net)
    torch.testing.assert_close(found.logits, net(z))


@pytest.mark.parametrize("make", NETS)
def test_relu_stability_is_the_sum_over_relus(make: Callable[[], nn.Sequential]) -> None:
    net, (x, y) = make(), _batch()
    found = ReluStability(weight=0.5, threat="linf:0.1")(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment())
    terms = []
    for each in x:
        low, high = (each.flatten() - 0.1).clamp(0, 1), (each.flatten() + 0.1).clamp(0, 1)
        for weight, shift in _matrices(net)[:-1]:
            low, high = (side + shift for side in _split(weight, low, high))
            terms.append(-torch.tanh(1 + low * high).sum())
            low, high = low.clamp_min(0), high.clamp_min(0)
    want = 0.5 * torch.stack(terms).sum() / 6
    torch.testing.assert_close(found, want)
    weights = list(net.parameters())
    got, expected = (torch.autograd.grad(loss, weights, materialize_grads=True) for loss in (found, want))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_relu_stability_ranks_a_net_with_decided_relus_first() -> None:
    (x, y), losses = _batch(), []
    for bias in (0.0, 50.0):
        net = _mlp()
        with torch.no_grad():
            net[1].bias.fill_(bias)  # type: ignore[union-attr]
        losses.append(ReluStability()(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment()).item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "make", [*NETS, lambda: nn.Sequential(*_mlp(), nn.ReLU()), lambda: nn.Sequential(*_mlp(), nn.Tanh())]
)
def test_no_point_of_the_box_has_worse_logits_than_the_worst(make: Callable[[], nn.Sequential]) -> None:
    net, (x, y) = make(), _batch()
    ball, graph = IBP(threat="linf:0.1").ball(1.0), graph_of(net, x)
    ranges = box_ranges(graph, x, ball)
    generator = torch.Generator().manual_seed(0)
    for worst in (worst_by_intervals(graph, ranges, y), worst_by_crown(graph, ranges, y)):
        assert worst[torch.arange(6), y].abs().max() == 0
        for corner in (True, False):
            for _ in range(50):
                d = 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1
                z = ball.project(x + 0.1 * (d.sign() if corner else d), x)
                logits = net(z)
                assert (logits - logits.gather(1, y[:, None]) <= worst + 1e-12).all()


def test_the_linear_bound_is_tighter_than_intervals_on_a_net_of_ordinary_weights() -> None:
    net, (x, y) = _mlp(), _batch()
    graph = graph_of(net, x)
    ranges = box_ranges(graph, x, IBP(threat="linf:0.05").ball(1.0))
    assert worst_by_crown(graph, ranges, y).sum() < worst_by_intervals(graph, ranges, y).sum()


def test_the_radius_grows_after_the_warm_up_and_stays() -> None:
    objective = IBP(threat="linf:0.4", warm_up=0.2, ramp=0.4)
    shares = [objective.grown(Moment(step, 10)) for step in range(10)]
    assert shares == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    assert replace(objective, warm_up=0.0, ramp=0.0).grown(Moment(0, 1000)) == 1
    assert replace(objective, ramp=0.0).grown(Moment(1, 10)) == 0
    assert replace(objective, ramp=0.0).grown(Moment(2, 10)) == 1
    assert objective.radius(0.25) == objective.ball(0.25).radius == pytest.approx(0.1)


@pytest.mark.parametrize("objective", [IBP(), CrownIBP(), Sabr(), MtlIBP()], ids=lambda o: type(o).__name__)
def test_in_the_warm_up_the_loss_is_that_of_the_examples(objective: Any) -> None:
    net = _mlp()
    found = _call(replace(objective, warm_up=0.5), net, Moment(3, 100))
    natural = _call(Natural(), net)
    torch.testing.assert_close(found.total, natural.total)
    torch.testing.assert_close(found.logits, natural.logits)
    assert found.measures["radius"] == 0


class _KilledError(Exception):
    pass


@dataclass(frozen=True)
class _Failing:
    """Stops the training at its n-th call, and looks like the one it wraps."""

    inner: Certified
    calls: list[int]

    def __repr__(self) -> str:
        return repr(self.inner)

    def prepare(self, net: nn.Module) -> nn.Module:
        return self.inner.prepare(net)

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        self.calls[0] -= 1
        if self.calls[0] < 0:
            raise _KilledError
        wrapped: Any = self.inner
        return wrapped(net, x, y, streams=streams, at=at)


@pytest.mark.parametrize(
    "objective",
    [
        IBP(init=True, warm_up=0.2),
        CrownIBP(),
        Sabr(inner=InnerPGD(steps=2)),
        MtlIBP(inner=InnerPGD(steps=2)),
        Regularised(objective=IBP(), regularisers=(ReluStability(),)),
    ],
    ids=lambda o: type(o).__name__,
)
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, objective: Any) -> None:
    x, y = _batch()
    recipe = Recipe(epochs=4, batch_size=3)
    whole = fit(_conv(), (x, y), objective, recipe)
    with pytest.raises(_KilledError):
        fit(_conv(), (x, y), _Failing(objective, [5]), recipe, out=tmp_path, checkpoint_every=1)
    resumed = fit(_conv(), (x, y), objective, recipe, out=tmp_path, checkpoint_every=1)
    assert resumed.resumed_at == 5
    for got, want in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(got, want)


def test_a_net_is_read_once_and_again_when_its_tensors_are_others() -> None:
    net, (x, _) = _mlp(), _batch()
    graph = graph_of(net, x)
    with torch.no_grad():
        net[1].weight.mul_(2)  # type: ignore[operator, union-attr]
    assert graph_of(net, x) is graph
    torch.testing.assert_close(graph(x), net(x))
    net[1].weight = nn.Parameter(torch.ones(9, 12, dtype=torch.float64))  # type: ignore[union-attr]
    again = graph_of(net, x)
    assert again is not graph
    torch.testing.assert_close(again(x), net(x))


def test_the_trainer_does_not_count_the_reading_and_lower_precision_leaves_the_bounds_alone() -> None:
    net, (x, y) = initialise(_mlp, seed=0).float(), _batch()
    recipe = Recipe(epochs=1, batch_size=6, precision="bfloat16")
    fitted = fit(net, (x, y), IBP(), recipe)
    assert fitted.epochs[0].forwards == fitted.epochs[0].backwards == 1
    assert graph_of(net, x).nodes[-1].op(torch.ones(1, 7)).dtype == torch.float32


def test_a_hook_of_somebody_else_is_part_of_the_net() -> None:
    net, (x, _) = _mlp(), _batch()

    def doubled(module: nn.Module, given: Any, scores: Tensor) -> Tensor:
        return 2 * scores

    net.register_forward_hook(doubled)
    torch.testing.assert_close(graph_of(net, x)(x), net(x))


def test_what_is_computed_from_a_buffer_is_read_again_when_that_changes() -> None:
    class Scaled(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(2.0, dtype=torch.float64))
            self.net = _mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x / self.scale)

    net, (x, _) = Scaled(), _batch()
    assert graph_of(net, x) is graph_of(net, x)
    net.scale.fill_(3.0)
    torch.testing.assert_close(graph_of(net, x)(x), net(x))


def test_weights_that_would_be_out_of_date_are_refused() -> None:
    x, _ = _batch()
    normed = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(4, 3)).double()
    with pytest.raises(ModelError, match=r"without batch norm.*got one at '1'"):
        graph_of(normed, x)
    net = _mlp()
    nn.utils.parametrizations.weight_norm(net[1])
    with pytest.raises(ModelError, match="plain weights"):
        graph_of(net, x)
    with pytest.raises(ModelError, match="cannot be bounded"):
        graph_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(dim=1), nn.Linear(3, 3)).double(), x)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    with pytest.raises(ModelError, match="net with ReLU"):
        ReluStability()(linear, *_batch(), streams=Streams(0, torch.arange(6)), at=Moment())


def test_scaled_weights_keep_the_width_of_intervals() -> None:
    deep = initialise(
        lambda: nn.Sequential(*(part for _ in range(8) for part in (nn.Linear(100, 100), nn.ReLU()))), seed=0
    ).double()
    x = torch.rand((4, 100), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def widths() -> list[float]:
        ranges = box_ranges(graph_of(deep, x), x, IBP(threat="linf:0.1", bounds=(-9.0, 9.0)).ball(1.0))
        return [(high - low).mean().item() for low, high in ranges[::2]]

    plain = widths()
    prepared = prepare(Regularised(objective=IBP(init=True), regularisers=(ReluStability(),)), deep)
    assert prepared is deep
    ready = widths()
    assert all(after / before > 2 for before, after in pairwise(plain))
    assert all(0.7 < after / before < 1.4 for before, after in pairwise(ready[1:]))
    state = {name: value.clone() for name, value in deep.state_dict().items()}
    scale_for_intervals(deep)
    for name, value in deep.state_dict().items():
        torch.testing.assert_close(value, state[name])
    assert prepare(IBP(), _mlp())[1].bias.abs().max() > 0  # type: ignore[index]


def test_a_net_trained_with_intervals_is_certified_by_them_and_an_ordinary_one_is_not() -> None:
    generator = np.random.default_rng(0)
    y = torch.arange(300) % 3
    x = torch.as_tensor(generator.uniform(size=(300, 12)), dtype=torch.float32)
    x[torch.arange(300), y] = 1.0  # three values tell, each 0.35 away from the middle
    x[:, :3] = 0.15 + 0.7 * (x[:, :3] == 1.0)
    share: dict[str, float] = {}
    for objective in (Natural(), IBP(threat="linf:0.28", kappa_end=0.0), Sabr(threat="linf:0.28", share=0.5)):
        net = initialise(lambda: nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 3)), seed=0)
        fit(net, (x, y), objective, Recipe(epochs=30, batch_size=50, rate=Cyclic(0.02)))
        graph = from_torch(net, (12,))
        inputs = Inputs.of(ThreatModel.parse("linf:0.28").ball((0.0, 1.0)), x)
        spec = torch.eye(3)[y][:, None] - torch.eye(3)
        others = spec[~torch.eye(3, dtype=torch.bool)[y]].reshape(300, 2, 3)
        with torch.no_grad():
            proved = lower_bounds(graph, ranges_of(graph, inputs, "ibp"), others).amin(dim=1) > 0
        share[type(objective).__name__] = proved.double().mean().item()
    assert share["IBP"] > 0.95, share
    assert share["Natural"] < 0.3, share
    assert share["Sabr"] > share["Natural"] + 0.2, share


def test_they_are_read_by_name() -> None:
    assert objective_named("ibp:kappa_end=0,ramp=0.4,init=true", threat="linf:0.4") == IBP(
        threat="linf:0.4", kappa_end=0.0, ramp=0.4, init=True
    )
    assert objective_named("crown_ibp:beta_end=1", bounds=(-1.0, 1.0)) == CrownIBP(beta_end=1.0, bounds=(-1.0, 1.0))
    assert objective_named("sabr:share=0.4", inner="pgd:steps=3") == Sabr(share=0.4, inner=InnerPGD(steps=3))
    assert objective_named("mtl_ibp:alpha=0.1") == MtlIBP(alpha=0.1)
    assert regulariser_named("relu_stability:weight=0.01", threat="linf:0.1") == ReluStability(
        weight=0.01, threat="linf:0.1"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: IBP(kappa_end=1.1),
        lambda: IBP(kappa_end=math.nan),
        lambda: IBP(warm_up=-0.1),
        lambda: IBP(warm_up=0.6, ramp=0.6),
        lambda: IBP(ramp=math.nan),
        lambda: IBP(threat="l2:0.3"),
        lambda: IBP(threat="linf:0.1,0.2"),
        lambda: CrownIBP(beta_end=-1.0),
        lambda: CrownIBP(kappa_end=2.0),
        lambda: Sabr(share=0.0),
        lambda: Sabr(share=1.5),
        lambda: MtlIBP(alpha=0.0),
        lambda: MtlIBP(alpha=math.nan),
        lambda: ReluStability(weight=0.0),
        lambda: ReluStability(weight=math.inf),
        lambda: ReluStability(threat="l2:1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(SettingError, match="got"):
        make()
