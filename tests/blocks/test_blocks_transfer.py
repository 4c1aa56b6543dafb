"""The transforms of transfer attacks: what they make by hand, what they leave alone, and that no example's draws depend on others."""

import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

from hauberk._rng import Streams
from hauberk.blocks.transfer import (
    GRADIENTS,
    INPUTS,
    Admix,
    Blocks,
    Diverse,
    InputTransform,
    Mix,
    Scales,
    Scene,
    Spectrum,
    Translate,
    copies_of,
    transform_named,
)
from hauberk.blocks.warps import dct_matrix, sampled
from hauberk.errors import SettingError, UnknownNameError

BOX = (0.0, 1.0)


def pictures(count: int = 5, shape: tuple[int, ...] = (2, 6, 7)) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def scene(ids: list[int], seed: int = 0, box: tuple[float, float] = BOX, leave: Tensor | None = None) -> Scene:
    return Scene(torch.arange(len(ids)), Streams(seed, torch.tensor(ids), "transfer"), box, leave)


MIX = Mix(pictures(7) * 0.5, torch.tensor([0, 1, 0, 2, 1, 1, 0]), copies=2)
ALL: dict[str, InputTransform] = {
    "di": Diverse(0.5, 1.0),
    "si": Scales(3),
    "admix": MIX,
    "ssa": Spectrum(2),
    "bsr": Blocks(2),
    "bsr, one block": Blocks(1, blocks=1),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(2, 6, 7), (3,), (11,), (1, 1, 1)])
def test_copies_are_as_many_as_promised_inside_the_box_and_each_lets_a_gradient_through(
    name: str, shape: tuple[int, ...]
) -> None:
    transform = ALL[name] if name != "admix" else Mix(pictures(7, shape), copies=2)
    x = pictures(4, shape).requires_grad_()
    copies = transform(x, scene([1, 2, 3, 4]))
    assert len(copies) == transform.copies
    for copy in copies:
        assert copy.shape == x.shape
        assert bool(((copy >= -1e-12) & (copy <= 1 + 1e-12)).all())
        (gradient,) = torch.autograd.grad(copy.sum(), x, retain_graph=True)
        assert bool(gradient.isfinite().all())
        assert bool(gradient.abs().sum() > 0)
    assert not transform.keeps or copies[0] is x


@pytest.mark.parametrize("name", ALL)
def test_an_example_draws_the_same_in_every_batch(name: str) -> None:
    x, chain = pictures(4), [ALL[name], Scales(2)]
    whole = copies_of(chain, x, scene([5, 6, 7, 8]))
    mixed = copies_of(chain, x[[2, 0]], scene([7, 5]))
    for one, other in zip(whole, mixed, strict=True):
        torch.testing.assert_close(one[[2, 0]], other, rtol=0, atol=1e-12)
    if not ALL[name].keeps and name != "bsr, one block":
        assert any(
            not torch.equal(one, other)
            for one, other in zip(whole, copies_of(chain, x, scene([1, 2, 3, 4])), strict=True)
        )


def test_scales_halve_towards_the_lower_end_of_the_box() -> None:
    x = torch.tensor([[-1.0, 0.0, 1.0]])
    copies = Scales(3)(x, scene([0], box=(-1.0, 1.0)))
    assert [copy.tolist() for copy in copies] == [[[-1.0, 0.0, 1.0]], [[-1.0, -0.5, 0.0]], [[-1.0, -0.75, -0.5]]]


