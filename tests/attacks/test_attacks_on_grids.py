"""On a coarse grid, where points are rounded back towards the example, attacks for the smallest change still cross."""

import pytest
import torch
from torch import Tensor

import hauberk as hb
from hauberk.attacks import (
    ALMA,
    DDN,
    EAD,
    FAB,
    FMN,
    LBFGS,
    PDPGD,
    Attack,
    BrendelBethge,
    CarliniWagner,
    DeepFool,
    SigmaZero,
    SuperDeepFool,
    TrustRegion,
    run_attack,
)
from hauberk.data import load
from hauberk.threat import Norm

COUNT = 100
ATTACKS: list[Attack] = [
    DeepFool(),
    DeepFool(approach=1),
    SuperDeepFool(),
    TrustRegion(),
    FAB(steps=40),
    FAB(steps=40, targets=3),
    LBFGS(),
    DDN(steps=100),
    FMN(steps=100),
    ALMA(steps=100),
    PDPGD(steps=200),
    CarliniWagner(steps=60),
    EAD(steps=60),
    BrendelBethge(steps=40, restarts=1),
    SigmaZero(steps=100),
]


@pytest.fixture(scope="module")
def digits() -> tuple[object, Tensor, Tensor]:
    chunk = next(iter(load("digits", n=COUNT).chunks(COUNT)))  # pixels of 17 values, on the grid of 16 steps
    return hb.zoo.load("digits-mlp"), chunk.x, chunk.y


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        pytest.param(attack, norm, id=f"{place}-{type(attack).__name__}-{norm}")
        for place, attack in enumerate(ATTACKS)
        for norm in sorted(attack.norms, key=str)
    ],
)
def test_a_coarse_grid_costs_no_success(attack: Attack, norm: Norm, digits: tuple[object, Tensor, Tensor]) -> None:
    victim, x, y = digits
    free, stored = (run_attack(attack, victim, x, y, f"{norm}{grid}") for grid in ("", "@grid16"))
    assert bool(free.broken.all())
    assert bool(stored.broken.all())
    wrong = free.sizes == 0
    step = {Norm.L0: 0.5, Norm.LINF: 1 / 16, Norm.L1: 1 / 16, Norm.L2: 1 / 32}[norm]
    assert float(stored.sizes[~wrong].median()) <= 1.03 * float(free.sizes[~wrong].median()) + step
    assert torch.allclose(stored.adversarials * 16, (stored.adversarials * 16).round(), atol=1e-4)


@pytest.mark.parametrize("attack", [DeepFool(), TrustRegion(), FAB(steps=40)], ids=lambda attack: type(attack).__name__)
def test_the_grid_of_eight_bits_costs_next_to_nothing_in_the_largest_change(
    attack: Attack, digits: tuple[object, Tensor, Tensor]
) -> None:
    victim, x, y = digits
    x = (x * 255).round() / 255
    free, stored = (run_attack(attack, victim, x, y, f"linf{grid}") for grid in ("", "@grid255"))
    assert bool(stored.broken.all())
    assert float((stored.sizes - free.sizes).median()) <= 1 / 255
