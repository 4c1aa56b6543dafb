"""Pruned and rounded weights, counted."""

import math

import pytest
import torch
from torch import Tensor, nn

from hauberk.errors import SettingError
from hauberk.train import Natural, Prune, Quantise, Recipe, fit, initialise, sparsity


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(1, 3, 2), nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)
        ),
        seed=4,
    ).double()


def _weights(net: nn.Module) -> list[Tensor]:
    return [value.detach() for value in net.parameters() if value.ndim > 1]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_pruning_takes_the_smallest_weights_of_all_layers_and_leaves_the_others(share: float) -> None:
    net, before = _net(), torch.cat([w.flatten() for w in _weights(_net())])
    Prune(share)(net)
    after = torch.cat([w.flatten() for w in _weights(net)])
    gone = after == 0
    assert int(gone.sum()) == round(share * len(after))
    assert sparsity(net) == round(share * len(after)) / len(after)
    assert torch.equal(after[~gone], before[~gone])
    if share:
        assert before[gone].abs().max() <= before[~gone].abs().min()
    assert all(
        torch.equal(a, b) for a, b in zip(net.parameters(), _net().parameters(), strict=True) if a.ndim == 1
    )  # biases stay


def test_pruning_by_layer_takes_the_same_share_of_each() -> None:
    net = _net()
    Prune(0.5, scope="layer")(net)
    assert [int((w == 0).sum()) for w in _weights(net)] == [round(0.5 * w.numel()) for w in _weights(net)]


def test_as_a_constraint_pruning_keeps_the_net_sparse_while_it_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    fitted = fit(_net(), data, Natural(), Recipe(epochs=40, batch_size=6, constraints=(Prune(0.6),)))
    assert abs(sparsity(fitted.net) - 0.6) < 0.01
    assert fitted.epochs[-1].loss < fitted.epochs[0].loss


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounded_weights_are_few_integers_times_a_scale_for_each_output_channel(bits: int) -> None:
    net, plain = _net(), _weights(_net())
    Quantise(bits)(net)
    most = 2 ** (bits - 1) - 1
    for rounded, exact, axis in zip(_weights(net), plain, (1, 0, 0), strict=True):
        for new, old in zip(rounded.unbind(axis), exact.unbind(axis), strict=True):
            scale = old.abs().max() / most
            integers = new / scale
            torch.testing.assert_close(integers, integers.round(), atol=1e-9, rtol=0)
            assert integers.abs().max() <= most + 1e-9
            assert bool(((new - old).abs() <= scale / 2 + 1e-12).all())
    once = [w.clone() for w in _weights(net)]
    Quantise(bits)(net)
    torch.testing.assert_close(_weights(net), once)


def test_a_channel_of_zeros_stays_zero() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0].zero_()
    Quantise()(layer)
    assert bool((layer.weight[0] == 0).all())
    assert bool(layer.weight.isfinite().all())


def test_a_net_without_layers_has_nothing_to_prune() -> None:
    net = nn.Sequential(nn.Flatten())
    Prune()(net)
    assert sparsity(net) == 0.0


def test_settings_that_mean_nothing_are_refused() -> None:
    for share in (-0.1, 1.0, math.nan):
        with pytest.raises(SettingError, match="sparsity"):
            Prune(share)
    with pytest.raises(SettingError, match="scope"):
        Prune(scope="net")
    for bits in (1, 17):
        with pytest.raises(SettingError, match="bits"):
            Quantise(bits)
