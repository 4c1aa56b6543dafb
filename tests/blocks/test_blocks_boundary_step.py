"""The step along a boundary: feasible, better than standing still, and the best one where that is known."""

import pytest
import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk.blocks.boundary_step import boundary_step, shrink
from hauberk.blocks.hyperplane import reach_hyperplane
from hauberk.threat import Norm

NORMS = sorted(Norm, key=str)


def problem(room: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = torch.arange(60)
    streams = Streams(0, rows, "boundary step")
    slope, here = streams.normal(rows, (2, 25), dtype=torch.float64).unbind(dim=1)
    x = streams.uniform(rows, (25,), dtype=torch.float64)
    low, high = -x * room, (1 - x) * room
    here = (here * 0.4).maximum(low).minimum(high)
    gap = streams.normal(rows, (), dtype=torch.float64) * 0.3
    return here, slope, gap, low, high


@pytest.mark.parametrize("radius", [0.1, 0.4, 1.5])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_step_keeps_to_box_and_radius_and_meets_the_plane_where_it_can(norm: Norm, radius: float) -> None:
    here, slope, gap, low, high = problem()
    r = torch.full((60,), radius, dtype=torch.float64)
    d = boundary_step(here, slope, gap, low, high, r, norm)
    assert bool(((d >= low) & (d <= high)).all())
    assert float(Norm.L2.size(d - here).max()) <= radius * (1 + 1e-9)
    needed = Norm.L2.size(reach_hyperplane(slope, gap, low - here, high - here, Norm.L2))
    missing = (gap - (slope * (d - here)).sum(dim=1)).abs() / gap.abs()
    within = needed < radius
    assert int(within.sum()) > 15
    assert float(missing[within].max()) < 0.021
    assert float(norm.size(d)[within].sum()) < float(norm.size(here)[within].sum())


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_where_the_radius_does_not_bind_it_is_the_smallest_change_on_the_plane(norm: Norm) -> None:
    here, slope, gap, low, high = problem()
    d = boundary_step(here, slope, gap, low, high, torch.full((60,), 1e3, dtype=torch.float64), norm)
    level = gap + (slope * here).sum(dim=1)
    torch.testing.assert_close(d, reach_hyperplane(slope, level, low, high, norm))


def test_in_l2_without_a_box_it_is_the_point_of_the_disc_nearest_to_the_example() -> None:
    here, slope, gap, low, high = problem(room=1e6)
    d = boundary_step(here, slope, gap, low, high, torch.full((60,), 0.3, dtype=torch.float64), Norm.L2)
    step = d - here
    used = step.norm(dim=1, keepdim=True)
    level = (slope * d).sum(dim=1, keepdim=True)  # of the plane that it met
    squared = (slope * slope).sum(dim=1, keepdim=True)
    centre = here + (level - (slope * here).sum(dim=1, keepdim=True)) / squared * slope
    foot = level / squared * slope
    inside = (used**2 - (centre - here).norm(dim=1, keepdim=True) ** 2).clamp_min(0).sqrt()
    towards = foot - centre
    best = centre + towards * (inside / towards.norm(dim=1, keepdim=True)).clamp_max(1)
    torch.testing.assert_close(d, best, rtol=1e-6, atol=1e-6)
    assert float(used.min()) > 0.7 * 0.3 * 0.99


def test_a_plane_out_of_reach_is_approached_as_far_as_the_radius_lets() -> None:
    here, slope, _, low, high = problem(room=1e6)
    r = torch.full((60,), 0.2, dtype=torch.float64)
    d = boundary_step(here, slope, torch.full_like(r, 1e3), low, high, r, Norm.L1)
    torch.testing.assert_close(d, here + 0.2 * slope / slope.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_shrinking_goes_from_the_change_to_nothing(norm: Norm) -> None:
    change = torch.tensor([[0.5, -2.0, 1.0, 0.0]])
    most = change.abs().amax(dim=1, keepdim=True)
    half = {
        Norm.L2: [0.25, -1.0, 0.5, 0.0],
        Norm.LINF: [0.5, -1.0, 1.0, 0.0],
        Norm.L1: [0.0, -1.0, 0.0, 0.0],
        Norm.L0: [0.0, -2.0, 0.0, 0.0],
    }[norm]
    assert torch.equal(shrink(change, torch.zeros(1, 1), norm, most), change)
    assert shrink(change, torch.full((1, 1), 0.5), norm, most).tolist() == [half]
    assert bool((shrink(change, torch.ones(1, 1), norm, most) == 0).all())


def test_in_l0_the_least_useful_of_changes_that_all_reach_the_walls_go_back() -> None:
    slope = torch.linspace(0.2, 2, 30, dtype=torch.float64).expand(1, 30)
    here, r = torch.ones(1, 30, dtype=torch.float64), torch.full((1,), 2.5, dtype=torch.float64)
    gap = -slope[:, :4].sum(dim=1)
    d = boundary_step(here, slope, gap, torch.zeros_like(here), torch.ones_like(here), r, Norm.L0)
    assert bool((d[:, :3] == 0).all())
    assert 3 <= int((d == 0).sum()) <= 6  # a radius of 2.5 puts six values back
    assert bool((d[:, 6:] > 0).all())
