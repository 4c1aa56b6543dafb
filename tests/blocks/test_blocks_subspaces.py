"""Subspaces: shapes, exactness of the maps and of their inverses, names, and what they refuse."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from hauberk.blocks.subspaces import Decoder, Identity, Span, Subspace, lower, subspace_named, subspaces_named
from hauberk.errors import SettingError, UnknownNameError

SHAPES = ((3, 9, 7), (1, 28, 28), (11,), (2, 5))
NAMES = ("identity", "bilinear:4", "tile:4", "dct:4", "bilinear:100", "tile:3", "dct:100")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_lowering_what_was_lifted_gives_it_back(name: str, shape: tuple[int, ...]) -> None:
    space = subspace_named(name)
    v = numbers(3, *space.shape(shape))
    change = space.lift(v, shape)
    assert change.shape == (3, *shape)
    torch.testing.assert_close(lower(space, change), v)


@pytest.mark.parametrize("name", NAMES)
def test_lowering_finds_the_nearest_change(name: str) -> None:
    space, shape = subspace_named(name), (2, 9, 7)
    delta = numbers(2, *shape)
    rest = delta - space.lift(lower(space, delta), shape)
    inside = space.lift(numbers(2, *space.shape(shape), seed=1), shape)
    torch.testing.assert_close((rest * inside).flatten(1).sum(dim=1), torch.zeros(2, dtype=torch.float64))


def test_pictures_are_drawn_as_torch_draws_them() -> None:
    v = numbers(2, 3, 4, 4)
    for name, mode in (("bilinear:4", "bilinear"), ("tile:4", "nearest")):
        torch.testing.assert_close(subspace_named(name).lift(v, (3, 8, 12)), interpolate(v, size=(8, 12), mode=mode))


def test_low_frequencies_and_spans_keep_lengths() -> None:
    spaces: tuple[Subspace, ...] = (subspace_named("dct:3"), Span.of(numbers(5, 2, 6, 6)))
    for space in spaces:
        v = numbers(4, *space.shape((2, 6, 6)))
        torch.testing.assert_close(space.lift(v, (2, 6, 6)).flatten(1).norm(dim=1), v.flatten(1).norm(dim=1))


def test_the_first_frequency_is_constant() -> None:
    change = subspace_named("dct:1").lift(torch.ones(1, 1, 1, 1, dtype=torch.float64), (1, 4, 4))
    torch.testing.assert_close(change, torch.full((1, 1, 4, 4), 0.25, dtype=torch.float64))


def test_a_span_leaves_out_what_depends_on_the_others() -> None:
    one, two = numbers(2, 7)
    assert Span.of(torch.stack((one, two, one - 2 * two))).shape((7,)) == (2,)


def test_top_directions_vary_most_and_bottom_ones_least() -> None:
    scale = torch.tensor([10.0, 3.0, 1.0, 0.1], dtype=torch.float64)
    data = numbers(200, 4) * scale
    top, bottom = (Span.principal(data, 1, which).basis[0].abs() for which in ("top", "bottom"))
    assert int(top.argmax()) == 0
    assert int(bottom.argmax()) == 3
    assert float(top[0]) > 0.99


def test_a_decoder_draws_and_is_resized() -> None:
    net = nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False).double()
    space = Decoder(net, (2, 4, 4))
    v = numbers(2, 2, 4, 4)
    assert space.shape((3, 8, 8)) == (2, 4, 4)
    torch.testing.assert_close(space.lift(v, (3, 8, 8)), net(v).detach())
    drawn = space.lift(v, (3, 10, 10))
    torch.testing.assert_close(drawn, interpolate(net(v).detach(), size=(10, 10), mode="bilinear"))
    assert not drawn.requires_grad
    with pytest.raises(SettingError, match="channels"):
        space.lift(v, (1, 10, 10))
    with pytest.raises(SettingError, match="inverted"):
        lower(space, drawn)


def test_names_are_read_and_wrong_ones_refused() -> None:
    assert subspace_named(Identity()) == subspace_named("identity") == Identity()
    assert subspaces_named("bilinear:8,16") == (subspace_named("bilinear:8"), subspace_named("bilinear:16"))
    with pytest.raises(UnknownNameError):
        subspace_named("bilinaer:8")
    for text in ("bilinear", "tile:", "dct:x", "tile:0"):
        with pytest.raises(SettingError):
            subspace_named(text)
    with pytest.raises(SettingError, match="shape"):
        Span.of(numbers(2, 5)).shape((6,))
    with pytest.raises(SettingError, match="all 0"):
        Span.of(torch.zeros(2, 5))
