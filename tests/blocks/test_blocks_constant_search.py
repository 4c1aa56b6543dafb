"""The search for the weight of the goal: ten times larger, then halfway; each example by itself; standing still ends a run."""

import pytest
import torch
from torch import Tensor

from hauberk.attacks import EAD, Attack, CarliniWagner
from hauberk.blocks import Closest
from hauberk.blocks.constant_search import ConstantSearch, Run
from hauberk.testing import linear_settings
from hauberk.testing.setting import run
from hauberk.threat import Ball, Goal, Norm, Targeted, Untargeted
from hauberk.victims import Meter


def search_on(initial: float | None = None) -> ConstantSearch:
    victim, setting = linear_settings()["classes"]
    goal = Untargeted(setting.y)
    found = Closest(Meter(victim, len(setting)), setting.x, goal, Ball(Norm.L2))
    return ConstantSearch(found, goal, confidence=0.0, initial=initial)


def test_the_weight_grows_tenfold_until_it_wins_and_is_bisected_from_there() -> None:
    search, enough = search_on(initial=0.01), torch.linspace(0.02, 3, 24, dtype=torch.float64)
    tried: list[Tensor] = []

    def won(start: Tensor, towards: Goal) -> Tensor:
        tried.append(search.c)
        return search.c >= enough

    search.bisect(30, won)
    path = torch.stack(tried)
    first = (path >= enough).double().argmax(dim=0)
    for row in range(24):
        rising = [0.1 * 10**k for k in range(int(first[row]) + 1)]
        assert torch.allclose(path[: len(rising), row], torch.tensor(rising, dtype=torch.float64))
    assert torch.allclose(path[-1], enough, rtol=1e-4)


def test_the_runs_towards_rivals_go_to_as_many_as_are_asked_for_and_keep_the_best_weight() -> None:
    for count, runs in ((0, 1), (1, 1), (3, 3), (9, 4)):
        search = search_on()
        goals: list[Goal] = []

        def towards(start: Tensor, goal: Goal, search: ConstantSearch = search, goals: list[Goal] = goals) -> Tensor:
            goals.append(goal)
            search.near_size[::2] = float(len(goals))  # only the first run is ever the best
            return torch.zeros(24, dtype=torch.bool)

        search.towards_rivals(count, lambda distances, lengths: distances, towards)
        assert len(goals) == runs
        assert isinstance(goals[0], Untargeted) == (count == 0)


def test_an_example_leaves_a_run_when_its_objective_stands_still() -> None:
    search = search_on()
    falls = torch.arange(24) % 3 == 0
    one = Run(search, search.goal, steps=50)
    search.c = torch.zeros_like(search.c)
    cost = torch.full((24,), 100.0, dtype=torch.float64)
    for step in range(11):
        size = torch.zeros(len(search.found), dtype=torch.float64)
        one.step(search.found.x, size, torch.where(falls, cost - step, cost)[search.found.rows])
        one.compact()
    assert search.found.rows.tolist() == falls.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    "attacks",
    [
        [CarliniWagner(steps=30, binary_search_steps=1, rivals=rivals) for rivals in (0, 1, 5)],
        [EAD(steps=30, binary_search_steps=1, rivals=rivals) for rivals in (0, 1, 5)],
    ],
    ids=["carlini_wagner", "ead"],
)
def test_without_rivals_the_first_run_goes_by_the_margin(attacks: list[Attack]) -> None:
    setting = linear_settings()["classes"][1]  # the likeliest rival is not always the nearest
    ball = Ball(min(attacks[0].norms, key=lambda norm: norm is not Norm.L2))
    none, one, _ = (run(attack, setting, ball) for attack in attacks)
    assert bool(none.broken.all() & one.broken.all())
    assert bool((none.points != one.points).any())
    # a goal that names its class has no rivals to run towards
    targeted = [run(attack, setting, ball, goal=Targeted((setting.y + 1) % 5)).points for attack in attacks]
    assert torch.equal(targeted[0], targeted[1])
    assert torch.equal(targeted[0], targeted[2])
