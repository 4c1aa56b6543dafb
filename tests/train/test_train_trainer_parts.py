"""The parts of a recipe: accumulation, averages, clipping, constraints, augmentation, precision; each resumes bit-exactly."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import DataError, SettingError, UnknownNameError
from hauberk.train import (
    EMA,
    PGDAT,
    SGD,
    SWA,
    ClipWeights,
    Constant,
    Cutout,
    Cyclic,
    Examples,
    Flip,
    InnerPGD,
    Losses,
    Moment,
    Monitor,
    Natural,
    Objective,
    Piecewise,
    Prune,
    Quantise,
    RandomCrop,
    Recipe,
    SpectralNorm,
    fit,
    initialise,
    sparsity,
)
from hauberk.train._averaging import estimate_norms
from hauberk.train._draws import order
from hauberk.train._layers import layers
from hauberk.train._precision import LossScale, lowered


def _data(count: int = 22, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.rand((count, 1, 2, 3), generator=torch.Generator().manual_seed(1), dtype=dtype)
    return x, (x.flatten(1)[:, 0] + x.flatten(1)[:, 3] > 1).long()


def _make() -> nn.Sequential:
    layers = nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.25), nn.Linear(5, 2)
    return nn.Sequential(*layers)


def _plain() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def _net(make: Callable[[], nn.Module] = _make, dtype: torch.dtype = torch.float64) -> nn.Module:
    return initialise(make, seed=0).to(dtype)


def _same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


class _KilledError(Exception):
    pass


@dataclass(frozen=True)
class _Counting:
    """An objective that keeps a number in its memory and learns by it, and stops the training at its n-th call."""

    calls: list[int]
    inner: Objective = PGDAT(threat="linf:0.1", inner=InnerPGD(steps=2))  # noqa: RUF009  # frozen

    def __repr__(self) -> str:
        return f"Counting({self.inner!r})"

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        self.calls[0] -= 1
        if self.calls[0] < 0:
            raise _KilledError
        count = at.memory.setdefault("count", torch.zeros((), dtype=x.dtype))
        count += 1
        losses = self.inner(net, x, y, streams=streams, at=at)
        return replace(losses, total=losses.total * (1 + 1 / count), measures={"count": count.item()})


RECIPE = Recipe(epochs=3, batch_size=8, seed=5, rate=Cyclic(0.05))  # 3 steps an epoch, the last on 6 examples

PARTS: dict[str, dict[str, Any]] = {
    "accumulation": {"accumulate": 2},
    "EMA": {"average": EMA(0.9)},
    "SWA": {"average": SWA(0.3)},
    "clipping and constraints": {"clip": 0.1, "constraints": (ClipWeights(0.3),), "optimiser": SGD()},
    "augmentation": {"augment": (RandomCrop(1), Flip(), Cutout(1))},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "all": {"accumulate": 2, "average": EMA(0.9), "clip": 1.0, "augment": (Flip(),), "precision": "bfloat16"},
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("killed_after", [2, 4, 7])
def test_a_training_killed_at_any_step_resumes_to_bit_equal_weights(
    tmp_path: Path, name: str, killed_after: int
) -> None:
    recipe = replace(RECIPE, **PARTS[name])
    monitor = Monitor(data=_data(10), threat="linf:0.1", steps=2, every=2) if name in ("all", "SWA") else None
    dtype = torch.float32 if "16" in recipe.precision else torch.float64

    def run(calls: int, **more: Any) -> Any:
        objective = _Counting([calls * recipe.accumulate])
        return fit(_net(dtype=dtype), _data(dtype=dtype), objective, recipe, monitor=monitor, **more)

    unbroken = run(1000)
    with pytest.raises(_KilledError):
        run(killed_after, out=tmp_path, checkpoint_every=1)
    resumed = run(1000, out=tmp_path, checkpoint_every=1)
    assert resumed.resumed_at == killed_after
    assert _same(resumed.net, unbroken.net)
    assert [(each.loss, each.measures, each.held_out) for each in resumed.epochs] == [
        (each.loss, each.measures, each.held_out) for each in unbroken.epochs
    ]
    finished = run(0, out=tmp_path, checkpoint_every=1)  # nothing is left to learn
    assert _same(finished.net, unbroken.net)


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_a_batch_in_pieces_takes_the_same_steps_as_the_batch_in_one(accumulate: int) -> None:
    objective = PGDAT(threat="linf:0.1", inner=InnerPGD(steps=2))
    whole = fit(_net(_plain), _data(), objective, RECIPE)
    pieces = fit(_net(_plain), _data(), objective, replace(RECIPE, accumulate=accumulate))
    for a, b in zip(whole.net.parameters(), pieces.net.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert [epoch.accuracy for epoch in whole.epochs] == [epoch.accuracy for epoch in pieces.epochs]
    assert [epoch.forwards for epoch in whole.epochs] == [epoch.forwards for epoch in pieces.epochs]


def _trace(recipe: Recipe) -> tuple[list[dict[str, Tensor]], nn.Module]:
    """The weights before each step, and the final net."""
    seen: list[dict[str, Tensor]] = []

    @dataclass(frozen=True)
    class Spy:
        def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
            seen.append({name: value.detach().clone() for name, value in net.state_dict().items()})
            return Natural()(net, x, y, streams=streams, at=at)

    return seen, fit(_net(_plain), _data(), Spy(), recipe).net


def test_the_exponential_average_is_the_recursion_over_the_weights_after_each_step() -> None:
    seen, net = _trace(replace(RECIPE, average=EMA(0.6)))
    raw = fit(_net(_plain), _data(), Natural(), RECIPE).net.state_dict()
    after = [*seen[1:], raw]
    for name, value in net.state_dict().items():
        average = after[0][name]
        for k, weights in enumerate(after[1:], 1):
            keep = min(0.6, (1 + k) / (10 + k))
            average = keep * average + (1 - keep) * weights[name]
        assert torch.allclose(value, average, rtol=1e-12)
        assert not torch.equal(value, raw[name])


def test_the_stochastic_average_is_the_mean_of_the_last_epochs() -> None:
    recipe = replace(RECIPE, epochs=4, average=SWA(0.5))
    seen, net = _trace(recipe)
    raw = fit(_net(_plain), _data(), Natural(), replace(RECIPE, epochs=4)).net.state_dict()
    for name, value in net.state_dict().items():
        ends = torch.stack([seen[6][name], seen[9][name], raw[name]])  # after epochs 2, 3 and 4
        assert torch.allclose(value, ends.mean(0), rtol=1e-12)


def test_the_norms_of_an_averaged_net_are_those_of_the_training_examples() -> None:
    net = fit(_net(), _data(), Natural(), replace(RECIPE, average=SWA(0.0))).net
    assert isinstance(net, nn.Sequential)
    mixed = order(22, seed=5, epoch=0, purpose="norms")
    hidden = net[1](net[0](_data()[0])).detach()[mixed].split(11)  # not 8, 8 and 6
    norm: Any = net[2]
    assert torch.allclose(norm.running_mean, torch.stack([part.mean(0) for part in hidden]).mean(0))
    assert torch.allclose(norm.running_var, torch.stack([part.var(0) for part in hidden]).mean(0))
    assert norm.momentum == 0.1


def test_the_norms_of_an_averaged_net_are_found_where_a_last_batch_would_be_one_example() -> None:
    examples = Examples(*_data(17), torch.arange(17), supplement=5, share=0.25)
    fit(_net(), examples, Natural(), replace(RECIPE, average=SWA(0.0)))  # batches of 8; all 17 cut so would leave one
    assert sorted(len(rows) for rows in examples.pieces(8, seed=0)) == [8, 9]
    assert [len(rows) for rows in examples.pieces(100, seed=0)] == [17]
    assert torch.equal(torch.cat(examples.pieces(8, seed=0)).sort().values, torch.arange(17))
    assert not torch.equal(torch.cat(examples.pieces(8, seed=0)), torch.arange(17))


@pytest.mark.parametrize("average", [EMA(0.9), SWA(0.0)], ids=repr)
def test_an_averaged_net_keeps_the_constraints_of_its_recipe(average: Any) -> None:
    recipe = replace(RECIPE, epochs=8, rate=Constant(0.05), average=average, constraints=(Prune(0.8),))
    fitted = fit(_net(_plain), _data(), Natural(), recipe)
    assert abs(sparsity(fitted.net) - 0.8) < 0.02
    rounded = fit(_net(_plain), _data(), Natural(), replace(recipe, constraints=(Quantise(3),))).net
    for weight in (value for value in rounded.parameters() if value.ndim > 1):
        for row in weight.detach():
            assert len(row.abs().unique()) <= 4  # 0 and three levels


@pytest.mark.parametrize("average", [EMA(0.9), SWA(0.0)], ids=repr)
def test_an_averaged_net_is_spectrally_normalised(average: Any) -> None:
    recipe = replace(RECIPE, epochs=8, rate=Constant(0.05), average=average)
    exported = fit(_net(_plain), _data(), SpectralNorm(objective=Natural()), recipe).net
    for _, layer in layers(exported):
        assert float(torch.linalg.matrix_norm(layer.weight.detach(), ord=2)) == pytest.approx(1, abs=0.05)


def test_estimating_norms_leaves_modes_and_weights_alone() -> None:
    net = _net().train()
    weights = {name: value.clone() for name, value in net.named_parameters()}
    estimate_norms(net, [_data()[0]])
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())


def test_clipping_bounds_the_step_of_plain_descent() -> None:
    recipe = Recipe(1, 100, optimiser=SGD(momentum=0.0), rate=Constant(1.0), clip=1e-3)
    before, net = _net(_plain), _net(_plain)
    fit(net, _data(), Natural(), recipe)
    moved = torch.cat([(a - b).flatten() for a, b in zip(net.parameters(), before.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_clipped_weights_stay_in_their_limits_and_biases_are_free() -> None:
    recipe = replace(RECIPE, rate=Constant(0.5), constraints=(ClipWeights(0.05),))
    net = fit(_net(_plain), _data(), Natural(), recipe).net
    assert all(value.abs().max() <= 0.05 for value in net.parameters() if value.ndim > 1)
    assert any(value.abs().max() > 0.05 for value in net.parameters() if value.ndim == 1)
    ClipWeights(0.01, biases=True)(net)
    assert all(value.abs().max() <= 0.01 for value in net.parameters())


def _streams(ids: list[int]) -> Streams:
    return Streams(0, torch.tensor(ids), "test")


@pytest.mark.parametrize("change", [RandomCrop(2), Flip(), Cutout(3)], ids=repr)
def test_an_augmentation_depends_on_the_example_and_not_on_its_batch(change: Any) -> None:
    x = torch.rand((6, 2, 5, 4), generator=torch.Generator().manual_seed(0))
    whole = change(x, streams=_streams([0, 1, 2, 3, 4, 5]))
    some = change(x[[4, 1]], streams=_streams([4, 1]))
    assert torch.equal(whole[[4, 1]], some)
    assert whole.shape == x.shape
    assert not torch.equal(whole, x)
    with pytest.raises(DataError, match="pictures"):
        change(x.flatten(1), streams=_streams([0, 1, 2, 3, 4, 5]))


def test_a_crop_is_a_shift_with_zeros_from_outside_and_every_place_is_drawn() -> None:
    x = torch.rand((400, 2, 3, 4), generator=torch.Generator().manual_seed(0)) + 0.5
    made = RandomCrop(1)(x, streams=_streams(list(range(400))))
    places: set[tuple[int, int]] = set()
    for before, after in zip(x, made, strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
        fits = [(i, j) for i in range(3) for j in range(3) if torch.equal(after, padded[:, i : i + 3, j : j + 4])]
        assert len(fits) == 1
        places.update(fits)
    assert len(places) == 9


def test_a_flip_turns_about_half_of_the_pictures() -> None:
    x = torch.rand((400, 1, 2, 3), generator=torch.Generator().manual_seed(0))
    made = Flip()(x, streams=_streams(list(range(400))))
    turned = (made == x.flip(-1)).flatten(1).all(1)
    assert bool((turned | (made == x).flatten(1).all(1)).all())
    assert 150 < int(turned.sum()) < 250


def test_a_cutout_is_a_square_of_its_size_where_it_lies_inside() -> None:
    made = Cutout(3, fill=0.25)(torch.ones((200, 2, 9, 9)), streams=_streams(list(range(200))))
    cut = made == 0.25
    assert torch.equal(cut[:, 0], cut[:, 1])
    areas = cut[:, 0].flatten(1).sum(1)
    assert int(areas.max()) == 9
    assert int(areas.min()) >= 4
    assert set(made.unique().tolist()) == {0.25, 1.0}


def test_in_bfloat16_only_the_net_is_lowered_and_its_scores_are_not() -> None:
    inside: list[torch.dtype] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.append(x.dtype)
            return x

    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), Watch(), nn.Linear(5, 2))
    with lowered(net, torch.bfloat16):
        scores = net(_data(dtype=torch.float32)[0])
        assert not torch.is_autocast_enabled("cpu")
    assert inside == [torch.bfloat16]
    assert scores.dtype == torch.float32
    net(_data(dtype=torch.float32)[0])
    assert inside[1] == torch.float32
    with pytest.raises(RuntimeError), lowered(net, torch.bfloat16):
        net(torch.zeros(1, 7))
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("precision", "near"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_mixed_precision_learns_about_what_full_precision_learns(precision: str, near: float) -> None:
    data, recipe = _data(60, torch.float32), Recipe(8, 16, rate=Cyclic(0.05))
    full = fit(_net(_plain, torch.float32), data, Natural(), recipe)
    mixed = fit(_net(_plain, torch.float32), data, Natural(), replace(recipe, precision=precision))
    assert mixed.epochs[-1].loss == pytest.approx(full.epochs[-1].loss, rel=near)
    assert mixed.epochs[-1].loss != full.epochs[-1].loss


def test_the_scale_of_the_loss_halves_on_overflow_and_doubles_after_many_good_steps() -> None:
    scale = LossScale(8.0)
    assert scale.after(finite=False) == LossScale(4.0)
    for _ in range(2000):
        scale = scale.after(finite=True)
    assert scale == LossScale(16.0)


def test_a_step_whose_gradients_overflow_is_left_out() -> None:
    @dataclass(frozen=True)
    class Steep:
        def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
            losses = Natural()(net, x, y, streams=streams, at=at)
            return replace(losses, total=losses.total * (1e36 if at.step == 0 else 1.0))

    recipe = Recipe(1, 11, precision="float16", rate=Constant(1e-3))
    fitted = fit(_net(_plain, torch.float32), _data(dtype=torch.float32), Steep(), recipe)
    assert fitted.epochs[0].measures["skipped_steps"] == 0.5
    assert all(bool(value.isfinite().all()) for value in fitted.net.parameters())


def test_parts_out_of_range_are_refused() -> None:
    wrong: list[Callable[[], object]] = [
        lambda: Recipe(1, accumulate=0),
        lambda: Recipe(1, clip=0.0),
        lambda: EMA(1.0),
        lambda: SWA(1.0),
        lambda: RandomCrop(0),
        lambda: Cutout(0),
        lambda: ClipWeights(0.0),
        lambda: Piecewise(0.1, drops=(1.0,)),
    ]
    for make in wrong:
        with pytest.raises(SettingError, match="got"):
            make()
    with pytest.raises(UnknownNameError, match="bfloat16"):
        Recipe(1, precision="bfloat")
