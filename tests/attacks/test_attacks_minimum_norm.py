"""What the iterative minimum-norm attacks do, beside the laws: steps computed by hand, closed forms, properties of the papers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hauberk as hb
from hauberk._rng import Streams
from hauberk.attacks import ALMA, DDN, FMN, PDPGD, Attack, BoundarySlide, SigmaZero, SparseSwap
from hauberk.attacks.boundary_slide import smallest_within
from hauberk.attacks.pdpgd import prox
from hauberk.testing import LinearVictim
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter


class Recorded(Meter):
    """A meter that remembers the points it was asked."""

    def __init__(self, victim: LinearVictim, n: int) -> None:
        super().__init__(victim, n)
        self.asked: list[Tensor] = []

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        self.asked.append(x.clone())
        return super().logits(x, rows)

    def pullback(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        self.asked.append(x.clone())
        return super().pullback(x, rows)


def linear(*slopes: float, bias: float, bounds: tuple[float, float] = (0.0, 1.0)) -> LinearVictim:
    """Two classes; class 1 wins where <slopes, x> + bias > 0."""
    weights = torch.zeros(2, len(slopes), dtype=torch.float64)
    weights[1] = torch.tensor(slopes, dtype=torch.float64)
    return LinearVictim(weights, torch.tensor([0.0, bias], dtype=torch.float64), bounds)


def attacked(attack: Attack, victim: LinearVictim, x: Tensor, norm: Norm, radius: float = torch.inf) -> Recorded:
    """Attack x, which the victim takes for class 0; what was asked, and `best`, the points that came back."""
    meter = Recorded(victim, len(x))
    goal = Untargeted(torch.zeros(len(x), dtype=torch.int64))
    streams = Streams(0, torch.arange(len(x)), "test")
    points = attack(meter, x, goal, Ball(norm, radius, victim.bounds), streams=streams)
    meter.asked.append(points)
    return meter


def test_the_first_step_of_sigma_zero_goes_to_the_corner_that_the_margin_points_to() -> None:
    # Adam's first step is the sign of the gradient, and its length 1 reaches every wall; 0.9 + 0.1 is cut by the threshold
    # 0.3 - 0.01, for the example did not reach the goal
    victim = linear(0.5, -3.0, 1.0, bias=-1.0)
    x = torch.tensor([[0.2, 0.4, 0.9]], dtype=torch.float64)
    first, second, *_ = attacked(SigmaZero(steps=1), victim, x, Norm.L0).asked
    assert torch.equal(first, x)
    assert torch.allclose(second, torch.tensor([[1.0, 0.0, 0.9]], dtype=torch.float64))


def test_sigma_zero_measures_changes_in_widths_of_the_box() -> None:
    plain, wide = linear(0.5, -3.0, 1.0, bias=-0.5), linear(0.05, -0.3, 0.1, bias=-0.5, bounds=(0.0, 10.0))
    x = torch.tensor([[0.2, 0.4, 0.3], [0.1, 0.5, 0.5]], dtype=torch.float64)
    small = attacked(SigmaZero(steps=40), plain, x, Norm.L0)
    large = attacked(SigmaZero(steps=40), wide, x * 10, Norm.L0)
    assert all(torch.allclose(a * 10, b) for a, b in zip(small.asked, large.asked, strict=True))


def test_sigma_zero_asks_at_the_changes_cut_to_a_finite_radius() -> None:
    victim = LinearVictim.random(3, 40)
    x = torch.full((1, 40), 0.45, dtype=torch.float64)
    if int(victim.labels(x, torch.arange(1))) == 1:
        x = 1 - x
    asked = attacked(SigmaZero(steps=10), victim, x, Norm.L0, radius=1.0).asked
    counts = [int((point != x).sum()) for point in asked]
    assert counts[10] == 1  # after steps 0 to 9, the cut
    assert max(counts[1:10]) > 1


def test_an_example_leaves_sigma_zero_when_its_patience_ends() -> None:
    victim = LinearVictim.random(5, 30)
    ids = torch.arange(6)
    x = Streams(5, ids, "patience").uniform(ids, (30,), dtype=torch.float64)
    x = x[victim.labels(x, ids) == 0]
    assert len(x)
    long, short = (attacked(SigmaZero(steps=200, patience=p), victim, x, Norm.L0) for p in (None, 10))
    assert int(long.queries.min()) == 201
    assert int(short.queries.max()) < 100


def test_ddn_lets_success_alone_set_how_far_it_goes() -> None:
    # the first norm is 1, then 1.05 until the goal is reached, then 0.95 of it; no wall is near
    victim = linear(3.0, 4.0, bias=-8.0, bounds=(-10.0, 10.0))
    x = torch.tensor([[0.0, 0.0]], dtype=torch.float64)  # the boundary is 8 / 5 = 1.6 away
    asked = attacked(DDN(steps=5, init_norm=1.5 / 20), victim, x, Norm.L2).asked
    sizes = torch.cat(asked[:6]).norm(dim=1)
    expected = 1.5 * torch.tensor([0.0, 1.05, 1.05**2, 1.05**2 * 0.95, 1.05**3 * 0.95, 1.05**3 * 0.95**2])
    assert torch.allclose(sizes, expected.double())
    assert torch.allclose(asked[1] / asked[1].norm(), torch.tensor([[0.6, 0.8]], dtype=torch.float64))


def test_ddn_draws_a_direction_where_the_gradient_is_zero() -> None:
    victim = linear(0.0, 0.0, bias=-1.0)
    x = torch.full((2, 2), 0.5, dtype=torch.float64)
    asked = attacked(DDN(steps=2, init_norm=0.1), victim, x, Norm.L2).asked
    assert float((asked[1] - x).norm(dim=1).min()) > 0.05
    assert not torch.allclose(asked[1][0], asked[1][1])  # each example from its own stream


def test_the_first_radius_of_fmn_reaches_a_little_beyond_the_boundary_in_the_dual_norm() -> None:
    victim = linear(3.0, -4.0, bias=-2.0, bounds=(-10.0, 10.0))
    x = torch.zeros(1, 2, dtype=torch.float64)
    for norm, distance in ((Norm.LINF, 2 / 7), (Norm.L2, 2 / 5), (Norm.L1, 2 / 4)):
        first = attacked(FMN(steps=1), victim, x, norm).asked[1]
        assert abs(float(norm.size(first - x)) / distance - 1.05) < 1e-6, norm


def test_fmn_crosses_boundaries_that_its_linear_estimate_only_approaches() -> None:
    # at a wall the estimate |m| / |g| is too short for ever: half of the slope cannot be used
    victim = linear(1.0, 1.0, 1.0, bias=-0.9)
    x = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64) * torch.tensor([0.0, 0.0, 0.0]).double()
    for norm in (Norm.LINF, Norm.L2, Norm.L1):
        points = attacked(FMN(steps=60), victim, x, norm).asked[-1]
        optimal = float(victim.optimal_distance(x, torch.zeros(1, dtype=torch.int64), norm))
        assert optimal <= float(norm.size(points - x)) <= 1.01 * optimal, norm


def test_fmn_counts_whole_values_in_l0() -> None:
    # from 1 one more until the goal is reached, then one less; each step reaches the walls
    victim = linear(1.0, 0.9, 0.8, 0.7, 0.6, bias=-2.5)
    x = torch.zeros(1, 5, dtype=torch.float64)
    asked = attacked(FMN(steps=5, step_size=100.0), victim, x, Norm.L0).asked
    assert [int((point != 0).sum()) for point in asked[:6]] == [0, 2, 3, 2, 3, 2]


class Sphere(torch.nn.Module):
    """Class 1 inside the sphere of radius 0.3 around (0.4, ..., 0.4), or outside it."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = torch.nn.Parameter(torch.tensor(sign, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        margin = self.sign * (0.3**2 - (x - 0.4).square().sum(dim=1, keepdim=True))
        return torch.cat((torch.zeros_like(margin), margin), dim=1)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["from outside", "from inside"])