def test_diverse_inputs_are_the_picture_resized_and_padded() -> None:
    x = pictures(6, (1, 8, 8))
    (copy,) = Diverse(0.5, 1.0)(x, scene([0, 1, 2, 3, 4, 5]))
    for picture, made in zip(x, copy, strict=True):
        ys, xs = (made[0] != 0).nonzero(as_tuple=True)
        tall, wide = int(ys.max() - ys.min() + 1), int(xs.max() - xs.min() + 1)
        assert 4 <= tall == wide < 8
        wanted = F.interpolate(picture[None], size=(tall, wide), mode="bilinear", align_corners=False)[0]
        window = made[:, ys.min() : ys.min() + tall, xs.min() : xs.min() + wide]
        torch.testing.assert_close(window, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("none", [Diverse(1.0, 1.0), Diverse(0.5, 0.0)])
def test_diverse_inputs_without_a_resize_are_the_point_bit_for_bit(none: Diverse) -> None:
    x = pictures()
    assert torch.equal(none(x, scene([0, 1, 2, 3, 4]))[0], x)


def test_half_of_the_copies_are_diverse_at_a_probability_of_one_half() -> None:
    x = pictures(200, (1, 6, 6))
    (copy,) = Diverse(0.5, 0.5)(x, scene(list(range(200))))
    changed = int((copy != x).flatten(1).any(dim=1).sum())
    assert 70 < changed < 130


def test_admix_adds_a_share_of_a_picture_of_another_class() -> None:
    pool = torch.stack([torch.full((1, 2, 2), 0.1 * place, dtype=torch.float64) for place in range(1, 6)])
    mix = Mix(pool, torch.tensor([0, 1, 1, 2, 0]), copies=40, share=0.5)
    x = torch.full((3, 1, 2, 2), 0.25, dtype=torch.float64)
    copies = mix(x, scene([0, 1, 2], leave=torch.tensor([1, 0, 7])))
    seen = [sorted({round((float(copy[row, 0, 0, 0]) - 0.25) / 0.05) for copy in copies}) for row in range(3)]
    assert seen == [[1, 4, 5], [2, 3, 4], [1, 2, 3, 4, 5]]


def test_admix_mixes_with_any_picture_where_all_are_of_the_class_to_leave() -> None:
    mix = Mix(torch.rand(3, 1, 2, 2), torch.tensor([4, 4, 4]), copies=1)
    assert mix(torch.rand(2, 1, 2, 2), scene([0, 1], leave=torch.tensor([4, 4])))[0].shape == (2, 1, 2, 2)


def test_what_admix_clips_keeps_its_gradient() -> None:
    x = torch.full((1, 1, 2, 2), 0.95, dtype=torch.float64).requires_grad_()
    (copy,) = Mix(torch.ones(1, 1, 2, 2, dtype=torch.float64), copies=1)(x, scene([0]))
    assert copy.detach().unique().tolist() == [1.0]
    assert torch.autograd.grad(copy.sum(), x)[0].unique().tolist() == [1.0]


def test_admix_loads_its_pool_and_refuses_one_of_other_pictures() -> None:
    found = Admix("digits", size=9).loaded(torch.zeros(2, 1, 8, 8), BOX)
    assert found.images.shape == (9, 1, 8, 8)
    assert found.labels is not None
    with pytest.raises(SettingError, match=r"shape \(3, 8, 8\), got examples of shape \(1, 8, 8\) in digits"):
        Admix("digits").loaded(torch.zeros(2, 3, 8, 8), BOX)


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_the_cosine_transform_is_scipys(length: int) -> None:
    x = pictures(1, (length, 5))[0]
    found = dct_matrix(length, x) @ x @ dct_matrix(5, x).T
    torch.testing.assert_close(found, torch.from_numpy(dctn(x.numpy(), norm="ortho")), rtol=0, atol=1e-12)


def test_spectrum_copies_without_noise_and_weights_are_the_picture() -> None:
    x = pictures()
    for copy in Spectrum(2, rho=0.0, sigma=0.0)(x, scene([0, 1, 2, 3, 4])):
        torch.testing.assert_close(copy, x, rtol=0, atol=1e-12)


def test_blocks_that_are_not_turned_are_the_pictures_values_in_another_order() -> None:
    x = pictures(20, (2, 7, 9))
    (copy,) = Blocks(1, blocks=2, angle=0.0)(x, scene(list(range(20))))
    torch.testing.assert_close(copy.flatten(2).sort().values, x.flatten(2).sort().values, rtol=0, atol=1e-9)
    assert bool((copy != x).flatten(1).any(dim=1).sum() > 10)
    # both channels go the same way
    order = [(copy[:, channel, :, :, None, None] - x[:, channel, None, None]).abs() < 1e-9 for channel in (0, 1)]
    assert torch.equal(order[0], order[1])


def test_one_block_that_is_not_turned_is_the_picture() -> None:
    x = pictures()
    (copy,) = Blocks(1, blocks=1, angle=0.0)(x, scene([0, 1, 2, 3, 4]))
    torch.testing.assert_close(copy, x, rtol=0, atol=1e-12)


def test_a_picture_is_turned_about_its_middle_and_its_corners_are_empty() -> None:
    x = torch.zeros(30, 1, 7, 7, dtype=torch.float64)
    x[:, :, 3, 3] = 1.0
    (copy,) = Blocks(1, blocks=1, angle=45.0)(x, scene(list(range(30))))
    torch.testing.assert_close(copy[:, :, 3, 3], x[:, :, 3, 3], rtol=0, atol=1e-12)
    (full,) = Blocks(1, blocks=1, angle=45.0)(torch.ones_like(x), scene(list(range(30))))
    corners = full[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert bool((corners == corners[:, :1]).all())
    assert 0.2 < float((corners[:, 0] == 0).double().mean()) < 1


def test_reading_between_values_is_bilinear() -> None:
    picture = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]], dtype=torch.float64)
    at = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    inside = torch.tensor([[[True, True], [True, False]]])
    assert sampled(picture, at, at, inside, -7.0).tolist() == [[[[1.5, 1.5], [1.5, -7.0]]]]


