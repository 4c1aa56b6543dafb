"""The smallest change to a hyperplane inside a box, against closed forms."""

import pytest
import torch

from hauberk._rng import Streams
from hauberk.blocks.hyperplane import grid_beyond, reach_hyperplane
from hauberk.testing import LinearVictim
from hauberk.threat import Norm

NORMS = sorted(Norm, key=str)


def problem(count: int = 40, features: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = torch.arange(count)
    streams = Streams(0, rows, "hyperplane")
    slope = streams.normal(rows, (features,), dtype=torch.float64)
    slope[:, 3] = 0.0
    x = (streams.uniform(rows, (features,), dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    gap = streams.normal(rows, (), dtype=torch.float64) * 4
    return x, slope, gap


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_change_reaches_the_hyperplane_inside_the_box(norm: Norm) -> None:
    x, slope, gap = problem()
    d = reach_hyperplane(slope, gap, -x, 1 - x, norm)
    assert bool(((x + d >= 0) & (x + d <= 1)).all())
    assert bool((d[:, 3] == 0).all())
    possible = torch.where(gap[:, None] * slope > 0, 1 - x, -x).mul(slope).sum(dim=1)
    within = gap.abs() <= possible.abs()
    assert int(within.sum()) >= 30
    torch.testing.assert_close((slope * d).sum(dim=1)[within], gap[within])


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_no_smaller_change_reaches_it(norm: Norm) -> None:
    x, slope, gap = problem()
    gap = gap.abs()
    victim_size = []
    for row in range(len(x)):  # the classes tie where <slope, d> = gap: the optimum of the closed forms
        weights = torch.stack((torch.zeros_like(slope[row]), slope[row]))
        bias = torch.stack((gap[row] + slope[row] @ x[row], torch.zeros(()).double()))
        victim = LinearVictim(weights, bias)
        victim_size.append(victim.optimal_distance(x[row : row + 1], torch.tensor([0]), norm))
    optimal = torch.cat(victim_size)
    possible = optimal.isfinite()
    d = reach_hyperplane(slope, gap, -x, 1 - x, norm)
    torch.testing.assert_close(norm.size(d)[possible], optimal[possible])


def test_a_hyperplane_beyond_the_box_gives_the_nearest_corner() -> None:
    slope = torch.tensor([[2.0, -1.0, 0.0]])
    x = torch.tensor([[0.25, 0.25, 0.5]])
    for norm in NORMS:
        d = reach_hyperplane(slope, torch.tensor([10.0]), -x, 1 - x, norm)
        assert d.tolist() == [[0.75, -0.25, 0.0]]
        d = reach_hyperplane(slope, torch.tensor([-10.0]), -x, 1 - x, norm)
        assert d.tolist() == [[-0.25, 0.75, 0.0]]


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_scale_of_the_scores_does_not_matter_in_float32(norm: Norm, scale: float) -> None:
    x, slope, gap = (part.float() for part in problem())
    plain = reach_hyperplane(slope, gap, -x, 1 - x, norm)
    scaled = reach_hyperplane(slope * scale, gap * scale, -x, 1 - x, norm)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-5)


def test_no_slope_gives_no_change() -> None:
    zero = torch.zeros(2, 3)
    for norm in NORMS:
        d = reach_hyperplane(zero, torch.tensor([1.0, 0.0]), zero - 1, zero + 1, norm)
        assert bool((d == 0).all())


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_change_rounded_to_a_grid_stays_beyond_its_plane_and_near(norm: Norm) -> None:
    d, slope, _ = problem()
    d = torch.where(slope > 1.5, 0.25, d - 0.5)  # some on the grid already, some against the slope
    step = 1 / 16
    found = grid_beyond(d, slope, step, norm)
    assert torch.equal(found * 16, (found * 16).round())
    assert bool(((found - d).abs() < step).all())
    assert torch.equal(found[slope > 1.5], d[slope > 1.5])
    assert bool(((slope * found).sum(dim=1) >= (slope * d).sum(dim=1) - 1e-5).all())


def test_the_values_that_gain_most_for_their_size_are_carried_on_to_the_next_step() -> None:
    d = torch.tensor([[0.5, 0.5, 0.5, 1.5]], dtype=torch.float64)
    slope = torch.tensor([[3.0, 2.0, 1.0, 4.0]], dtype=torch.float64)
    # d is worth 9; rounded down 4, and 3, 2, 1 and, at thrice the square, 4 more
    assert grid_beyond(d, slope, 1.0, Norm.L2).tolist() == [[1.0, 1.0, 0.0, 1.0]]
    assert grid_beyond(d, slope, 1.0, Norm.L1).tolist() == [[1.0, 0.0, 0.0, 2.0]]
    assert grid_beyond(d, slope, 1.0, Norm.LINF).tolist() == [[1.0, 1.0, 1.0, 1.0]]
    assert grid_beyond(-d, -slope, 1.0, Norm.L2).tolist() == [[-1.0, -1.0, 0.0, -1.0]]


@pytest.mark.parametrize("norm", [Norm.L1, Norm.L2], ids=str)
def test_rounding_to_a_grid_costs_hardly_more_size_than_the_best_choice_of_sides(norm: Norm) -> None:
    rows = torch.arange(12)
    draw = Streams(3, rows, "knapsack").uniform(rows, (2, 8), dtype=torch.float64)
    d, slope = draw[:, 0] * 4, draw[:, 1] + 0.1
    found = norm.size(grid_beyond(d, slope, 1.0, norm))
    sides = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 8)
    choices = d.floor()[:, None] + sides[None]
    beyond = (choices * slope[:, None]).sum(dim=2) >= (d * slope).sum(dim=1, keepdim=True)
    best = torch.where(beyond, torch.linalg.vector_norm(choices, norm.p, dim=2), torch.inf).amin(dim=1)
    assert bool((found >= best - 1e-9).all())
    assert bool((found <= best * 1.1).all())