def test_the_slide_finds_the_nearest_point_of_a_sphere(sign: float) -> None:
    ids = torch.arange(8)
    direction = Norm.L2.steepest(Streams(1, ids, "sphere").normal(ids, (6,), dtype=torch.float64))
    centre = torch.full((8, 6), 0.4, dtype=torch.float64)
    x = centre + (0.38 if sign > 0 else 0.15) * direction
    found = hb.attacks.boundary_slide(hb.wrap(Sphere(sign)), x, torch.zeros(8, dtype=torch.int64), "l2", steps=60)
    optimal = 0.08 if sign > 0 else 0.15
    assert bool(found.broken.all())
    assert float(found.sizes.max()) < optimal * 1.002


def test_the_slide_tries_the_rivals_that_are_less_likely_but_nearer() -> None:
    # class 1 is likelier at the example, class 2 has the steeper scores: its boundary is at 0.2, that of class 1 at 0.4
    weights = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    victim = LinearVictim(weights, torch.tensor([0.0, -0.4, -0.8], dtype=torch.float64))
    x = torch.zeros(1, 2, dtype=torch.float64)
    one, two = (
        Norm.L2.size(attacked(BoundarySlide(rivals=rivals, far=0), victim, x, Norm.L2).asked[-1]) for rivals in (1, 2)
    )
    assert 0.4 <= float(one) < 0.401
    assert 0.2 <= float(two) < 0.2003


