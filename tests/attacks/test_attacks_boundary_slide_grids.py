"""On a grid the slide walks beside it and asks its points: nothing is lost of the success, and little of the size."""

import pytest
import torch
from torch import Tensor

import hauberk as hb
from hauberk._rng import Streams
from hauberk.attacks import DDN, FMN, Attack, BoundarySlide, run_attack
from hauberk.data import load
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter

COUNT = 200


@pytest.fixture(scope="module")
def digits() -> tuple[object, Tensor, Tensor]:
    chunk = next(iter(load("digits", n=COUNT).chunks(COUNT)))  # pixels of 17 values, on the grid of 16 steps
    return hb.zoo.load("digits-mlp"), chunk.x, chunk.y


@pytest.mark.parametrize(
    ("threat", "rival"),
    [
        ("l2@grid16", DDN(steps=100)),
        ("l2@grid16", FMN(steps=100)),
        ("l2@grid48", DDN(steps=100)),
        ("linf@grid16", FMN(steps=100)),
        ("linf@grid240", FMN(steps=100)),
        ("l1@grid16", FMN(steps=100)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_on_a_grid_the_slide_finds_no_larger_changes_than_a_rival(
    threat: str, rival: Attack, digits: tuple[object, Tensor, Tensor]
) -> None:
    victim, x, y = digits
    mine, other = (run_attack(attack, victim, x, y, threat) for attack in (BoundarySlide(), rival))
    assert bool(mine.broken.all())
    assert float(mine.sizes.median()) <= float(other.sizes.median()) * (1 + 1e-6)
    assert float(mine.sizes.mean()) <= float(other.sizes.mean())


def test_the_grid_of_eight_bits_costs_at_most_a_step(digits: tuple[object, Tensor, Tensor]) -> None:
    victim, x, y = digits
    x = (x * 255).round() / 255
    free, stored = (run_attack(BoundarySlide(), victim, x, y, f"linf{grid}") for grid in ("", "@grid255"))
    assert bool(stored.broken.all())
    assert float((stored.sizes - free.sizes).median()) <= 1 / 255
    assert torch.allclose(stored.adversarials * 255, (stored.adversarials * 255).round(), atol=1e-3)


@pytest.mark.parametrize("budget", [1, 4, 5, 6, 50])
def test_on_a_grid_no_budget_is_passed(budget: int, digits: tuple[object, Tensor, Tensor]) -> None:
    victim, x, y = digits
    meter = Meter(victim, COUNT, budget=budget)
    meter.queries[:] = torch.arange(COUNT) % budget  # some have less left
    streams = Streams(0, torch.arange(COUNT), "test")
    points = BoundarySlide()(meter, x, Untargeted(y), Ball(Norm.L2, grid=16), streams=streams)
    assert bool(Ball(Norm.L2, grid=16).contains(points, x).all())
    assert int(meter.queries.max()) == budget
