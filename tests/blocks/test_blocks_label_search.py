"""Label search on a plane in closed form: starts, bisection, circles, normals, and who is charged for what."""

import math

import pytest
import torch

from hauberk._rng import Streams
from hauberk.blocks import Closest
from hauberk.blocks.label_search import (
    bisect,
    first_points,
    noise_named,
    normal_at,
    on_circle,
    radius_along,
    reached,
    to_boundary,
    turned,
    unit,
    unit_noise,
    upright,
)
from hauberk.errors import HauberkError
from hauberk.testing import LinearVictim
from hauberk.threat import Access, Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter

FEATURES = 20
PLANE = torch.linspace(0.2, 1.0, FEATURES, dtype=torch.float64)  # class 1 where <PLANE, z> > 6
VICTIM = LinearVictim(
    torch.stack((torch.zeros_like(PLANE), PLANE)), torch.tensor([0.0, -6.0], dtype=torch.float64), (-10.0, 10.0)
)
NORMAL = PLANE / PLANE.norm()
N = 3
X = torch.zeros(N, FEATURES, dtype=torch.float64) + torch.tensor([[0.0], [0.1], [-0.2]], dtype=torch.float64)
DISTANCE = (6 - X @ PLANE) / PLANE.norm()


def search(norm: Norm = Norm.L2, budget: int | None = None) -> tuple[Closest, Meter, Streams]:
    meter = Meter(VICTIM, N, budget=budget, access=Access.LABELS)
    goal = Untargeted(torch.zeros(N, dtype=torch.int64))
    found = Closest(meter, X, goal, Ball(norm, box=(-10.0, 10.0)))
    return found, meter, Streams(0, torch.arange(N), "test")


def test_only_those_asked_are_charged_and_the_others_have_not_reached() -> None:
    found, meter, _ = search(budget=2)
    z = X + 2 * DISTANCE[:, None] * NORMAL
    among = torch.tensor([True, False, True])
    assert reached(found, z, among).tolist() == [True, False, True]
    assert meter.queries.tolist() == [1, 0, 1]
    assert reached(found, z).tolist() == [True, True, True]
    assert reached(found, z).tolist() == [False, True, False]  # the others cannot pay any more
    assert meter.queries.tolist() == [2, 2, 2]
    found.compact()
    assert len(found) == 0


def test_starts_reach_the_goal_near_the_boundary() -> None:
    found, meter, streams = search()
    z = first_points(found, streams)
    assert bool((VICTIM.labels(z, torch.arange(N)) == 1).all())
    assert len(found) == N
    assert int(meter.queries.max()) < 120


def test_a_given_start_is_taken_where_it_reaches_the_goal() -> None:
    found, meter, streams = search()
    given = X + 3 * DISTANCE[:, None] * NORMAL
    given[1] = X[1]
    z = first_points(found, streams, given)
    torch.testing.assert_close(z[[0, 2]], given[[0, 2]])
    assert bool((VICTIM.labels(z, torch.arange(N)) == 1).all())
    assert meter.queries[[0, 2]].tolist() == [2, 2]


def test_examples_that_nothing_takes_to_the_goal_go_and_those_that_are_there_cost_one_query() -> None:
    meter = Meter(VICTIM, N, access=Access.LABELS)
    never = torch.tensor([3, 0, 3])  # class 3 does not exist; the second example is of class 0 already
    found = Closest(meter, X, Targeted(never), Ball(Norm.L2, box=(-10.0, 10.0)))
    first_points(found, Streams(0, torch.arange(N), "test"))
    assert len(found) == 0
    assert found.size.tolist() == [math.inf, 0.0, math.inf]
    assert meter.queries.tolist() == [51, 1, 51]


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_bisection_ends_at_the_boundary_on_the_side_of_the_goal(norm: Norm) -> None:
    found, meter, _ = search(norm)
    far = X + torch.tensor([[2.0], [1.0], [3.0]], dtype=torch.float64) * torch.linspace(1, 2, FEATURES).double()
    z = to_boundary(found, far, tolerance=1e-5)
    margin = z @ PLANE - 6
    assert bool(((margin > 0) & (margin < 1e-2)).all())
    assert int(meter.queries.max()) == 17  # 2^-17 < 1e-5


def test_each_interval_is_narrowed_to_its_own_tolerance() -> None:
    found, meter, _ = search()
    along = X.new_tensor([1.0, 1.0, 1.0])
    low, high = bisect(
        found,
        lambda t: X + (10 * t / PLANE.sum())[:, None],
        torch.zeros(N, dtype=torch.float64),
        along,
        X.new_tensor([1e-2, 1e-4, 2.0]),
    )
    assert meter.queries.tolist() == [7, 14, 0]
    wanted = (6 - X @ PLANE) / 10
    assert bool(((low <= wanted) & (wanted <= high) & (high - low <= X.new_tensor([1e-2, 1e-4, 2.0]))).all())


@pytest.mark.parametrize("factor", [0.3, 0.99, 1.0, 1.01, 4.0])
def test_a_radius_is_found_from_guesses_on_either_side(factor: float) -> None:
    found, meter, _ = search()
    direction = unit(torch.ones_like(X))
    exact = (6 - X @ PLANE) / (direction @ PLANE)
    radius = radius_along(found, direction, exact * factor, tolerance=1e-4)
    assert bool(((radius >= exact) & (radius <= exact * (1 + 2e-4))).all())
    assert int(meter.queries.max()) < 30