def test_in_l1_the_slide_spends_the_change_on_whole_values() -> None:
    victim = linear(1.0, 3.0, 2.0, bias=-1.7)
    x = torch.tensor(
        [[0.0, 0.6, 0.0]], dtype=torch.float64
    )  # 0.1 short, once the steepest is taken to its wall, 0.4 away
    points = attacked(BoundarySlide(), victim, x - torch.tensor([[0.0, 0.2, 0.0]]).double(), Norm.L1).asked[-1]
    assert torch.allclose(points, torch.tensor([[0.0, 1.7 / 3, 0.0]], dtype=torch.float64), atol=1e-3)


def test_after_a_success_the_swap_only_asks_at_fewer_values_and_does_not_undo_what_it_removed() -> None:
    victim, x = LinearVictim.random(3, 40), torch.full((1, 40), 0.45, dtype=torch.float64)
    if int(victim.labels(x, torch.arange(1))) == 1:
        x = 1 - x
    run = attacked(SparseSwap(steps=30, tenure=5, far=0, kicks=0), victim, x, Norm.L0)
    changed = torch.cat(run.asked[:-1]) != x
    reached = [int(victim.labels(point, torch.arange(1))) == 1 for point in run.asked[:-1]]
    first = reached.index(True)
    assert int(changed[first + 1 :].sum(dim=1).max()) < int(changed[first].sum())
    removed = changed[:-1] & ~changed[1:]
    assert bool(removed.any())
    for step, value in removed.nonzero().tolist():
        assert not changed[step + 1 : step + 6, value].any()


def test_the_swap_stays_within_a_finite_radius_from_the_start() -> None:
    victim, x = LinearVictim.random(3, 40), torch.full((1, 40), 0.45, dtype=torch.float64)
    if int(victim.labels(x, torch.arange(1))) == 1:
        x = 1 - x
    run = attacked(SparseSwap(steps=12, far=0, kicks=0), victim, x, Norm.L0, radius=1.0)
    assert int((torch.cat(run.asked) != x).sum(dim=1).max()) == 1


