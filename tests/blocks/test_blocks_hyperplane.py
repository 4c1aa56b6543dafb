"""The smallest change to a hyperplane inside a box, against closed forms."""

import pytest
import torch

from hauberk._rng import Streams
from hauberk.blocks.hyperplane import reach_hyperplane
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
