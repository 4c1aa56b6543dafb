"""Constraints on weights, and what they promise of the layers: checked on the layers themselves, as big matrices."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hauberk.errors import ModelError, SettingError
from hauberk.train import (
    PGDAT,
    ClipWeights,
    InnerPGD,
    Natural,
    Parseval,
    Recipe,
    SpectralNorm,
    SpectralProjection,
    fit,
    initialise,
    spectral_norm,
    without_spectral_norm,
)
from hauberk.train._layers import layers, overlap

SHAPE = (2, 7, 6)


def _convolutions() -> dict[str, nn.Module]:
    return initialise(
        lambda: {  # type: ignore[arg-type, return-value]
            "plain": nn.Conv2d(2, 4, 3, padding=1),
            "strided": nn.Conv2d(2, 3, 3, stride=2, padding=1),
            "strided far": nn.Conv2d(2, 3, 2, stride=3),
            "dilated": nn.Conv2d(2, 3, 2, dilation=2, padding=1),
            "strided and dilated": nn.Conv2d(2, 3, 3, stride=2, dilation=2, padding=2),
            "grouped": nn.Conv2d(2, 4, 3, groups=2, padding=1),
            "uneven": nn.Conv2d(2, 2, (1, 3)),
            "transposed": nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1),
        },
        seed=4,
    )


def _operator_norm(layer: nn.Module) -> float:
    """The norm of the layer without its bias, as one big matrix."""
    layer = layer.double()
    basis = torch.eye(math.prod(SHAPE), dtype=torch.float64).reshape(-1, *SHAPE)
    rows = layer(basis) - layer(torch.zeros_like(basis))
    return float(torch.linalg.matrix_norm(rows.flatten(1).detach(), ord=2))


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(60, 8), nn.Tanh(), nn.Linear(8, 3)
        ),
        seed=4,
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


def _trained(*constraints: Any) -> nn.Module:
    objective = PGDAT(threat="linf:0.05", inner=InnerPGD(steps=1))
    return fit(_net(), _batch(), objective, Recipe(epochs=30, batch_size=6, constraints=constraints)).net


@pytest.mark.parametrize("name", _convolutions())
def test_the_norm_of_a_convolution_is_at_most_that_of_its_matrix_times_its_overlap(name: str) -> None:
    layer = _convolutions()[name]
    groups = layer.groups
    matrix = layer.weight.detach().double().reshape(groups, len(layer.weight) // groups, -1)  # type: ignore[union-attr, arg-type, operator]
    bound = float(torch.linalg.matrix_norm(matrix, ord=2).max()) * overlap(layer)  # type: ignore[arg-type]
    assert 0.4 * bound < _operator_norm(layer) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("name", _convolutions())
def test_after_the_projection_no_layer_lengthens_beyond_the_limit(name: str) -> None:
    layer = _convolutions()[name].double()
    with torch.no_grad():
        layer.weight.mul_(9.0)  # type: ignore[union-attr, operator]
    before = layer.weight.clone()  # type: ignore[union-attr, operator]
    SpectralProjection(limit=0.8)(layer)
    assert _operator_norm(layer) <= 0.8 * (1 + 1e-9)
    after = layer.weight.detach()  # type: ignore[union-attr, operator]
    once = after.clone()
    SpectralProjection(limit=0.8)(layer)
    torch.testing.assert_close(layer.weight.detach(), once)  # type: ignore[union-attr, operator]
    assert bool((after * before >= 0).all())


def test_the_projection_leaves_short_layers_bit_for_bit() -> None:
    net = _net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    SpectralProjection(limit=100.0)(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_trained_net_under_the_projection_keeps_the_limit_and_the_plain_one_does_not() -> None:
    def largest(net: nn.Module) -> float:
        return max(
            float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)) * overlap(layer)
            for _, layer in layers(net)
        )

    assert largest(_trained(SpectralProjection(limit=0.7))) <= 0.7 * (1 + 1e-9)
    assert largest(_trained()) > 0.8


def test_clipped_weights_stay_in_their_interval_and_biases_may() -> None:
    net = _trained(ClipWeights(limit=0.02))
    assert all(float(value.detach().abs().max()) <= 0.02 for value in net.parameters() if value.ndim > 1)
    assert any(float(value.detach().abs().max()) > 0.02 for value in net.parameters() if value.ndim == 1)
    net = _trained(ClipWeights(limit=0.02, biases=True))
    assert all(float(value.detach().abs().max()) <= 0.02 for value in net.parameters())
    for layer in (module for module in net.modules() if isinstance(module, nn.Linear)):
        norm = float(torch.linalg.matrix_norm(layer.weight.detach(), ord=2))
        assert norm <= 0.02 * math.sqrt(layer.weight.numel()) + 1e-12


def test_a_step_of_parseval_is_the_formula_of_the_paper() -> None:
    layer = _net()[3]
    w = layer.weight.detach().clone()  # type: ignore[union-attr, operator]
    Parseval(beta=0.1)(layer)
    torch.testing.assert_close(layer.weight.detach(), 1.1 * w - 0.1 * w @ w.T @ w)  # type: ignore[union-attr, operator]
    conv = _net()[0]
    w = conv.weight.detach().flatten(1) * 2.0  # type: ignore[union-attr, operator]
    Parseval(beta=0.1)(conv)
    torch.testing.assert_close(conv.weight.detach().flatten(1) * 2.0, 1.1 * w - 0.1 * w @ w.T @ w)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_parseval_makes_tight_frames(shape: tuple[int, int]) -> None:
    layer = initialise(lambda: nn.Linear(shape[1], shape[0]), seed=4).double()
    Parseval(beta=0.5, repeats=60)(layer)
    values = torch.linalg.svdvals(layer.weight.detach())
    torch.testing.assert_close(values, torch.ones(min(shape), dtype=torch.float64))


@pytest.mark.parametrize("name", _convolutions())
def test_a_parseval_convolution_lengthens_nothing(name: str) -> None:
    layer = _convolutions()[name].double()
    Parseval(beta=0.5, repeats=100)(layer)
    assert 0.5 < _operator_norm(layer) <= 1 + 1e-9


def test_parseval_holds_a_training_near_tight_frames() -> None:
    def away(net: nn.Module) -> float:
        return max(
            float((torch.linalg.svdvals(layer.weight.detach().flatten(1)) * overlap(layer) - 1).abs().max())
            for _, layer in layers(net)
        )

    assert away(_trained(Parseval(beta=0.3, repeats=5))) < 0.05
    assert away(_trained()) > 0.2


def test_spectral_norm_divides_by_the_largest_singular_value_and_is_removed_at_export() -> None:
    net, (x, y) = _net(), _batch()
    objective = SpectralNorm(objective=Natural())
    normalised = objective.prepare(net)  # which fit trains in place, and finishes
    exported = fit(normalised, (x, y), objective, Recipe(epochs=60, batch_size=6)).net
    assert sorted(exported.state_dict()) == sorted(net.state_dict())
    torch.testing.assert_close(exported(x), normalised.eval()(x))
    for _, layer in layers(exported):
        norm = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2))
        assert abs(norm - 1) < 0.02
    _net().load_state_dict(exported.state_dict())


def test_spectral_norm_draws_alike_leaves_the_global_generator_and_the_given_net_alone() -> None:
    net = _net()
    before, names = torch.get_rng_state(), list(net.state_dict())
    one, two = spectral_norm(net), spectral_norm(net)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(net.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert spectral_norm(one) is one
    assert without_spectral_norm(net) is net


def test_what_cannot_be_bounded_is_refused() -> None:
    circular = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ModelError, match="padding"):
        SpectralProjection()(circular)
    with pytest.raises(ModelError, match="plain weights"):
        Parseval()(spectral_norm(_net()))
    with pytest.raises(ModelError, match="without any"):
        spectral_norm(nn.Sequential(nn.Flatten()))
    for limit in (0.0, -1.0, math.nan, math.inf):
        for kind in (ClipWeights, SpectralProjection):
            with pytest.raises(SettingError, match="limit"):
                kind(limit=limit)
    for settings in ({"beta": 0.0}, {"beta": 0.6}, {"beta": math.nan}, {"repeats": 0}):
        with pytest.raises(SettingError, match="parseval"):
            Parseval(**settings)  # type: ignore[arg-type]
