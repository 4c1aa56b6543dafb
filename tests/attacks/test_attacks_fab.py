"""FAB: its first step, its final search and its costs on linear victims, where all three are known."""

from dataclasses import replace

import pytest
import torch

from hauberk._rng import Streams
from hauberk.attacks import FAB, run_attack
from hauberk.errors import SettingError
from hauberk.testing import LinearVictim, breaks_at, linear_settings
from hauberk.threat import Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter

NORMS = sorted(FAB.norms, key=str)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_first_step_goes_eta_times_the_way_to_the_boundary(norm: Norm) -> None:
    victim, setting = linear_settings()["pictures"]
    wide = LinearVictim(victim.weights, victim.bias, bounds=(-50, 50))  # at its walls a change stops short of eta
    setting = replace(setting, victim=wide)
    one = FAB(steps=1, eta=1.1)
    assert breaks_at(one, wide, setting, norm, 1.09) == []
    assert breaks_at(one, wide, setting, norm, 1.11) == list(range(24))


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_final_search_finds_the_boundary_of_a_linear_victim(norm: Norm) -> None:
    victim, setting = linear_settings()["vectors"]
    found = run_attack(FAB(steps=1), victim, setting.x, setting.y, str(norm))
    optimal = victim.optimal_distance(setting.x, setting.y, norm)
    ratio = found.sizes / optimal
    assert bool(found.broken.all())
    assert float(ratio.min()) >= 1 - 1e-9
    assert float(ratio.max()) < 1.001  # from 1.05 after the step


def test_it_costs_one_forward_and_few_backwards_a_step() -> None:
    victim, setting = linear_settings()["classes"]
    n = len(setting)
    goal, ball = Untargeted(setting.y), Ball(Norm.L2, 1e-6)
    for attack, forwards, backwards in (
        (FAB(steps=7, refined=3), 8, 4 + 6 * 3),
        (FAB(steps=7, candidates=3), 8, 2 + 6 * 2),
        (FAB(steps=7, targets=3, restarts=2), 1 + 6 * 8, 6 * 7),
    ):
        meter = Meter(victim, n)
        attack(meter, setting.x, goal, ball, streams=Streams(0, setting.ids))
        assert meter.forwards.tolist() == [forwards] * n
        assert meter.backwards.tolist() == [backwards] * n


def test_runs_towards_each_target_find_the_nearest_class_where_one_rival_misses_it() -> None:
    victim, setting = linear_settings()["classes"]
    optimal = victim.optimal_distance(setting.x, setting.y, Norm.L1)

    def ratios(attack: FAB) -> torch.Tensor:
        return run_attack(attack, victim, setting.x, setting.y, "l1").sizes / optimal

    assert float(ratios(FAB(steps=10, targets=4)).max()) < 1.01
    assert float(ratios(FAB(steps=10, candidates=2)).max()) > 1.1


def test_restarts_draw_anew_and_never_lose() -> None:
    victim, setting = linear_settings()["classes"]
    sizes = [
        run_attack(FAB(steps=3, candidates=2, restarts=restarts), victim, setting.x, setting.y, "l1", seed=3).sizes
        for restarts in (1, 4)
    ]
    assert bool((sizes[1] <= sizes[0]).all())
    assert bool((sizes[1] < sizes[0] * 0.999).any())


def test_targets_of_its_own_need_an_untargeted_goal() -> None:
    victim, setting = linear_settings()["classes"]
    goal = Targeted((setting.y + 1) % 5)
    with pytest.raises(SettingError, match="use targets=0"):
        run_attack(FAB(targets=2), victim, setting.x, setting.y, "l2", goal=goal)
    found = run_attack(FAB(steps=30), victim, setting.x, setting.y, "l2", goal=goal)
    assert bool((found.labels == goal.classes)[found.broken].all())
    assert bool(found.broken.any())


@pytest.mark.parametrize("wrong", [{"alpha_max": 1.5}, {"beta": 2}, {"candidates": 1}, {"steps": 0}], ids=str)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        FAB(**wrong)  # type: ignore[arg-type]
