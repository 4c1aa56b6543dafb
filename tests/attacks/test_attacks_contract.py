"""Every attack keeps the contract, and on linear victims, whose optimum is known, 1 <= found / optimal <= its bar."""

import inspect

import pytest
import torch

from hauberk import attacks
from hauberk.attacks import BIM, FGSM, PGD, Attack, AttackResult, AutoPGD, HoppingPGD, Noise, Square
from hauberk.testing import breaks_at, check_optimum, laws, linear_settings
from hauberk.testing.laws import Law
from hauberk.threat import Norm

# Cheap settings, for the laws run each a few hundred times.
CASES: dict[str, Attack] = {
    "fgsm": FGSM(),
    "fgsm from a random start": FGSM(loss="margin", start="uniform"),
    "bim": BIM(steps=5, loss="margin"),
    "pgd": PGD(steps=5, restarts=2),
    "pgd, every option": PGD(
        steps=5, restarts=2, loss="dlr", start="blocks", schedule="linear", momentum=0.5, early_stop=False
    ),
    "auto_pgd": AutoPGD(steps=10),
    "auto_pgd, targeted": AutoPGD(steps=8, loss="dlr", targets=2),
    "hopping_pgd": HoppingPGD(steps=4, restarts=5, candidates=2),
    "noise": Noise(tries=10),
    "square": Square(steps=12),
    "square, restarted": Square(steps=6, restarts=2, early_stop=False),
}

EXACT = 1 + 1e-6
# (attack, norm) -> largest found / optimal on linear victims of two classes, and of five, where the nearest rival at the
# example need not be the nearest one in the box, so that an attack that climbs towards one rival at a time does better.
# Noise and Square search at random: their bars speak of these 12 to 90 inputs, and would not hold for 3,072.
BARS: list[tuple[Attack, dict[Norm, tuple[float, float]]]] = [
    (
        FGSM(),
        {Norm.LINF: (EXACT, 1.4), Norm.L2: (EXACT, 1.4), Norm.L1: (EXACT, 1.75), Norm.L0: (EXACT, EXACT)},
    ),
    (
        FGSM(loss="margin"),
        {Norm.LINF: (EXACT, 1.3), Norm.L2: (EXACT, 1.3), Norm.L1: (EXACT, 1.4), Norm.L0: (EXACT, EXACT)},
    ),
    (
        BIM(steps=20, loss="margin"),
        {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.0001, 1.3), Norm.L1: (EXACT, 1.4), Norm.L0: (EXACT, EXACT)},
    ),
    (
        PGD(steps=40, loss="margin", start="clean", schedule="linear"),
        {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.0001, 1.3), Norm.L1: (EXACT, 1.4), Norm.L0: (EXACT, EXACT)},
    ),
    # steps of one length do not settle nearer than that to the optimum of a round or pointed ball
    (PGD(steps=40), {Norm.LINF: (EXACT, 1.4), Norm.L2: (1.05, 1.3), Norm.L1: (1.05, 1.75), Norm.L0: (EXACT, EXACT)}),
    (AutoPGD(steps=50), {Norm.LINF: (EXACT, 1.4), Norm.L2: (EXACT, 1.25), Norm.L1: (1.1, 2)}),
    (
        AutoPGD(steps=30, loss="dlr", targets=4),
        {Norm.LINF: (EXACT, EXACT), Norm.L2: (EXACT, EXACT), Norm.L1: (1.05, 1.2)},
    ),
    (HoppingPGD(restarts=4), {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.0001, 1.3)}),
    (Square(steps=200), {Norm.LINF: (1.3, 1.5), Norm.L2: (2.5, 2)}),
    (Noise(tries=50), {Norm.LINF: (5, 4), Norm.L2: (6, 4), Norm.L1: (15, 6), Norm.L0: (8, 3)}),
]


def exported() -> set[type]:
    found = {getattr(attacks, name) for name in attacks.__all__}
    return {kind for kind in found if inspect.isclass(kind)} - {Attack, AttackResult}


def test_every_exported_attack_has_a_row_in_both_tables() -> None:
    assert {type(attack) for attack in CASES.values()} == exported()
    assert {type(attack) for attack, _ in BARS} == exported()


@pytest.mark.parametrize("law", laws(), ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", CASES)
def test_an_attack_keeps_the_law(case: str, law: Law) -> None:
    law(CASES[case])


@pytest.mark.parametrize(
    ("attack", "norm", "bars"),
    [
        pytest.param(attack, norm, bars.get(norm), id=f"{attack}-{norm}")
        for attack, bars in BARS
        for norm in sorted(attack.norms, key=str)
    ],
)
def test_an_attack_finds_the_optimum_within_its_bar_and_never_less(
    attack: Attack, norm: Norm, bars: tuple[float, float] | None
) -> None:
    assert bars is not None, f"state a bar for {attack} in {norm}"
    check_optimum(attack, norm, bars)


def test_a_saturated_softmax_does_not_mislead_cross_entropy() -> None:
    # margins of 40 and more: p - 1 is 0 in float64 there, and the gradient of log softmax loses the true class
    victim, setting = linear_settings()["pictures"]
    sharp = type(victim)(victim.weights * 100, victim.bias * 100)
    optimal = sharp.optimal_distance(setting.x, setting.y, Norm.LINF)
    assert float((sharp.logits(setting.x, torch.arange(24)).diff(dim=1).abs()).max()) > 500
    assert breaks_at(FGSM(), sharp, setting, Norm.LINF, EXACT) == optimal.isfinite().nonzero().flatten().tolist()
