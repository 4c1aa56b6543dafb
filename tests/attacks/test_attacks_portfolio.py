"""The smallest of several attacks' changes, who found it, and the robust accuracy at every radius."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import hauberk as hb
from hauberk.attacks import DDN, FGSM, FMN, PDPGD, BoundarySlide, SigmaZero, SmallestResult, SparseSwap
from hauberk.errors import SettingError, ThreatError
from hauberk.testing import LinearVictim, linear_settings
from hauberk.threat import Ball, Norm, Targeted


def classes() -> tuple[LinearVictim, Tensor, Tensor]:
    """Five linear classes, the first example given a wrong label."""
    victim, setting = linear_settings()["classes"]
    y = setting.y.clone()
    y[0] = (y[0] + 1) % 5
    return victim, setting.x, y


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_smallest_is_the_smallest_of_the_plan_and_names_who_found_it(norm: str) -> None:
    victim, x, y = classes()
    other = SigmaZero(steps=20) if norm == "l0" else BoundarySlide(rivals=2, steps=15)
    plan = (FMN(steps=20), other)
    runs = [hb.attacks.run_attack(attack, victim, x, y, norm) for attack in plan]
    both = hb.attacks.smallest(victim, x, y, norm, attacks=plan)
    sizes = torch.stack([torch.where(run.broken, run.sizes, torch.inf) for run in runs])
    assert torch.equal(both.sizes[both.broken], sizes.amin(dim=0)[both.broken])
    assert torch.equal(both.broken, sizes.isfinite().any(dim=0))
    names = [type(attack).__module__.rsplit(".", 1)[-1] for attack in plan]
    for row, name in enumerate(both.found_by):
        chosen = int(sizes[:, row].argmin())
        assert name == (names[chosen] if both.broken[row] else "")
    assert torch.equal(both.queries[1:], runs[0].queries[1:] + runs[1].queries[1:])


def test_the_default_plan_comes_near_the_optimum_in_every_norm() -> None:
    victim, x, y = classes()
    for norm in Norm:
        found = hb.attacks.smallest(victim, x, y, str(norm))
        optimal = victim.optimal_distance(x, y, norm)
        assert bool(found.broken.all()), norm
        assert bool((found.sizes >= optimal - 1e-12).all()), norm
        assert bool((found.sizes <= 1.002 * optimal + 1e-12).all()), norm
        assert float(found.sizes[0]) == 0.0  # misclassified from the start


def test_the_curve_is_the_share_that_no_change_of_this_size_breaks() -> None:
    victim, x, y = classes()
    found = hb.attacks.smallest(victim, x, y, "l2")
    sizes = found.sizes.sort().values
    curve = found.curve([0.0, float(sizes[5]), float(sizes[5]) * (1 - 1e-4), 1e9])
    assert curve.tolist() == [23 / 24, 18 / 24, 19 / 24, 0.0]
    exact = victim.optimal_distance(x, y, Norm.L2)
    radii = torch.linspace(0, 1, 30)
    assert bool((found.curve(radii) >= (exact[None] > radii[:, None]).double().mean(dim=1) - 1e-12).all())


def test_with_a_radius_only_what_is_left_is_attacked_again() -> None:
    victim, x, y = classes()
    one = hb.attacks.run_attack(FMN(steps=10), victim, x, y, "l2:0.3")
    both = hb.attacks.smallest(victim, x, y, "l2:0.3", attacks=(FMN(steps=10), BoundarySlide()))
    assert 0 < int(one.broken.sum()) < 24
    assert torch.equal(both.queries[one.broken], one.queries[one.broken])
    assert bool((both.queries[~one.broken] > one.queries[~one.broken]).all())
    assert torch.equal(both.adversarials[one.broken], one.adversarials[one.broken])


def test_goals_masks_and_ids_go_with_their_examples() -> None:
    victim, x, y = classes()
    targets = (y + 2) % 5
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, :, :, 0] = False
    options = {"goal": Targeted(targets), "mask": mask, "ids": torch.arange(24) + 7}
    found = hb.attacks.smallest(victim, x, y, "l2", **options)
    assert torch.equal(found.labels[found.broken], targets[found.broken])
    assert torch.equal(found.adversarials[:, :, :, 0], x[:, :, :, 0])
    alone = hb.attacks.smallest(victim, x[5:6], y[5:6], "l2", goal=Targeted(targets[5:6]), mask=mask[:1], ids=[12])
    assert torch.allclose(alone.adversarials[0], found.adversarials[5], atol=1e-9)


def test_a_plan_that_cannot_work_is_refused() -> None:
    victim, x, y = classes()
    with pytest.raises(SettingError, match="smallest change"):
        hb.attacks.smallest(victim, x, y, "l2", attacks=(FGSM(),))
    with pytest.raises(SettingError, match="at least one"):
        hb.attacks.smallest(victim, x, y, "l2", attacks=())
    with pytest.raises(ThreatError, match="no radii"):
        hb.attacks.smallest(victim, x, y, "l2:0.1,0.2")
    with pytest.raises(ThreatError, match="works in"):
        hb.attacks.smallest(victim, x, y, "l1", attacks=(DDN(),))


@pytest.mark.parametrize("budget", [1, 25, 90])
@pytest.mark.parametrize("norm", ["l2", "l0"])
def test_a_budget_is_never_passed_and_what_an_example_gets_does_not_depend_on_the_others(
    norm: str, budget: int
) -> None:
    victim, x, y = classes()
    plan = (
        (SparseSwap(rivals=1, far=0), SparseSwap()) if norm == "l0" else (BoundarySlide(rivals=1, far=0), DDN(steps=60))
    )
    together = hb.attacks.smallest(victim, x, y, norm, attacks=plan, max_queries=budget)
    assert int(together.queries.max()) == budget
    assert torch.equal(together.queries, together.forwards)
    assert bool((together.backwards <= together.queries).all())
    for row in (0, 3, 11, 17):
        one = slice(row, row + 1)
        alone = hb.attacks.smallest(victim, x[one], y[one], norm, attacks=plan, max_queries=budget, ids=[row])
        assert int(alone.queries) == int(together.queries[row])
        assert torch.allclose(alone.adversarials[0], together.adversarials[row], atol=1e-9)
        assert alone.found_by[0] == together.found_by[row]


def test_a_later_attack_spends_what_the_earlier_ones_left_of_the_budget() -> None:
    victim, x, y = classes()
    first = hb.attacks.run_attack(FMN(steps=10), victim, x, y, "l2")
    both = hb.attacks.smallest(victim, x, y, "l2", attacks=(FMN(steps=10), DDN(steps=1000)), max_queries=40)
    assert int(first.queries.max()) == 11
    assert both.queries[1:].tolist() == [40] * 23
    assert int(both.queries[0]) == 1  # misclassified from the start


def test_a_budget_of_no_query_is_refused() -> None:
    victim, x, y = classes()
    with pytest.raises(SettingError, match="at least one query"):
        hb.attacks.smallest(victim, x, y, "l2", max_queries=0)


def test_the_curve_forgives_what_the_ball_forgives_and_no_more() -> None:
    for width in (1.0, 1e4):
        ball = Ball(Norm.L2, box=(0.0, width))
        sizes = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
        none = torch.zeros(3, dtype=torch.int64)
        found = SmallestResult(
            torch.zeros(3, 1), torch.tensor([True, True, False]), sizes, none, (), none, none, none, ball
        )
        point = torch.tensor([[0.5]], dtype=torch.float64)
        for radius in (0.5, 0.5 - 4e-6, 0.5 - 6e-6, 0.499, 0.49):
            inside = bool(Ball(Norm.L2, radius, box=(0.0, width)).contains(point, torch.zeros_like(point)))
            assert found.curve([radius]).tolist() == [1 / 3 if inside else 1.0], radius
    stored = replace(found, ball=Ball(Norm.L2, grid=16))
    assert stored.curve([0.0, 0.01]).tolist() == [1.0, 1.0]  # radii below a step of the grid


def test_a_search_goes_on_from_the_starts_it_is_given() -> None:
    victim, x, y = classes()
    cheap = SparseSwap(steps=1, rivals=1, far=0, kicks=0)
    far = hb.attacks.sparse_swap(victim, x, y, "l0")
    alone = hb.attacks.run_attack(cheap, victim, x, y, "l0")
    further = hb.attacks.run_attack(cheap, victim, x, y, "l0", starts=far.adversarials)
    assert bool((~alone.broken[1:]).any())
    assert bool(further.broken.all())
    assert bool((further.sizes <= far.sizes).all())


def test_the_portfolio_hands_on_what_the_first_attack_found() -> None:
    victim, x, y = classes()
    plan = (PDPGD(steps=60), SparseSwap(rivals=1, far=0, kicks=0, steps=3))
    first = hb.attacks.run_attack(plan[0], victim, x, y, "l0")
    by_hand = hb.attacks.run_attack(plan[1], victim, x, y, "l0", starts=first.adversarials)
    both = hb.attacks.smallest(victim, x, y, "l0", attacks=plan)
    assert torch.equal(both.sizes, torch.minimum(first.sizes, by_hand.sizes))
    assert bool((by_hand.sizes < first.sizes).any())


def test_starts_that_cannot_be_are_refused() -> None:
    victim, x, y = classes()
    with pytest.raises(SettingError, match="ddn begins at the examples only, got starts"):
        hb.attacks.ddn(victim, x, y, "l2", starts=x)
    with pytest.raises(SettingError, match="expected starts of shape"):
        hb.attacks.sparse_swap(victim, x, y, "l0", starts=x[:2])
    with pytest.raises(SettingError, match="finite"):
        hb.attacks.sparse_swap(victim, x, y, "l0", starts=torch.full_like(x, torch.nan))
