"""The ball: projection, membership, starts, grid, mask and linear maximum agree with one another and with brute force."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from hauberk._rng import Streams
from hauberk.errors import DataError, ThreatError
from hauberk.threat import Ball, Norm

NORMS = list(Norm)
BOXES = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.3, 0.7)]
RADII = {Norm.LINF: 0.1, Norm.L2: 0.5, Norm.L1: 2.0, Norm.L0: 5.0}


def each_norm(norms: list[Norm] = NORMS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("norm", norms, ids=str)


each_box = pytest.mark.parametrize("box", BOXES, ids=str)


def bytes_in(box: tuple[float, float], shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """8-bit pictures as the loaders map them into the box."""
    low, high = box
    raw = np.random.default_rng(seed).integers(0, 256, shape)
    return torch.from_numpy((raw * (high - low) / 255 + low).clip(low, high).astype(np.float32)).clamp(low, high)


def ball_of(norm: Norm, box: tuple[float, float], **options: Any) -> Ball:
    width = 1.0 if norm is Norm.L0 else box[1] - box[0]
    return Ball(norm, RADII[norm] * width, box, **options)


@each_norm()
@each_box
@pytest.mark.parametrize("dims", [(4,), (3, 8, 8), (3, 60, 60)])
def test_projected_points_are_contained(norm: Norm, box: tuple[float, float], dims: tuple[int, ...]) -> None:
    x = bytes_in(box, (6, *dims))
    ball = ball_of(norm, box)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.01, 1.0, 100.0):
        z = ball.project(x + scale * (box[1] - box[0]) * torch.randn(x.shape, generator=generator), x)
        assert bool(ball.contains(z, x).all())
    assert bool(ball.contains(x, x).all())
    assert torch.equal(ball.project(x, x), x)


@each_norm()
@each_box
def test_random_starts_are_contained_random_and_the_examples_own(norm: Norm, box: tuple[float, float]) -> None:
    x = bytes_in(box, (6, 3, 8, 8))
    ball = ball_of(norm, box)
    z = ball.start(x, torch.arange(6), Streams(0, torch.arange(6)))
    assert bool(ball.contains(z, x).all())
    assert bool((ball.size(z, x) > 0).all())
    alone = ball.start(x[4:5], torch.arange(1), Streams(0, torch.tensor([4])))
    torch.testing.assert_close(alone, z[4:5])
    with pytest.raises(ThreatError, match="radius=inf"):
        Ball(norm).start(x, torch.arange(6), Streams(0, torch.arange(6)))


@each_norm()
def test_the_slack_forgives_rounding_and_nothing_more(norm: Norm) -> None:
    x = torch.full((1, 100), 0.5)
    ball = Ball(norm, RADII[norm])
    step = torch.zeros(1, 100)
    if norm is Norm.LINF:
        step[:] = RADII[norm]
    elif norm is Norm.L0:
        step[0, :5] = 0.2
    else:
        step[0, :50] = RADII[norm] / (math.sqrt(50) if norm is Norm.L2 else 50)
    assert bool(ball.contains(x + step, x))
    assert bool(ball.contains(x + step * (1 + 1e-6), x))
    wider = step.clone()
    wider[0, 5] += 0.2 if norm is Norm.L0 else 0
    assert not bool(ball.contains(x + (wider if norm is Norm.L0 else step * (1 + 1e-4)), x))


def test_no_point_that_is_not_finite_or_leaves_the_box_is_contained() -> None:
    x = torch.full((5, 2), 0.5)
    z = x.clone()
    z[0, 0], z[1, 0], z[2, 0], z[3, 0] = torch.nan, torch.inf, 1 + 1e-6, -1e-7
    for norm in NORMS:
        assert Ball(norm).contains(z, x).tolist() == [False, False, False, False, True]


@each_norm()
def test_radii_are_per_example_and_follow_the_rows_taken(norm: Norm) -> None:
    x = bytes_in((0, 1), (4, 10))
    far = torch.rand(4, 10, generator=torch.Generator().manual_seed(1))
    radii = torch.tensor([1.0, 2.0, 3.0, 4.0]) * (0.1 if norm is not Norm.L0 else 1)
    ball = Ball(norm, radii)
    z = ball.project(far, x)
    assert ball.finite
    assert bool((ball.size(z, x) <= radii * (1 + 1e-5)).all())
    rows = torch.tensor([3, 1])
    assert torch.equal(ball.take(rows).project(far[rows], x[rows]), z[rows])
    assert torch.equal(ball.take(rows).contains(z[rows], x[rows]), torch.tensor([True, True]))
    assert bool(ball.with_radius(radii / 2).contains(z, x).any()) is False
    assert not Ball(norm, torch.tensor([1.0, torch.inf])).finite


@each_norm()
@each_box
def test_a_mask_freezes_the_rest_exactly(norm: Norm, box: tuple[float, float]) -> None:
    x = bytes_in(box, (4, 1, 6, 6))
    for mask in (
        torch.zeros(1, 1, 6, 6).bool(),
        torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(2)) < 0.5,
    ):
        if len(mask) == 1:
            mask[..., 2:4, 2:4] = True
        ball = ball_of(norm, box, mask=mask)
        g = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        points = [
            ball.project(x + g * (box[1] - box[0]), x),
            ball.start(x, torch.arange(4), Streams(0, torch.arange(4))),
            ball.linear_max(g, x),
        ]
        for z in points:
            assert bool(((z == x) | mask).all())
            assert bool(ball.contains(z, x).all())
        assert bool((ball.steepest(g)[~mask.expand_as(x)] == 0).all())
        moved = points[0].clone()
        frozen = (~mask.expand_as(x)).nonzero()[0]
        moved[tuple(frozen)] = box[0] if moved[tuple(frozen)] > sum(box) / 2 else box[1]
        assert not bool(Ball(norm, math.inf, box, mask).contains(moved, x).all())
        rows = torch.tensor([2, 0])
        assert torch.equal(ball.take(rows).project((x + g)[rows], x[rows]), ball.project(x + g, x)[rows])


@each_norm()
@each_box
def test_snapped_points_survive_being_saved_in_8_bits(norm: Norm, box: tuple[float, float]) -> None:
    low, high = box
    x = bytes_in(box, (5, 1, 8, 8))
    radius = {Norm.LINF: 8 / 255, Norm.L2: 0.5, Norm.L1: 4.0, Norm.L0: 5.0}[norm]
    ball = Ball(norm, radius * (1.0 if norm is Norm.L0 else high - low), box, grid=255)
    ball.check(x)
    starts = ball.start(x, torch.arange(5), Streams(0, torch.arange(5)))
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    for z in (starts, ball.linear_max(g, x), x):
        snapped = ball.snap(z, x)
        assert bool(ball.contains(snapped, x).all())
        assert bool((ball.size(snapped, x) <= ball.size(z, x) * (1 + 1e-5) + 1e-5 * (high - low)).all())
        saved = ((snapped.double() - low) / (high - low) * 255).round().to(torch.uint8)
        loaded = (saved.double() * (high - low) / 255 + low).clamp(low, high).float()
        torch.testing.assert_close(loaded, snapped, rtol=0, atol=1e-6 * max(abs(low), abs(high)))
        assert bool(ball.contains(loaded, x).all())
        assert torch.equal(ball.snap(snapped, x), snapped)
    assert torch.equal(ball.snap(x, x), x)


def test_snapping_in_linf_goes_to_the_nearest_step_within_the_radius_and_within_the_change() -> None:
    x = torch.tensor([[100.0, 100.0, 100.0, 100.0, 100.0]]) / 255
    z = x + torch.tensor([[8.0, -8.0, 7.6, -7.4, 0.4]]) / 255

    def steps(radius: float, z: Tensor) -> list[float]:
        return ((Ball(Norm.LINF, radius, grid=255).snap(z, x) - x) * 255).round()[0].tolist()

    assert steps(8 / 255, z) == [8, -8, 8, -7, 0]
    assert steps(7.99 / 255, z) == [7, -7, 7, -7, 0]
    assert steps(math.inf, x + (z - x) * 0.95) == [7, -7, 7, -7, 0]


@each_norm([Norm.L2, Norm.L1])
@pytest.mark.parametrize("kind", ["gradient", "noise", "corner"])
def test_snapping_spends_the_radius_although_most_changes_are_below_a_step(norm: Norm, kind: str) -> None:
    x = bytes_in((0, 1), (3, 3, 96, 96))
    radius = {Norm.L2: 0.25, Norm.L1: 30.0}[norm]  # in both a third of a step for each value, were it spread evenly
    ball = Ball(norm, radius, grid=255)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    z = {
        "gradient": lambda: ball.project(x + g / 700, x),
        "noise": lambda: ball.start(x, torch.arange(3), Streams(0, torch.arange(3))),
        "corner": lambda: ball.project(x + g.sign() / 700, x),
    }[kind]()
    snapped = ball.snap(z, x)
    assert bool(ball.contains(snapped, x).all())
    assert bool((ball.size(snapped, x) >= 0.99 * ball.size(z, x)).all())
    assert bool(((snapped - x) * (z - x) >= 0).all())
    moved = snapped != x
    kept, lost = (z - x).abs()[moved], (z - x).abs()[~moved]
    assert (
        float(kept.min()) >= float(lost.max()) - 0.07 / 255 or norm is Norm.L1
    )  # the furthest go first, up to the spread


@each_norm()
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_is_allowed_is_snapped_to_what_is_allowed_and_no_further_away(norm: Norm, data: st.DataObject) -> None:
    box = data.draw(st.sampled_from([*BOXES, (100.0, 101.0)]))
    grid = data.draw(st.sampled_from([1, 2, 7, 16, 255, 4095]))
    low, high = box
    step = (high - low) / grid
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    shape = (3, data.draw(st.sampled_from([1, 5, 300])))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    raw = torch.randint(0, grid + 1, shape, generator=generator)
    if data.draw(st.booleans()):
        raw[:] = data.draw(st.integers(0, grid))  # rounding errors that all point one way
    x = (raw.double() * (high - low) / grid + low).clamp(low, high).to(dtype)
    steps = data.draw(st.one_of(st.integers(1, 300), st.floats(1, 300)))
    nearly = data.draw(st.sampled_from([1.0, 1.0, 1 - 1e-4, 1 - 1e-6, 1 + 1e-6]))
    radius = float(math.ceil(steps)) if norm is Norm.L0 else max(steps * nearly, 1) * step
    ball = Ball(norm, data.draw(st.sampled_from([radius, math.inf])), box, grid=grid)
    spread = data.draw(st.sampled_from([0.01, 1.0, 30.0])) * step
    z = Ball(norm, ball.radius, box).project(x + spread * torch.randn(shape, generator=generator).to(dtype), x)
    snapped = ball.snap(z, x)
    assert bool(ball.contains(snapped, x).all())
    if norm is not Norm.L0:
        rounding = 2**-22 * max(abs(low), abs(high)) * float(norm.size(torch.ones(1, shape[1])))
        assert bool((ball.size(snapped, x) <= ball.size(z, x) * (1 + 2e-5) + 0.02 * step + rounding).all())
    assert torch.equal(ball.snap(snapped, x), snapped)
    assert bool(((snapped == x) | (z != x)).all())


@each_norm()
def test_a_full_change_of_whole_steps_is_kept_where_the_radius_is_as_many(norm: Norm) -> None:
    x = torch.full((1, 4096), 200.0) / 255
    for count in (1, 2, 5, 12, 51):
        ball = Ball(norm, float(count) if norm is Norm.L0 else count / 255, grid=255)
        g = torch.linspace(1, 2, 4096)[None]
        snapped = ball.snap(ball.linear_max(g, x), x)
        assert bool(ball.contains(snapped, x))
        if norm is not Norm.L2:
            torch.testing.assert_close(snapped, ball.linear_max(g, x))


def test_points_off_the_grid_are_not_contained_and_refused_as_examples() -> None:
    ball = Ball(Norm.LINF, 8 / 255, grid=255)
    x = bytes_in((0, 1), (2, 9))
    z = x.clone()
    z[1, 0] = (100.5) / 255
    x[1, 0] = 100 / 255
    assert ball.contains(z, x).tolist() == [True, False]
    with pytest.raises(DataError, match="grid of 255 steps"):
        ball.check(z)
    with pytest.raises(DataError, match=r"expected values in \[0, 1\], got values in"):
        ball.check(x * 2 - 1)


@each_norm()
@each_box
def test_examples_that_pass_the_check_leave_room_for_every_full_change(norm: Norm, box: tuple[float, float]) -> None:
    low, high = box
    width, step = high - low, (high - low) / 255
    ball = Ball(norm, 5.0 if norm is Norm.L0 else 8 * step, box, grid=255)
    exact = torch.arange(256).repeat(2, 1)
    as_loaded = [
        bytes_in(box, (2, 300)),
        (exact / 255 * width + low).clamp(low, high),
        (exact.double() / 255 * width + low).clamp(low, high),
    ]
    for x in as_loaded:
        ball.check(x)
        snapped = ball.snap(ball.linear_max(torch.randn(x.shape, generator=torch.Generator().manual_seed(8)), x), x)
        assert bool(ball.contains(snapped, x).all())
        if norm is Norm.LINF:
            assert float(ball.size(snapped, x).min()) > 7.9 * step
    for off in (0.009, 1e-3):
        beside = bytes_in(box, (2, 300)).clamp(low + step, high - step) + off * step
        assert not bool(ball.contains(beside, beside).any())
        with pytest.raises(DataError, match="grid of 255 steps"):
            ball.check(beside)


def test_examples_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="got values in"):
        Ball(Norm.L2, 1.0).check(torch.tensor([[0.5, torch.nan]]))


@each_norm([Norm.LINF, Norm.L2, Norm.L1])
def test_a_radius_below_one_step_of_the_grid_is_refused(norm: Norm) -> None:
    with pytest.raises(ThreatError, match=r"steps fits into a radius of 0\.00196\S*; use at least 1/255$"):
        Ball(norm, 0.5 / 255, grid=255)
    with pytest.raises(ThreatError, match="use at least 2/255"):
        Ball(norm, torch.tensor([1.0, 1 / 255]), (-1.0, 1.0), grid=255)
    Ball(norm, 1 / 255, grid=255)
    Ball(norm, torch.tensor([1 / 255, 0.0, 1.0, torch.inf]), grid=255)  # 0 says what it means


@each_norm()
def test_random_starts_are_uniform_in_the_masked_ball(norm: Norm) -> None:
    """Four free coordinates of twelve, others for every other example: their sizes are those of a ball of dimension four."""
    n = 3000
    masks = torch.zeros(n, 3, 4).bool()
    masks[::2, :, 1], masks[1::2, 1, :] = True, True
    masks[::2, 0, 0] = True
    x, rows = torch.full((n, 3, 4), 0.5, dtype=torch.float64), torch.arange(n)
    ball = Ball(norm, 2.0 if norm is Norm.L0 else 0.4, mask=masks)
    z = ball.start(x, rows, Streams(3, rows))
    assert bool(((z == x) | masks).all())
    if norm is Norm.L0:
        assert bool((ball.size(z, x) == 2).all())
        share = (z != x).double()[::2].mean(dim=0)[masks[0]]
        assert float((share - 0.5).abs().max()) < 0.05
    else:
        shares = (ball.size(z, x) / 0.4).pow(4).numpy()
        assert stats.kstest(shares, "uniform").pvalue > 1e-3
    alone = ball.take(torch.tensor([7])).start(x[7:8], torch.arange(1), Streams(3, torch.tensor([7])))
    assert torch.equal(alone, z[7:8])
    frozen = Ball(norm, ball.radius, mask=torch.zeros(1, 3, 4).bool())
    assert torch.equal(frozen.start(x, rows, Streams(3, rows)), x)


@each_norm()
def test_radii_and_masks_follow_the_examples_to_their_device(norm: Norm) -> None:
    """The meta device stands for a GPU: it refuses to be mixed with the CPU as one does."""
    x = torch.full((3, 5), 0.5, device="meta")
    ball = Ball(norm, torch.tensor([1.0, 2.0, 3.0]), mask=torch.ones(3, 5).bool(), grid=255)
    one_mask = Ball(norm, torch.tensor([1.0, 2.0, 3.0]), mask=torch.ones(1, 5).bool())
    for region in (ball, one_mask):
        taken = region.take(torch.zeros(2, dtype=torch.int64, device="meta"))
        assert isinstance(taken.radius, Tensor)
        assert taken.radius.device == x.device
        for part, points in ((region, x), (taken, x[:2])):
            assert part.contains(points, points).shape == (len(points),)
            assert part.steepest(points).device == x.device
            assert part.step(points, points, 0.1).shape == points.shape or norm is Norm.L2
    if norm is Norm.LINF:
        assert ball.project(x, x).device == x.device
        assert ball.snap(x, x).device == x.device


def best_of_box(norm: Norm, g: np.ndarray, x: np.ndarray, radius: float, box: tuple[float, float]) -> float:
    """The largest <g, d> over the ball in the box, by linear programming, SLSQP or subsets."""
    n = len(g)
    low, high = box[0] - x, box[1] - x
    if norm is Norm.LINF:
        return float(np.maximum(g * np.maximum(low, -radius), g * np.minimum(high, radius)).sum())
    if norm is Norm.L0:
        each = np.maximum(g * low, g * high)
        return max(
            sum(each[list(s)]) for k in range(min(n, int(radius)) + 1) for s in itertools.combinations(range(n), k)
        )
    if norm is Norm.L1:
        bounds = [(0, b) for b in high] + [(0, -a) for a in low]
        solved = optimize.linprog(np.concatenate((-g, g)), A_ub=np.ones((1, 2 * n)), b_ub=[radius], bounds=bounds)
        return -float(solved.fun)
    scale = max(float(np.abs(g).max()), 1e-12)
    solved = optimize.minimize(
        lambda v: -(g / scale) @ v,
        np.zeros(n),
        jac=lambda _: -g / scale,
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "ineq", "fun": lambda v: radius**2 - (v**2).sum(), "jac": lambda v: -2 * v},
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return -float(solved.fun) * scale


@each_norm()
@settings(max_examples=60)
@given(data=st.data())
def test_the_linear_maximum_is_the_largest_over_the_ball_in_the_box(norm: Norm, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 5))
    number = st.floats(-2, 2).map(lambda v: round(v, 3))
    g = np.array(data.draw(st.lists(number, min_size=n, max_size=n)))
    x = np.array(data.draw(st.lists(st.floats(0, 1).map(lambda v: round(v, 3)), min_size=n, max_size=n)))
    radius = (
        data.draw(st.integers(1, 5)) if norm is Norm.L0 else data.draw(st.floats(0.01, 2).map(lambda v: round(v, 3)))
    )
    ball = Ball(norm, float(radius))
    tx, tg = torch.from_numpy(x)[None], torch.from_numpy(g)[None]
    z = ball.linear_max(tg, tx)
    assert bool(ball.contains(z, tx))
    assert float((tg * (z - tx)).sum()) == pytest.approx(best_of_box(norm, g, x, radius, (0, 1)), rel=1e-6, abs=1e-7)


@each_norm()
def test_no_random_point_of_the_ball_is_above_the_linear_maximum(norm: Norm) -> None:
    x = bytes_in((0, 1), (8, 3, 20, 20))
    radii = torch.linspace(0.02, 1, 8) if norm is not Norm.L0 else torch.arange(1.0, 9.0)
    ball = Ball(norm, radii)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    z = ball.linear_max(g, x)
    assert bool(ball.contains(z, x).all())
    top = (g * (z - x)).flatten(1).sum(dim=1)
    streams = Streams(0, torch.arange(8))
    for _ in range(20):
        other = ball.start(x, torch.arange(8), streams)
        assert bool(((g * (other - x)).flatten(1).sum(dim=1) <= top + 1e-5).all())
    pushed = ball.project(x + 1e4 * g, x)
    assert bool(((g * (pushed - x)).flatten(1).sum(dim=1) <= top * (1 + 1e-4) + 1e-5).all())


@each_norm()
def test_the_linear_maximum_minds_only_gradients_that_can_be_followed(norm: Norm) -> None:
    """The large gradient points out of the box, so the whole radius belongs to the small ones, however small."""
    x = torch.tensor([[1.0, 0.5, 0.5]])
    g = torch.tensor([[1e12, 3e-9, -4e-9]])
    z = Ball(norm, 1.0 if norm is Norm.L0 else 0.1).linear_max(g, x)
    expected = {
        Norm.LINF: [1.0, 0.6, 0.4],
        Norm.L2: [1.0, 0.56, 0.42],
        Norm.L1: [1.0, 0.5, 0.4],
        Norm.L0: [1.0, 0.5, 0.0],
    }[norm]
    torch.testing.assert_close(z, torch.tensor([expected]))


@each_norm()
def test_the_linear_maximum_of_an_unlimited_ball_is_a_corner_of_the_box(norm: Norm) -> None:
    x = bytes_in((0, 1), (3, 7))
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    g[:, 0] = 0
    expected = torch.where(g > 0, 1.0, 0.0)
    expected[:, 0] = x[:, 0]
    torch.testing.assert_close(Ball(norm).linear_max(g, x), expected)
    assert torch.equal(Ball(norm, 1.0).linear_max(torch.zeros_like(g), x), x)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"radius": -0.1}, "radius is a number >= 0, got -0.1"),
        ({"radius": math.nan}, "radius is a number >= 0"),
        ({"radius": torch.tensor([0.1, -0.1])}, "radius is a number >= 0"),
        ({"box": (1.0, 0.0)}, "finite low < high"),
        ({"box": (0.0, math.inf)}, "finite low < high"),
        ({"grid": 0}, "at least one step"),
    ],
)
def test_a_ball_that_means_nothing_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ThreatError, match=says):
        Ball(Norm.LINF, **options)