def test_a_direction_that_never_crosses_has_no_radius() -> None:
    found, meter, _ = search()
    guess = torch.ones(N, dtype=torch.float64)
    assert bool(radius_along(found, unit(-torch.ones_like(X)), guess, tolerance=1e-3).isinf().all())
    spent = meter.queries.clone()
    near = radius_along(found, unit(torch.ones_like(X)), guess * 0.1, most=0.1, tolerance=1e-3)
    assert bool(near.isinf().all())
    assert (meter.queries - spent).tolist() == [1, 1, 1]  # nobody wants to know beyond the guess


def test_the_circle_meets_the_plane_at_its_nearest_point() -> None:
    found, _, _ = search()
    z = X + ((6 - X @ PLANE) / PLANE.sum())[:, None]  # on the boundary, all values moved alike
    side = upright(NORMAL.expand(N, -1), unit(z - X))
    at = on_circle(found, z, side)
    torch.testing.assert_close(at(torch.zeros(N, dtype=torch.float64)), z)
    torch.testing.assert_close(at(torch.full((N,), math.pi / 2, dtype=torch.float64)), X)
    angle = torch.acos((unit(z - X) @ NORMAL).clamp(-1, 1))
    torch.testing.assert_close(at(angle), X + DISTANCE[:, None] * NORMAL)


@pytest.mark.parametrize("across", [False, True])
def test_the_normal_of_a_plane_is_learnt_with_the_root_of_the_probes(across: bool) -> None:
    z = X + (DISTANCE * 1.0001)[:, None] * NORMAL + 0.3 * upright(torch.ones_like(X), NORMAL.expand(N, -1))
    tangent = unit(z - X) if across else None
    wanted = upright(NORMAL.expand(N, -1), tangent) if tangent is not None else NORMAL.expand(N, -1)
    before = 0.0
    for count in (10, 100, 1000):
        found, meter, streams = search()
        g = normal_at(found, z, streams, noise_named("white"), count, torch.full((N,), 0.5).double(), tangent=tangent)
        assert meter.queries.tolist() == [count] * N
        assert bool(found.size.isinf().all())  # probes are not proposed
        torch.testing.assert_close(g.norm(dim=1), torch.ones(N, dtype=torch.float64))
        cosine = float((g * wanted).sum(dim=1).min())
        assert cosine > before
        before = cosine
        if tangent is not None:
            torch.testing.assert_close((g * tangent).sum(dim=1), torch.zeros(N, dtype=torch.float64), atol=1e-9, rtol=0)
    assert before > 0.95


def test_taking_off_the_mean_helps_beside_the_boundary() -> None:
    # so far beyond it that nine probes of ten reach the goal
    z = X + (DISTANCE + 0.15)[:, None] * NORMAL
    found, _, streams = search()
    probe = torch.full((N,), 0.5, dtype=torch.float64)
    g = normal_at(found, z, streams, noise_named("white"), 400, probe)
    _, _, again = search()
    u = unit_noise(found, again, noise_named("white"), 32)
    signs = ((z[:, None] + 0.5 * u) @ PLANE > 6).double() * 2 - 1
    assert float(signs.mean()) > 0.6
    assert float((g @ NORMAL).min()) > 0.8


def test_a_turn_is_taken_where_the_boundary_comes_nearer_only() -> None:
    found, _, _ = search()
    direction = unit(torch.ones_like(X))
    radius = (6 - X @ PLANE) / (direction @ PLANE)
    length = torch.full((N,), 0.01, dtype=torch.float64)
    better, nearer, useful = turned(found, direction, radius, NORMAL.expand(N, -1), length, tolerance=1e-4)
    assert bool((nearer < radius).all())
    assert bool((useful > length).all())
    torch.testing.assert_close(nearer, (6 - X @ PLANE) / (better @ PLANE), rtol=1e-3, atol=0)
    worse, same, useful = turned(found, direction, radius, -NORMAL.expand(N, -1), length, tolerance=1e-4)
    assert torch.equal(worse, direction)
    assert torch.equal(same, radius)
    assert bool((useful < length).all())


def test_noise_is_grey_keeps_to_low_frequencies_and_to_the_mask() -> None:
    streams = Streams(0, torch.arange(N), "test")
    x = torch.zeros(N, 3, 8, 8, dtype=torch.float64) + 0.5
    mask = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    goal = Untargeted(torch.zeros(N, dtype=torch.int64))
    found = Closest(Meter(VICTIM, N, access=Access.LABELS), x, goal, Ball(Norm.L2))
    grey = noise_named("grey")(found, streams, 50)
    assert grey.shape == (N, 50, 3, 8, 8)
    of_mean = grey.mean(dim=2, keepdim=True).expand_as(grey).square().sum() / grey.square().sum()
    assert 0.85 < float(of_mean) < 0.92  # 1 / (1 + 2 / 16)
    low = noise_named("dct:2")(found, streams, 5).flatten(3)
    assert int(torch.linalg.matrix_rank(low[:, :, 0].reshape(-1, 64))) == 4
    masked = Closest(Meter(VICTIM, N, access=Access.LABELS), x, goal, Ball(Norm.L2, mask=mask))
    for name in ("white", "grey", "dct:4"):
        u = unit_noise(masked, streams, noise_named(name), 2)
        assert not bool(u[..., 4:].any())
        torch.testing.assert_close(u.flatten(2).norm(dim=2), torch.ones(N, 2, dtype=torch.float64))
    for name in ("gray", "dct", "dct:x"):
        with pytest.raises(HauberkError):
            noise_named(name)
