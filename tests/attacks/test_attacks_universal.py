"""One perturbation for many examples: what it fools, what it may cost, and that the judge decides."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk.attacks import universal
from hauberk.errors import AccessError, DataError, SettingError, ThreatError
from hauberk.testing import LinearVictim
from hauberk.threat import Norm

METHODS = ["gradient", "deepfool"]


def one_sided(n: int = 40) -> tuple[LinearVictim, Tensor, Tensor]:
    """Two classes that differ along (1, -1, 1, -1, ...); every example is of class 0, .02 to .3 (L-inf) from the boundary."""
    direction = torch.tensor([1.0, -1.0] * 6, dtype=torch.float64)
    victim = LinearVictim(torch.stack((-direction, direction)))
    rows = torch.arange(n)
    noise = Streams(0, rows, "universal").uniform(rows, (12,), dtype=torch.float64) * 0.1
    noise = noise - (noise @ direction)[:, None] * direction / 12
    x = 0.45 + noise - (0.02 + 0.28 * rows / n)[:, None].to(noise) * direction
    return victim, x, torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2], ids=str)
def test_where_all_examples_need_the_same_change_it_is_that_change(method: str, norm: Norm) -> None:
    victim, x, y = one_sided()
    radius = {Norm.LINF: 0.31, Norm.L2: 0.31 * 12**0.5}[norm]
    found = universal(victim, x, y, f"{norm}:{radius}", method=method, delta=0)
    assert found.fooling_rate == 1.0
    assert bool(found.broken.all())
    assert float(norm.size(found.perturbation[None])) <= radius * (1 + 1e-9)
    direction = victim.weights[1]
    cosine = found.perturbation @ direction / found.perturbation.norm() / direction.norm()
    assert float(cosine) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_radius_fools_exactly_the_examples_within_its_reach(method: str) -> None:
    victim, x, y = one_sided()
    optimal = victim.optimal_distance(x, y, Norm.LINF)
    found = universal(victim, x, y, "linf:0.15", method=method, delta=0)
    assert torch.equal(found.broken, optimal < 0.15)
    assert found.fooling_rate == pytest.approx(float((optimal < 0.15).double().mean()))
    assert repr(found).startswith("UniversalResult(linf:0.15: fooling rate ")


def test_it_stops_after_the_pass_that_fools_enough() -> None:
    victim, x, y = one_sided()
    assert universal(victim, x, y, "linf:0.31", method="deepfool", delta=0.2, passes=7).passes == 1
    assert universal(victim, x, y, "linf:0.1", method="deepfool", delta=0.2, passes=3).passes == 3


def test_a_gradient_pass_costs_a_backward_and_a_measuring_forward_an_example() -> None:
    victim, x, y = one_sided()
    found = universal(victim, x, y, "linf:0.1", passes=3, batch_size=16)
    assert found.forwards.tolist() == [1 + 3 * 2] * 40
    assert found.backwards.tolist() == [3] * 40


def test_examples_whose_loss_is_past_the_cap_no_longer_count() -> None:
    # the first example falls with little and its gradient is 30 times that of the others, which need the other coordinate
    weights = torch.tensor([[0.0, 0.0], [30.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    victim = LinearVictim(weights, torch.tensor([0.0, -15.3, -0.7], dtype=torch.float64))
    x = torch.tensor([[0.5, 0.5]] + [[0.0, 0.5]] * 3, dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.int64)
    assert universal(victim, x, y, "l2:0.21", cap=1e9).fooling_rate == 0.25
    assert universal(victim, x, y, "l2:0.21", cap=2.0).fooling_rate >= 0.75


def test_the_same_seed_repeats_it_and_another_order_need_not() -> None:
    victim = LinearVictim.random(0, 20, 4)
    x = Streams(1, torch.arange(60), "universal").uniform(torch.arange(60), (20,), dtype=torch.float64)
    y = victim.labels(x, torch.arange(60))
    for method in METHODS:
        one, two, three = (
            universal(victim, x, y, "l2:0.5", method=method, passes=1, batch_size=16, seed=s) for s in (3, 3, 4)
        )
        assert torch.equal(one.perturbation, two.perturbation)
        assert not torch.equal(one.perturbation, three.perturbation)
        # what it broke is what the victim says of the clipped points
        labels = victim.labels(one.apply(x), torch.arange(60))
        assert torch.equal(one.broken, labels != y)
        assert torch.equal(one.broken_on(victim, x[:7], y[:7]), one.broken[:7])


@pytest.mark.parametrize("method", METHODS)
def test_towards_one_class_it_counts_that_class_alone(method: str) -> None:
    victim = LinearVictim.random(2, 20, 4)
    rows = torch.arange(50)
    x = Streams(1, rows, "universal").uniform(rows, (20,), dtype=torch.float64)
    y = victim.labels(x, rows)
    found = universal(victim, x, y, "linf:0.3@target=2", method=method, delta=0)
    labels = victim.labels(found.apply(x), rows)
    assert torch.equal(found.broken, labels == 2)
    assert found.fooling_rate == float((labels == 2).double().mean())
    assert found.fooling_rate > 0.9


def test_on_a_grid_its_points_can_be_saved_and_loaded() -> None:
    victim, x, y = one_sided()
    x = (x * 255).round() / 255
    found = universal(victim, x, y, "linf:20.5/255@grid255")
    steps = found.perturbation * 255
    assert float((steps - steps.round()).abs().max()) < 1e-9
    assert float(steps.abs().max()) == pytest.approx(20)
    assert bool(found.broken.any())


def test_apply_takes_arrays_and_keeps_to_the_box() -> None:
    victim, x, y = one_sided()
    found = universal(victim, x, y, "linf:0.31")
    edge = np.zeros((3, 12), dtype=np.float32)
    assert found.apply(edge).min() == 0
    with pytest.raises(SettingError, match=r"shape \(n, 12\)"):
        found.apply(np.zeros((3, 11)))


def test_what_it_cannot_do_is_refused() -> None:
    victim, x, y = one_sided()
    for threat in ("l1:3", "linf", "linf:0.1,0.2", "linf:0.1@least-likely", "linf:0.1@target=2"):
        with pytest.raises(ThreatError):
            universal(victim, x, y, threat)
    with pytest.raises(AccessError):
        universal(victim, x, y, "linf:0.1@scores")
    for wrong in ({"method": "magic"}, {"delta": 1}, {"cap": 0}, {"step_size": -1.0}, {"passes": 0}):
        with pytest.raises(SettingError):
            universal(victim, x, y, "linf:0.1", **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one example"):
        universal(victim, x[:0], y[:0], "linf:0.1")
