"""Maxout layers against the largest of their pieces, written out."""

import pytest
import torch
from torch import nn

from hauberk.errors import SettingError
from hauberk.train import Maxout, MaxoutConv2d, initialise


def test_a_unit_is_the_largest_of_its_linear_functions() -> None:
    layer = initialise(lambda: Maxout(4, 3, pieces=2), seed=1).double()
    x = torch.rand((5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w, b = layer.linear.weight.detach(), layer.linear.bias.detach()
    want = [[max(float(w[2 * i + j] @ row + b[2 * i + j]) for j in range(2)) for i in range(3)] for row in x]
    torch.testing.assert_close(layer(x).detach(), torch.tensor(want, dtype=torch.float64))


def test_a_unit_of_a_convolution_is_the_largest_of_its_pieces_at_each_place() -> None:
    layer = initialise(lambda: MaxoutConv2d(2, 3, 3, pieces=4, stride=2, padding=1), seed=1).double()
    x = torch.rand((5, 2, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pieces = [
        torch.nn.functional.conv2d(x, layer.conv.weight[j::4], layer.conv.bias[j::4], stride=2, padding=1)  # type: ignore[index]
        for j in range(4)
    ]
    want = torch.stack(pieces).max(dim=0).values
    assert want.shape == (5, 3, 3, 3)
    torch.testing.assert_close(layer(x), want)


def test_one_piece_is_a_linear_layer() -> None:
    layer = initialise(lambda: Maxout(4, 3, pieces=1), seed=1)
    x = torch.ones(2, 4)
    assert torch.equal(layer(x), layer.linear(x))


def test_units_are_convex_along_every_line() -> None:
    layer = initialise(lambda: Maxout(4, 3), seed=1).double()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn((50, 4), generator=generator, dtype=torch.float64) for _ in range(2))
    assert bool((layer((a + b) / 2) <= (layer(a) + layer(b)) / 2 + 1e-12).all())


def test_a_layer_without_pieces_is_refused() -> None:
    with pytest.raises(SettingError, match="pieces"):
        Maxout(4, 3, pieces=0)
    with pytest.raises(SettingError, match="pieces"):
        MaxoutConv2d(4, 3, 3, pieces=0)
    assert isinstance(Maxout(1, 1), nn.Module)
