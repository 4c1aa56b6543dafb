"""Norms: projections against general optimisers and brute force, duality, steepest steps, uniform samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from hauberk._rng import Streams
from hauberk.threat import Norm
from hauberk.threat.norm import fill_l2

NORMS = list(Norm)
CONVEX = [Norm.LINF, Norm.L2, Norm.L1]


def each_norm(norms: list[Norm] = NORMS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("norm", norms, ids=str)


def size_of(norm: Norm, d: np.ndarray) -> float:
    if norm is Norm.L0:
        return float(np.count_nonzero(d))
    return float(np.linalg.norm(d, ord=norm.p))


def nearest(norm: Norm, d: np.ndarray, radius: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The projection by means that know nothing of it: subsets for L0, SLSQP on a smooth programme for the others."""
    n = len(d)
    if norm is Norm.L0:
        best = np.zeros(n)
        for k in range(min(n, int(radius)) + 1):
            for subset in itertools.combinations(range(n), k):
                trial = np.zeros(n)
                trial[list(subset)] = np.clip(d, low, high)[list(subset)]
                if ((trial - d) ** 2).sum() < ((best - d) ** 2).sum():
                    best = trial
        return best
    bounds = np.stack((np.maximum(low, -1e3), np.minimum(high, 1e3)), axis=1)
    if norm is Norm.L1:  # d = up - down, both >= 0
        both = [(0, b) for b in bounds[:, 1]] + [(0, -a) for a in bounds[:, 0]]
        solved = optimize.minimize(
            lambda v: ((v[:n] - v[n:] - d) ** 2).sum() + 1e-12 * (v**2).sum(),
            np.zeros(2 * n),
            jac=lambda v: np.concatenate((2 * (v[:n] - v[n:] - d), -2 * (v[:n] - v[n:] - d))) + 2e-12 * v,
            bounds=both,
            constraints={"type": "ineq", "fun": lambda v: radius - v.sum(), "jac": lambda v: -np.ones(2 * n)},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return solved.x[:n] - solved.x[n:]
    if norm is Norm.LINF:
        bounds = np.stack((np.maximum(bounds[:, 0], -radius), np.minimum(bounds[:, 1], radius)), axis=1)
        solved = optimize.minimize(
            lambda v: ((v - d) ** 2).sum(), np.zeros(n), jac=lambda v: 2 * (v - d), bounds=bounds, method="L-BFGS-B"
        )
        return solved.x
    solved = optimize.minimize(
        lambda v: ((v - d) ** 2).sum(),
        np.zeros(n),
        jac=lambda v: 2 * (v - d),
        bounds=bounds,
        constraints={"type": "ineq", "fun": lambda v: radius**2 - (v**2).sum(), "jac": lambda v: -2 * v},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return solved.x


def numbers(low: float, high: float, *, allow_zero: bool = True) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False).map(lambda v: round(v, 4)).filter(lambda v: allow_zero or v != 0)


@st.composite
def problems(draw: st.DrawFn, largest: int = 5) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    n = draw(st.integers(1, largest))

    def vector(low: float, high: float) -> np.ndarray:
        return np.array(draw(st.lists(numbers(low, high), min_size=n, max_size=n)))

    d, radius = vector(-3, 3), draw(numbers(0.05, 4))
    if draw(st.booleans()):
        return d, radius, np.full(n, -np.inf), np.full(n, np.inf)
    return d, radius, vector(-1, 0), vector(0, 1)


def project(norm: Norm, d: np.ndarray, radius: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    tensors = [torch.from_numpy(v)[None] for v in (d, low, high)]
    return norm.project_between(tensors[0], radius, tensors[1], tensors[2])[0].numpy()


@each_norm()
@settings(max_examples=60)
@given(problem=problems())
def test_a_projection_is_the_nearest_allowed_point(
    norm: Norm, problem: tuple[np.ndarray, float, np.ndarray, np.ndarray]
) -> None:
    d, radius, low, high = problem
    radius = float(round(radius)) if norm is Norm.L0 else radius
    ours, reference = project(norm, d, radius, low, high), nearest(norm, d, radius, low, high)
    assert size_of(norm, ours) <= radius + 1e-9
    assert (ours >= low).all()
    assert (ours <= high).all()
    # Nearest by distance; where the set is convex, then also by place.
    assert ((ours - d) ** 2).sum() <= ((reference - d) ** 2).sum() + 1e-6
    if norm is not Norm.L0:
        np.testing.assert_allclose(ours, reference, atol=2e-3)


@each_norm(CONVEX)
@given(problem=problems(largest=40), seed=st.integers(0, 99))
def test_a_projection_obeys_the_inequality_that_characterises_it(
    norm: Norm, problem: tuple[np.ndarray, float, np.ndarray, np.ndarray], seed: int
) -> None:
    """p is the projection of d on a convex set exactly if <d - p, c - p> <= 0 for all c of it."""
    d, radius, low, high = problem
    p = project(norm, d, radius, low, high)
    random = np.random.default_rng(seed)
    c = random.normal(size=(200, len(d))) * np.exp(2 * random.normal(size=(200, len(d))))
    c = np.clip(c, low, high)
    c *= np.minimum(1, radius / np.maximum(np.linalg.norm(c, ord=norm.p, axis=1), 1e-300))[:, None]
    scale = max(1.0, float(np.abs(d).max())) * radius * len(d)
    assert ((c - p) @ (d - p)).max() <= 1e-9 * scale


@each_norm()
@given(problem=problems(largest=30))
def test_projecting_twice_changes_nothing(
    norm: Norm, problem: tuple[np.ndarray, float, np.ndarray, np.ndarray]
) -> None:
    d, radius, low, high = problem
    radius = float(round(radius)) if norm is Norm.L0 else radius
    once = project(norm, d, radius, low, high)
    np.testing.assert_allclose(project(norm, once, radius, low, high), once, rtol=0, atol=1e-12)


@each_norm()
def test_a_point_inside_is_left_exactly_as_it_is(norm: Norm) -> None:
    d = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(norm.project(d, 1e3), d)


@each_norm()
def test_each_example_has_its_own_radius_and_none_minds_the_others(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(1)
    d = torch.randn(6, 2, 4, generator=generator, dtype=torch.float64) * 3
    low, high = -torch.rand(6, 2, 4, generator=generator).double(), torch.rand(6, 2, 4, generator=generator).double()
    radii = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0, 100.0])
    together = norm.project_between(d, radii, low, high)
    for row in range(6):
        one = slice(row, row + 1)
        alone = norm.project_between(d[one], float(radii[row]), low[one], high[one])
        assert torch.equal(alone, together[one])
        assert torch.equal(norm.project_between(d[one], radii[one], low[one], high[one]), together[one])
    assert float(together[0].abs().max()) <= 1e-12
    assert torch.equal(together[5], d[5].clamp(low[5], high[5]))


@each_norm(CONVEX)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_is_exact_where_magnitudes_differ_enormously(norm: Norm, dtype: torch.dtype) -> None:
    """The large coordinate is stopped by its bound, so the small ones share what is left."""
    d = torch.tensor([[1e8, 3.0, -4.0, 1e-3]], dtype=dtype)
    high = torch.tensor([[0.0, 9.0, 9.0, 9.0]], dtype=dtype)
    got = norm.project_between(d, 1.0, -high, high)[0]
    expected = {
        Norm.LINF: [0.0, 1.0, -1.0, 1e-3],
        Norm.L2: [0.0, 0.6, -0.8, 2e-4],
        Norm.L1: [0.0, 0.0, -1.0, 0.0],
    }[norm]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=dtype), rtol=0, atol=1e-6)


