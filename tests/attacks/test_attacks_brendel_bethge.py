"""The Brendel-Bethge attack: on linear victims it ends at the optimum, on curved ones it walks on from where it crossed."""

import importlib
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hauberk as hb
from hauberk.attacks import BrendelBethge, run_attack
from hauberk.blocks.boundary_step import boundary_step
from hauberk.errors import SettingError
from hauberk.testing import linear_settings
from hauberk.threat import Norm

NORMS = sorted(Norm, key=str)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_it_ends_at_the_optimum_of_a_linear_victim(norm: Norm) -> None:
    victim, setting = linear_settings()["pictures"]
    found = run_attack(BrendelBethge(steps=30), victim, setting.x, setting.y, str(norm))
    optimal = victim.optimal_distance(setting.x, setting.y, norm)
    assert bool(found.broken.all())
    if norm is Norm.L0:
        assert float((found.sizes - optimal).max()) <= 1
    else:
        assert float((found.sizes / optimal).max()) < 1.0001


class Bowl(nn.Module):
    """Class 1 outside a circle around a point that is not the example: the gradient at the example misses the nearest place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        away = (
            ((x - torch.tensor([0.6, 0.5], dtype=x.dtype)) * torch.tensor([1.0, 1.6], dtype=x.dtype))
            .square()
            .sum(dim=1)
        )
        return torch.stack((torch.full_like(away, 0.09), away), dim=1)


def test_it_walks_along_a_curved_boundary_to_the_nearest_point() -> None:
    x = torch.tensor([[0.7, 0.55], [0.5, 0.4], [0.75, 0.53]], dtype=torch.float64)
    angle = torch.linspace(0, 2 * torch.pi, 200_001, dtype=torch.float64)
    rim = torch.stack((0.6 + 0.3 * angle.cos(), 0.5 + 0.3 / 1.6 * angle.sin()), dim=1)
    optimal = (rim[None] - x[:, None]).norm(dim=2).amin(dim=1)
    victim = hb.wrap(Bowl(), bounds=(0, 1))
    y = torch.zeros(3, dtype=torch.int64)
    started = run_attack(BrendelBethge(steps=1, restarts=1), victim, x, y, "l2").sizes
    walked = run_attack(BrendelBethge(steps=60, restarts=1), victim, x, y, "l2").sizes
    assert float((walked / optimal).max()) < 1.001
    assert float((walked / optimal).min()) > 1 - 1e-6
    assert float((started / walked).max()) > 1.03


def test_restarts_from_noise_never_lose_and_cost_their_share() -> None:
    victim, setting = linear_settings()["classes"]
    one, three = (
        run_attack(BrendelBethge(steps=15, restarts=restarts), victim, setting.x, setting.y, "l2", seed=1)
        for restarts in (1, 3)
    )
    assert bool((three.sizes <= one.sizes).all())
    assert bool((three.sizes < one.sizes * 0.99).any())
    assert int(one.forwards.max()) <= 15 + 31
    assert int(three.forwards.max()) <= 3 * (15 + 31)


@pytest.mark.parametrize(("steps", "decays"), [(20, 10), (10, 3), (7, 0), (5, 5)], ids=str)
def test_the_radius_is_halved_as_often_as_decays_says(monkeypatch: pytest.MonkeyPatch, steps: int, decays: int) -> None:
    radii = []

    def spied(*args: Any) -> Tensor:
        radii.append(float(args[5][0]))
        return boundary_step(*args)

    monkeypatch.setattr(importlib.import_module("hauberk.attacks.brendel_bethge"), "boundary_step", spied)
    victim, x = hb.wrap(Bowl(), bounds=(0, 1)), torch.tensor([[0.7, 0.55]], dtype=torch.float64)
    attack = BrendelBethge(steps=steps, decays=decays, restarts=1)
    run_attack(attack, victim, x, torch.zeros(1, dtype=torch.int64), "l2")
    assert len(radii) == steps
    halvings = [round(math.log2(before / after)) for before, after in pairwise(radii)]
    assert sum(halvings) == min(decays, steps - 1)
    assert max(halvings) <= 1


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"overshoot": 0.9}, {"overshoot": 2}, {"lr": 0}], ids=str)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        BrendelBethge(**wrong)  # type: ignore[arg-type]