def test_translation_is_the_mean_over_small_shifts() -> None:
    gradient = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    gradient[0, 1, 4, 4] = 1.0
    found = Translate(size=3, sigma=1.0)(gradient)
    line = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).square().mul(-0.5).exp()
    line = line / line.sum()
    torch.testing.assert_close(found[0, 1, 3:6, 3:6], line[:, None] * line[None], rtol=0, atol=1e-12)
    assert not bool(found[0, 0].any())
    assert float(found.sum()) == pytest.approx(1.0)
    assert torch.equal(Translate(size=1)(gradient), gradient)
    assert Translate()(torch.rand(2, 11)).shape == (2, 11)
    published = torch.zeros(1, 1, 299, 299)
    published[0, 0, 150, 150] = 1.0
    assert int((Translate()(published)[0, 0, 150] > 0).sum()) == 15


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("da", "unknown input transform 'da'; known: admix, bsr, di, si, ssa"),
        ("di:shrnk=1", "unknown setting of di 'shrnk'; did you mean shrink"),
        ("di:shrink=2", "di needs shrink between 0 and 1, got shrink=2.0"),
        ("si:copies=0", "si needs copies >= 1"),
        ("ssa:rho=-1", "ssa needs rho >= 0"),
        ("bsr:angle=200", "0 to 180 degrees"),
        ("admix", "admix mixes with the pictures of a pool, got none"),
        ("si:copies=many", "si takes a whole number as copies, got 'many'"),
    ],
)
def test_a_transform_that_means_nothing_is_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises((SettingError, UnknownNameError)) as caught:
        transform_named(text, INPUTS, "input transform")
    assert words in str(caught.value)


def test_transforms_are_spelled_with_their_settings() -> None:
    assert transform_named("di:shrink=0.5,probability=1", INPUTS, "input transform") == Diverse(0.5, 1.0)
    assert transform_named("ti:size=5", GRADIENTS, "gradient transform") == Translate(5)
    with pytest.raises(SettingError, match="odd size"):
        Translate(4)
    with pytest.raises(SettingError, match="sigma"):
        Translate(sigma=-1.0)