@each_norm(CONVEX)
def test_projection_in_float32_stays_within_a_relative_1e_6(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(2)
    for dims in (10, 3072, 50_000):
        d = torch.randn(4, dims, generator=generator)
        radius = 0.1 * float(norm.size(d).min())
        high = torch.rand(4, dims, generator=generator)
        sizes = norm.size(norm.project_between(d, radius, -high, high).double())
        assert float(sizes.max()) <= radius * (1 + 1e-6)
        assert float(sizes.min()) >= radius * (1 - 1e-6) or norm is Norm.LINF


@each_norm([Norm.L2, Norm.L1])
def test_projection_on_a_ball_in_a_box_is_exact_for_pictures_with_saturated_pixels(norm: Norm) -> None:
    """Every coordinate is scaled (L2) or shrunk (L1) by one number and stopped by its bound, and the size is the radius."""
    generator = torch.Generator().manual_seed(9)
    x = (torch.rand(4, 3072, generator=generator, dtype=torch.float64) * 3 - 1).clamp(0, 1)
    for scale in (1e-3, 0.1, 10.0):
        d = scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        clipped = d.clamp(-x, 1 - x)
        radius = 0.7 * norm.size(clipped)
        got = norm.project_between(d, radius, -x, 1 - x)
        torch.testing.assert_close(norm.size(got), radius, rtol=1e-12, atol=0)
        size, moved = d.abs(), got.abs()
        inner = (moved > 0) & (moved < clipped.abs() * (1 - 1e-12))
        each = moved / size if norm is Norm.L2 else size - moved
        for row in range(4):
            number = each[row][inner[row]]
            torch.testing.assert_close(number, number[:1].expand_as(number), rtol=1e-9, atol=1e-12)
            expected = size[row] * number[0] if norm is Norm.L2 else (size[row] - number[0]).clamp_min(0)
            torch.testing.assert_close(moved[row], expected.minimum(clipped[row].abs()), rtol=1e-9, atol=1e-12)


@given(data=st.data())
def test_filling_up_to_caps_ends_at_the_radius_or_at_the_caps(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    powers = st.lists(st.integers(-9, 3), min_size=n, max_size=n)
    size, cap = (10.0 ** torch.tensor([data.draw(powers)], dtype=torch.float64) for _ in range(2))
    radius = data.draw(st.sampled_from([0.0, 1e-6, 0.01, 1.0, 20.0, math.inf]))
    got = fill_l2(size, cap, torch.tensor([radius], dtype=torch.float64))
    assert bool((got <= cap).all())
    assert float(got.norm()) == pytest.approx(min(radius, float(cap.norm())), rel=1e-9)
    s = (got / size).amax()
    torch.testing.assert_close(got, (s * size).minimum(cap), rtol=1e-9, atol=0)


@each_norm()
def test_size_is_that_of_numpy(norm: Norm) -> None:
    d = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(3))
    d[0] = 0
    d[1, 0] = 0
    expected = [size_of(norm, one.numpy().ravel()) for one in d]
    torch.testing.assert_close(norm.size(d), torch.tensor(expected).float())
    assert norm.size(d[:, :0]).tolist() == [0.0] * 7


def test_sizes_are_accumulated_so_that_many_small_terms_count() -> None:
    d = torch.full((1, 1_000_001), 1e-4)
    d[0, 0] = 3e3
    assert float(Norm.L1.size(d)) == pytest.approx(3000 + 100, rel=1e-6)


@each_norm()
@given(seed=st.integers(0, 1000), dims=st.integers(1, 12))
def test_hoelders_inequality_holds_with_the_dual_norm_and_the_steepest_step_attains_it(
    norm: Norm, seed: int, dims: int
) -> None:
    random = np.random.default_rng(seed)
    g, d = torch.from_numpy(random.normal(size=(2, 1, dims)))
    if norm is Norm.L0:
        d = d.clamp(-1, 1) * torch.from_numpy(random.random((1, dims)) < 0.5)
    inner = float((g * d).sum())
    assert inner <= float(norm.size(d) * norm.dual.size(g)) + 1e-12
    step = norm.steepest(g)
    assert float(norm.size(step)) == pytest.approx(1.0)
    assert float((g * step).sum()) == pytest.approx(float(norm.dual.size(g)))


def test_the_dual_of_the_dual_is_the_norm() -> None:
    for norm in CONVEX:
        assert norm.dual.dual is norm
        assert 1 / norm.p + 1 / norm.dual.p == 1
    assert math.isinf(Norm.L0.dual.p)


@each_norm()
def test_the_steepest_step_of_a_zero_gradient_is_zero_and_of_a_tiny_one_is_not(norm: Norm) -> None:
    g = torch.zeros(3, 4)
    g[1, 2] = -1e-30
    g[2] = 1e30
    step = norm.steepest(g)
    assert bool((step[0] == 0).all())
    torch.testing.assert_close(norm.size(step), torch.tensor([0.0, 1.0, 1.0]))
    assert step[1, 2] == -1


def drawn(norm: Norm, radius: float | Tensor, dims: tuple[int, ...], count: int) -> Tensor:
    rows = torch.arange(count)
    return norm.sample(Streams(4, rows), rows, torch.zeros(count, *dims, dtype=torch.float64), radius)


@each_norm(CONVEX)
@pytest.mark.parametrize("dims", [1, 2, 5])
def test_samples_are_uniform_in_the_ball(norm: Norm, dims: int) -> None:
    """(size / radius)^D of a uniform point is uniform, and so is the share of any part of the ball."""
    d = drawn(norm, 0.5, (dims,), 4000).reshape(4000, dims)
    sizes = norm.size(d).numpy()
    assert sizes.max() <= 0.5 * (1 + 1e-12)
    assert stats.kstest((sizes / 0.5) ** dims, "uniform").pvalue > 1e-3
    signs = (d > 0).double().mean(dim=0)
    assert float((signs - 0.5).abs().max()) < 0.04
    # Against points of the cube that fall into the ball, coordinate by coordinate.
    cube = np.random.default_rng(0).uniform(-0.5, 0.5, (200_000, dims))
    inside = cube[np.linalg.norm(cube, ord=norm.p, axis=1) <= 0.5]
    for axis in range(dims):
        assert stats.kstest(d[:, axis].numpy(), inside[:, axis]).pvalue > 1e-3


def test_l0_samples_are_uniform_subsets_with_uniform_values() -> None:
    d = drawn(Norm.L0, 2.0, (5,), 5000)
    chosen = d != 0
    assert bool((chosen.sum(dim=1) == 2).all())
    pairs = torch.tensor([int("".join(map(str, one)), 2) for one in chosen.int().tolist()])
    counts = [int((pairs == value).sum()) for value in pairs.unique()]
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest(d[chosen].numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3


@each_norm()
def test_samples_take_a_radius_per_example(norm: Norm) -> None:
    radii = torch.tensor([0.0, 1.0, 3.0])
    d = drawn(norm, radii, (2, 3), 3)
    assert d.shape == (3, 2, 3)
    assert bool((norm.size(d) <= radii * (1 + 1e-12)).all())
    assert bool((d[0] == 0).all())
    assert bool((d[2] != 0).any())


def test_a_norm_is_named_by_its_spelling() -> None:
    assert [Norm(name).p for name in ("linf", "l2", "l1", "l0")] == [math.inf, 2, 1, 0]
    assert [str(norm) for norm in NORMS] == ["linf", "l2", "l1", "l0"]
