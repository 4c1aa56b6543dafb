"""The smallest success of each example is kept, on the grid, inside box and mask, and rows leave when there is no more to do."""

import math

import pytest
import torch

from hauberk._rng import Streams
from hauberk.blocks import Closest, loss_named
from hauberk.blocks.judge import judge
from hauberk.testing import LinearVictim, linear_settings
from hauberk.threat import Access, Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter


def victim_and_examples() -> tuple[LinearVictim, torch.Tensor, torch.Tensor]:
    victim, setting = linear_settings()["vectors"]
    return victim, setting.x, setting.y


def beyond(victim: LinearVictim, x: torch.Tensor, y: torch.Tensor, factor: float) -> torch.Tensor:
    """Points at `factor` times the L2 distance to the boundary, box or no box."""
    w = victim.weights[1 - y] - victim.weights[y]
    gap = victim.logits(x, torch.arange(len(x)))
    gap = (gap.gather(1, y[:, None]) - gap.gather(1, 1 - y[:, None])).squeeze(1)
    return x + (factor * gap / w.square().sum(dim=1))[:, None] * w


def test_the_smallest_of_the_successes_is_kept_and_failures_leave_it() -> None:
    victim, x, y = victim_and_examples()
    found = Closest(victim, x, Untargeted(y), Ball(Norm.L2, box=(-9.0, 9.0)))
    sizes = []
    for factor in (3.0, 0.5, 1.5, 2.0):
        found.ask(beyond(victim, x, y, factor))
        sizes.append(found.size.clone())
    optimal = (beyond(victim, x, y, 1.0) - x).norm(dim=1)
    assert torch.allclose(sizes[0], 3 * optimal)
    assert torch.equal(sizes[0], sizes[1])
    assert torch.allclose(sizes[2], 1.5 * optimal)
    assert torch.equal(sizes[2], sizes[3])
    assert torch.allclose(found.best, beyond(victim, x, y, 1.5))


def test_without_a_success_the_allowed_point_of_the_largest_margin_is_proposed() -> None:
    victim, x, y = victim_and_examples()
    found = Closest(victim, x, Untargeted(y), Ball(Norm.L2, box=(-9.0, 9.0)))
    for factor in (0.2, 0.6, 0.4):
        found.ask(beyond(victim, x, y, factor))
    assert found.size.isinf().all()
    assert torch.allclose(found.best, beyond(victim, x, y, 0.6))


def test_with_a_radius_an_example_leaves_at_its_first_point_inside_and_a_larger_change_counts_for_nothing() -> None:
    victim, x, y = victim_and_examples()
    optimal = (beyond(victim, x, y, 1.0) - x).norm(dim=1)
    found = Closest(victim, x, Untargeted(y), Ball(Norm.L2, optimal * 1.2, box=(-9.0, 9.0)))
    found.ask(beyond(victim, x, y, 1.5))
    found.compact()
    assert len(found) == len(x)
    assert found.size.isinf().all()
    assert torch.equal(found.best, x)
    found.ask(beyond(victim, x, y, 1.1))
    found.compact()
    assert len(found) == 0
    assert torch.allclose(found.size, 1.1 * optimal)


def test_an_example_that_is_misclassified_is_its_own_smallest_change() -> None:
    victim, x, y = victim_and_examples()
    found = Closest(victim, x, Untargeted(1 - y), Ball(Norm.LINF))
    found.ask(x)
    found.compact()
    assert len(found) == 0
    assert (found.size == 0).all()
    assert torch.equal(found.best, x)


def test_bisection_comes_near_the_boundary_and_costs_a_query_a_step() -> None:
    victim, x, y = victim_and_examples()
    meter = Meter(victim, len(x))
    found = Closest(meter, x, Untargeted(y), Ball(Norm.L2, box=(-9.0, 9.0)))
    found.ask(beyond(victim, x, y, 2.0))
    found.tighten(12)
    optimal = (beyond(victim, x, y, 1.0) - x).norm(dim=1)
    assert (meter.queries == 13).all()
    assert ((found.size / optimal - 1) < 2 / 2**12 + 1e-9).all()
    assert (found.size >= optimal * (1 - 1e-12)).all()


def test_bisection_leaves_examples_without_a_success_alone() -> None:
    victim, x, y = victim_and_examples()
    meter = Meter(victim, len(x))
    found = Closest(meter, x, Untargeted(y), Ball(Norm.L2, box=(-9.0, 9.0)))
    found.ask(beyond(victim, x, y, 0.5))
    found.tighten(5)
    assert (meter.queries == 1).all()