def test_the_first_step_of_alma_changes_the_distance_as_much_as_wanted() -> None:
    victim = LinearVictim.random(2, 30, classes=4)
    x = torch.full((3, 30), 0.5, dtype=torch.float64)
    x[:, :15] = 0.0  # half of the values can only rise
    for norm, far in ((Norm.L2, 0.1), (Norm.L1, 0.5)):
        second = attacked(ALMA(steps=2), victim, x, norm).asked[1]
        assert torch.allclose(norm.size(second - x), torch.tensor(far, dtype=torch.float64), rtol=1e-4), norm


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_the_prox_of_pdpgd_is_the_minimum_that_it_claims(norm: str) -> None:
    size = Norm(norm).size
    v = Streams(0, torch.arange(5), "prox").normal(torch.arange(5), (4,), dtype=torch.float64)
    strength = torch.tensor([0.05, 0.3, 0.8, 2.0, 9.0], dtype=torch.float64)

    def objective(u: Tensor) -> Tensor:
        return strength * size(u) + (u - v).square().sum(dim=1) / 2

    best = prox(v, strength, Norm(norm))
    noise = Streams(1, torch.arange(5), "prox").normal(torch.arange(5), (400, 4), dtype=torch.float64)
    for draw in noise.unbind(dim=1):
        for scale in (1e-3, 0.1, 1.0):
            assert bool((objective(best + scale * draw) >= objective(best) - 1e-12).all())
    assert bool((best[-1] == 0).all())  # so strong that nothing is left


def test_the_prox_of_pdpgd_in_l0_minimises_the_power_two_thirds() -> None:
    v, s = torch.linspace(-2, 2, 41, dtype=torch.float64), 0.3
    grid = torch.linspace(-2.2, 2.2, 44001, dtype=torch.float64)[:, None]
    wanted = grid[(s * grid.abs() ** (2 / 3) + (grid - v).square() / 2).argmin(dim=0), 0]
    found = prox(v[None], torch.tensor([s], dtype=torch.float64), Norm.L0)[0]
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.equal(found == 0, wanted.abs() < 1e-9)


def test_the_multiplier_of_pdpgd_balances_at_the_boundary() -> None:
    # the last steps of a linear problem stay near the boundary: the size is worth exactly what the goal costs
    victim = linear(3.0, -4.0, bias=-2.0, bounds=(-10.0, 10.0))
    x = torch.zeros(1, 2, dtype=torch.float64)
    asked = torch.cat(attacked(PDPGD(steps=600, step_size=0.02), victim, x, Norm.L2).asked)
    late = asked[400:600].norm(dim=1)
    assert abs(float(late.mean()) / 0.4 - 1) < 0.05
    assert 0.4 <= float(asked[-1].norm()) < 0.404


def test_a_slide_from_far_away_finds_what_the_gradient_at_the_example_hides() -> None:
    # the scores are flat around the example: no gradient leads anywhere
    class Plateau(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor([3.0, 2.0, 1.0, 1.0], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            margin = torch.relu(x @ self.slope - 1.5)[:, None] - 0.5
            return torch.cat((torch.zeros_like(margin), margin), dim=1)

    victim, x, y = hb.wrap(Plateau()), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    assert not bool(hb.attacks.boundary_slide(victim, x, y, "l2", far=0).broken.any())
    found = hb.attacks.boundary_slide(victim, x, y, "l2", far=2)
    assert bool(found.broken.all())
    assert bool((found.sizes < 1.01 * 2 / 15**0.5).all())  # <slope, d> = 2


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_smallest_change_near_another_is_the_smallest(norm: str) -> None:
    rows = torch.arange(20)
    draw = Streams(0, rows, "near").uniform(rows, (5, 6), dtype=torch.float64) - 0.5
    slope, middle = 2 * draw[:, 0], draw[:, 1]
    low, high = middle - draw[:, 2].abs(), middle + draw[:, 3].abs()
    total = (slope * (middle + 0.3 * (torch.where(slope > 0, high, low) - middle))).sum(dim=1)  # in reach
    found = smallest_within(slope, total, low, high, Norm(norm))
    assert bool(((found >= low) & (found <= high)).all())
    assert bool(((slope * found).sum(dim=1) >= total - 1e-9).all())
    size = Norm(norm).size(found)
    for seed in range(300):
        other = low + (high - low) * Streams(seed, rows, "others").uniform(rows, (6,), dtype=torch.float64)
        better = ((slope * other).sum(dim=1) >= total) & (Norm(norm).size(other) < size - 1e-9)
        assert not bool(better.any())
        between = found + 0.02 * (other - found)
        better = ((slope * between).sum(dim=1) >= total) & (Norm(norm).size(between) < size - 1e-9)
        assert not bool(better.any())
