"""Charts: what parameters render is what the words say, exactly where a closed form exists, and differentiable."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk.errors import ThreatError
from hauberk.threat import BlindSpot, Chart, Colour, Single, Spatial

BOX = (0.0, 1.0)
CHARTS: dict[str, Chart] = {
    "spatial": Spatial(rotation=30, translation=0.1),
    "spatial, all": Spatial(rotation=20, translation=0.05, scale=0.3, shear=10),
    "spatial, reflected": Spatial(rotation=25, scale=0.5, padding="reflect"),
    "colour": Colour(hue=0.1, saturation=0.3, brightness=0.2),
    "colour, all": Colour(hue=0.2, saturation=0.5, brightness=0.5, contrast=0.5),
    "brightness and contrast": Colour(brightness=0.4, contrast=0.3),
    "rotation": Single(Spatial(rotation=180), "rotation", 180),
    "scale": Single(Spatial(scale=4), "scale", 4),
}


def pictures(count: int = 4, shape: tuple[int, ...] = (3, 6, 5), seed: int = 0) -> Tensor:
    rows = torch.arange(count)
    return Streams(seed, rows, "chart pictures").uniform(rows, shape, dtype=torch.float64) * 0.8 + 0.1


def draws(chart: Chart, x: Tensor, share: float = 1.0, seed: int = 1) -> Tensor:
    rows = torch.arange(len(x))
    u = Streams(seed, rows, "chart draws").uniform(rows, (len(chart.names),), dtype=x.dtype)
    return (2 * u - 1) * share * chart.box(BOX)[1]


@pytest.mark.parametrize("name", CHARTS)
def test_the_origin_renders_the_example(name: str) -> None:
    x, chart = pictures(), CHARTS[name]
    chart.check(x)
    torch.testing.assert_close(chart.render(chart.origin(x, BOX), x, BOX), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CHARTS)
def test_what_is_rendered_lies_in_the_bounds_and_keeps_kind_and_shape(name: str) -> None:
    chart = CHARTS[name]
    for bounds in ((0.0, 1.0), (-1.0, 2.0), (0.0, 255.0)):
        x = pictures().float() * (bounds[1] - bounds[0]) + bounds[0]
        drawn = chart.render(draws(chart, x), x, bounds)
        assert drawn.shape == x.shape
        assert drawn.dtype == x.dtype
        assert float(drawn.min()) >= bounds[0]
        assert float(drawn.max()) <= bounds[1]
        assert not torch.equal(drawn, x)


@pytest.mark.parametrize("name", CHARTS)
def test_bounds_move_with_the_picture(name: str) -> None:
    x, chart = pictures(), CHARTS[name]
    z = draws(chart, x)
    torch.testing.assert_close(
        chart.render(z, 4 * x - 1, (-1.0, 3.0)), 4 * chart.render(z, x, BOX) - 1, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", CHARTS)
def test_each_example_is_rendered_alone(name: str) -> None:
    x, chart = pictures(), CHARTS[name]
    z = draws(chart, x)
    alone = torch.cat([chart.render(z[i : i + 1], x[i : i + 1], BOX) for i in range(len(x))])
    torch.testing.assert_close(alone, chart.render(z, x, BOX), rtol=0, atol=1e-14)
    assert chart.render(z[:0], x[:0], BOX).shape == (0, 3, 6, 5)


@pytest.mark.parametrize("name", CHARTS)
def test_the_gradient_of_the_rendering_is_that_of_finite_differences(name: str) -> None:
    x, chart = pictures(), CHARTS[name]
    weights = pictures(seed=5)
    for share in (0.0, 0.37):
        z = (chart.origin(x, BOX) + 1e-3 * chart.box(BOX)[1] + draws(chart, x, share)).requires_grad_()
        (gradient,) = torch.autograd.grad((weights * chart.render(z, x, BOX)).sum(), z)
        step = 1e-7 * chart.box(BOX)[1]
        for k in range(z.shape[1]):
            moved = torch.zeros_like(z)
            moved[:, k] = step
            up, down = (chart.render(z.detach() + sign * moved, x, BOX) for sign in (1, -1))
            slope = (weights * (up - down)).flatten(1).sum(dim=1) / (2 * step)
            torch.testing.assert_close(gradient[:, k], slope, rtol=1e-5, atol=1e-6 / chart.box(BOX)[1])


def test_growing_and_shrinking_have_a_slope_at_the_example() -> None:
    # two formulas meet at 0, each with the derivative 1
    x, chart = pictures(), Spatial(scale=0.5)
    z = chart.origin(x, BOX).requires_grad_()
    (gradient,) = torch.autograd.grad(chart.values(z).sum(), z)
    torch.testing.assert_close(gradient, torch.full_like(z, 0.5))


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, -1), (-180, 2)])
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 7, 7)])
def test_right_angles_turn_square_pictures_exactly(degrees: float, turns: int, shape: tuple[int, ...]) -> None:
    x = pictures(shape=shape)
    chart = Single(Spatial(rotation=180), "rotation", 180)
    z = torch.full((len(x), 1), float(degrees), dtype=x.dtype)
    torch.testing.assert_close(chart.render(z, x, BOX), torch.rot90(x, turns, (2, 3)), rtol=0, atol=1e-12)


def test_angles_are_true_where_pictures_are_not_square() -> None:
    # a bar of 3 pixels stays one of 3 pixels when it is turned in a picture of 5 by 9
    x = torch.zeros(1, 1, 5, 9, dtype=torch.float64)
    x[0, 0, 2, 3:6] = 1.0
    upright = torch.zeros_like(x)
    upright[0, 0, 1:4, 4] = 1.0
    turned = Spatial(rotation=90).render(torch.ones(1, 1, dtype=torch.float64), x, BOX)
    torch.testing.assert_close(turned, upright, rtol=0, atol=1e-12)


def test_positive_translations_move_right_and_down_and_bring_in_the_low_end() -> None:
    x = pictures(shape=(2, 5, 10))
    z = torch.tensor([[1.0, 1.0]], dtype=torch.float64).expand(len(x), 2)
    moved = Spatial(translation=0.2).render(z, 3 * x - 1, (-1.0, 2.0))
    torch.testing.assert_close(moved[..., 1:, 2:], (3 * x - 1)[..., :-1, :-2], rtol=0, atol=1e-12)
    assert torch.allclose(moved[..., 0, :], torch.tensor(-1.0, dtype=torch.float64))
    assert torch.allclose(moved[..., :, :2], torch.tensor(-1.0, dtype=torch.float64))


def test_reflection_brings_in_the_picture_itself() -> None:
    x = pictures(shape=(1, 4, 4))
    z = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(len(x), 2)
    moved = Spatial(translation=0.5, padding="reflect").render(z, x, BOX)
    torch.testing.assert_close(moved, torch.cat((x[..., :2].flip(3), x[..., :2]), dim=3), rtol=0, atol=1e-12)


def test_doubling_and_halving_undo_each_other_in_the_middle() -> None:
    # 3 by 3 blocks of one value each: the middle block fills the picture at three times the size
    blocks = pictures(shape=(1, 3, 3)).repeat_interleave(3, 2).repeat_interleave(3, 3)
    chart = Single(Spatial(scale=4), "scale", 4)
    grown = chart.render(torch.full((4, 1), 2.0, dtype=torch.float64), blocks, BOX)
    torch.testing.assert_close(grown[..., 3:6, 3:6], blocks[..., 4:5, 4:5].expand(4, 1, 3, 3), rtol=0, atol=1e-12)
    assert chart.values(torch.tensor([[2.0], [-2.0], [0.0]])).flatten().tolist() == pytest.approx([3, 1 / 3, 1])


def test_shear_leans_upright_lines_by_its_angle() -> None:
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[..., 4] = 1.0
    leant = Spatial(shear=45).render(torch.ones(1, 1, dtype=torch.float64), x, BOX)
    torch.testing.assert_close(leant[0, 0], torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_third_of_a_turn_of_hue_makes_red_green_and_green_blue() -> None:
    x = pictures()
    chart = Single(Colour(hue=0.5), "hue", 0.5)
    turned = chart.render(torch.full((4, 1), 1 / 3, dtype=torch.float64), x, BOX)
    torch.testing.assert_close(turned, x.roll(1, dims=1), rtol=0, atol=1e-12)
    halves = [chart.render(torch.full((4, 1), sign, dtype=torch.float64), x, BOX) for sign in (-0.5, 0.5)]
    torch.testing.assert_close(halves[0], halves[1], rtol=0, atol=1e-12)


def test_without_saturation_a_picture_is_grey_and_as_bright_as_its_brightest_channel() -> None:
    x = pictures()
    grey = Colour(saturation=1).render(-torch.ones(4, 1, dtype=torch.float64), x, BOX)
    torch.testing.assert_close(grey, x.amax(dim=1, keepdim=True).expand_as(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["brightness", "hue and brightness"])
def test_brightness_is_a_factor_that_keeps_the_colour_at_the_wall(name: str) -> None:
    x = pictures()
    hue = {"hue": 0.1} if "hue" in name else {}
    chart = Colour(brightness=0.5, **hue)
    z = torch.zeros(4, len(chart.names), dtype=torch.float64)
    z[:, chart.names.index("brightness")] = torch.tensor([-1.0, -0.4, 0.1, 1.0], dtype=torch.float64)
    factor = torch.tensor([0.5, 0.8, 1.05, 1.5], dtype=torch.float64).reshape(4, 1, 1, 1)
    wanted = x * torch.minimum(factor, 1 / x.amax(dim=1, keepdim=True))
    torch.testing.assert_close(chart.render(z, x, BOX), wanted, rtol=0, atol=1e-12)


def test_without_contrast_a_picture_is_its_mean() -> None:
    x = pictures(shape=(1, 4, 4))
    flat = Colour(contrast=1).render(-torch.ones(4, 1, dtype=torch.float64), x, BOX)
    torch.testing.assert_close(flat, x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x), rtol=0, atol=1e-12)


def test_grey_and_black_pixels_have_no_hue_and_give_no_nan() -> None:
    x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).reshape(3, 1, 1, 1).expand(3, 3, 4, 4)
    chart = Colour(hue=0.5, saturation=1, brightness=0.2)
    z = torch.tensor([[0.3, 0.5, 0.0]], dtype=torch.float64).repeat(3, 1).requires_grad_()
    drawn = chart.render(z, x, BOX)
    torch.testing.assert_close(drawn, x, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(drawn.sum(), z)
    assert bool(gradient.isfinite().all())


def test_parameters_are_told_in_their_own_units() -> None:
    chart = Spatial(rotation=30, translation=0.1, scale=0.5)
    assert chart.names == ("rotation", "right", "down", "scale")
    z = torch.tensor([[1.0, -1.0, 0.5, 1.0], [-0.5, 0.0, 0.0, -1.0]])
    assert chart.values(z).flatten().tolist() == pytest.approx([30, -0.1, 0.05, 1.5, -15, 0, 0, 1 / 1.5])
    assert Colour(hue=0.1, contrast=0.4).values(torch.tensor([[-1.0, 0.5]])).tolist()[0] == pytest.approx([-0.1, 1.2])


def test_what_may_be_done_is_said_in_words() -> None:
    assert Spatial(rotation=30, translation=0.1).describe(0.5) == (
        "turn the picture by at most 15 degrees and move it by at most 0.05 of its sides"
    )
    assert Single(Spatial(rotation=180), "rotation", 180).describe(12) == "turn the picture by at most 12 degrees"


def test_a_blind_spot_begins_at_the_scaled_and_shifted_example_and_renders_points_as_they_are() -> None:
    x, chart = pictures(), BlindSpot(scale=0.5, shift=0.3)
    torch.testing.assert_close(chart.origin(x, BOX), 0.5 * x + 0.3)
    assert float(BlindSpot(2.0, 0.5).origin(x, BOX).max()) == 1.0
    assert chart.render(x, x + 1, BOX) is x
    assert chart.box((-1.0, 3.0)) == (-1.0, 3.0)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Spatial(rotation=-1), "rotation from 0 to 180"),
        (lambda: Spatial(translation=1.5), "translation from 0 to 1"),
        (lambda: Spatial(shear=math.nan), "shear from 0 to 80"),
        (lambda: Spatial(scale=True), "scale from 0 to 4"),
        (lambda: Spatial(rotation=10, padding="wrap"), "zeros or reflect"),
        (lambda: Colour(hue=0.6), "hue from 0 to 0.5"),
        (lambda: BlindSpot(scale=0.0), "scale > 0"),
        (lambda: BlindSpot(shift=math.inf), "finite shift"),
    ],
)
def test_limits_that_make_no_sense_are_refused(build: Any, says: str) -> None:
    with pytest.raises(ThreatError, match=says):
        build()


@pytest.mark.parametrize(
    ("chart", "shape", "says"),
    [
        (Spatial(rotation=10), (12,), "height and width"),
        (Spatial(rotation=10), (8, 8, 3), "channels first"),
        (Colour(hue=0.1), (1, 8, 8), "hue and saturation need"),
        (Colour(brightness=0.1), (8, 8, 3), "channels first"),
        (Single(Colour(saturation=1), "saturation", 1), (12,), "hue and saturation need"),
    ],
)
def test_examples_that_cannot_be_rendered_are_refused(chart: Chart, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ThreatError, match=says):
        chart.check(torch.zeros(2, *shape))


@pytest.mark.parametrize("chart", [Spatial, Colour])
def test_a_chart_that_allows_nothing_is_refused(chart: type[Spatial | Colour]) -> None:
    with pytest.raises(ThreatError, match="above 0"):
        chart()