def test_gradients_are_zero_where_the_mask_forbids_a_change() -> None:
    victim, x, y = victim_and_examples()
    mask = (torch.arange(x.shape[1]) % 2 == 0)[None]
    found = Closest(victim, x, Untargeted(y), Ball(Norm.L2, mask=mask))
    _, gradient = found.climb(x, loss_named("margin"))
    w = victim.weights[1 - y] - victim.weights[y]
    assert torch.allclose(gradient, w * mask)
    assert torch.equal(found.inside(x + 5.0)[:, ~mask[0]], x[:, ~mask[0]])


def test_points_are_asked_on_the_grid_and_a_budget_ends_the_work() -> None:
    victim, x, y = victim_and_examples()
    x = (x * 255).round() / 255
    y = victim.labels(x, torch.arange(len(x)))
    meter = Meter(victim, len(x), budget=2)
    found = Closest(meter, x, Untargeted(y), Ball(Norm.LINF, grid=255))
    target = 1 - y
    for _ in range(2):
        found.ask(found.inside(x + 0.9 * (victim.weights[target] - victim.weights[y]).sign()))
    found.compact()
    assert len(found) == 0
    assert torch.allclose(found.best * 255, (found.best * 255).round())


def test_a_margin_within_the_rounding_of_the_scores_seen_so_far_is_no_success() -> None:
    class Close(LinearVictim):  # type: ignore[misc]  # final for users
        def logits(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[10.0, 0.0 if bool((x == 0.5).all()) else 10.00001]]).repeat(len(x), 1)

    weights = torch.ones(2, 3)
    x = torch.full((1, 3), 0.5)
    found = Closest(Close(weights), x, Untargeted(torch.tensor([0])), Ball(Norm.L2))
    found.ask(x)
    assert float(found.ask(x + 0.1)) > 0
    assert math.isinf(float(found.size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("classes", [2, 10])
def test_a_success_next_to_the_boundary_survives_another_batch_size(dtype: torch.dtype, classes: int) -> None:
    # BLAS sums one row in another order than many: without a slack some points on the boundary would fall back
    rows = torch.arange(64)
    for seed, features in ((0, 12), (1, 784)):
        random = LinearVictim.random(seed, features, classes)
        victim = LinearVictim(random.weights.to(dtype), random.bias.to(dtype))
        x = Streams(seed, rows, "alone").uniform(rows, (features,), dtype=dtype)
        goal = Untargeted(victim.labels(x, rows))
        found = Closest(victim, x, goal, Ball(Norm.L2))
        for other in range(8):
            found.ask(x[(rows + 1 + other) % 64])
        found.tighten(80)  # to the last bit
        broken = found.size.isfinite().nonzero().flatten()
        assert len(broken) > 20
        for row in broken.tolist():
            one = slice(row, row + 1)
            assert bool(judge(victim, found.best[one], x[one], goal.take(rows[one]), Ball(Norm.L2), rows[:1]).broken)


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_a_number_added_to_all_scores_changes_the_smallest_success_by_its_own_rounding_only(shift: float) -> None:
    rows = torch.arange(24)
    random = LinearVictim.random(0, 12, 5)
    sizes = []
    for added in (0.0, shift):
        victim = LinearVictim((random.weights * 10).float(), (random.bias * 10 + added).float())
        x = Streams(0, rows, "shifted").uniform(rows, (12,), dtype=torch.float32)
        found = Closest(victim, x, Untargeted(random.labels(x.double(), rows)), Ball(Norm.L2))
        for other in range(8):
            found.ask(x[(rows + 1 + other) % 24])
        found.tighten(24)
        sizes.append(found.size)
    assert bool(sizes[0].isfinite().all())
    gap = (sizes[1] - sizes[0]).abs()
    # the scores of a shift of 1e4 lie 2**-10 apart, and move by about 10 for each unit of the change
    assert float(gap.max()) < 2e-3


def test_labels_alone_will_do() -> None:
    victim, x, y = victim_and_examples()
    meter = Meter(victim, len(x), access=Access.LABELS)
    found = Closest(meter, x, Targeted(1 - y), Ball(Norm.L2, box=(-9.0, 9.0)))
    assert (found.ask(beyond(victim, x, y, 1.5)) == 1).all()
    assert found.size.isfinite().all()
