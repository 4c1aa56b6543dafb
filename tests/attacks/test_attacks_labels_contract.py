"""Attacks with labels alone keep the contract, and on linear victims 1 <= found / optimal <= their bars."""

from hauberk.attacks import (
    CGBA,
    OPT,
    Attack,
    Boundary,
    GeoDA,
    HopSkipJump,
    LabelNES,
    Noise,
    PopSkipJump,
    RayS,
    SignOPT,
    SurFree,
)
from hauberk.testing import check_optimum
from hauberk.testing.laws import Law
from hauberk.threat import Access, Norm

ACCESS = Access.LABELS

# Cheap settings, for the laws run each a few hundred times.
CASES: dict[str, Attack] = {
    "noise": Noise(tries=10),
    "hop_skip_jump": HopSkipJump(steps=2, samples=3),
    "pop_skip_jump": PopSkipJump(steps=2, samples=3, asks=6),
    "label_nes": LabelNES(steps=2, samples=4, copies=2),
    "sign_opt": SignOPT(steps=2, samples=4),
    "opt": OPT(steps=1, samples=2),
    "boundary": Boundary(steps=20),
    "ray_s": RayS(steps=25),
    "cgba": CGBA(steps=2, samples=4),
    "sur_free": SurFree(steps=5),
    "geo_da": GeoDA(steps=1, samples=4),
}

# (attack, norm) -> largest found / optimal on linear victims of two classes, and of five: from one start they end at the boundary of
# the rival that the start was in. White noise, since the weights of these victims are.
BARS: list[tuple[Attack, dict[Norm, tuple[float, float]]]] = [
    (Noise(tries=50), {Norm.LINF: (5, 4), Norm.L2: (6, 4), Norm.L1: (15, 6), Norm.L0: (8, 3)}),
    (HopSkipJump(steps=15, noise="white"), {Norm.L2: (1.06, 1.5), Norm.LINF: (1.3, 1.6)}),
    (SignOPT(steps=20, noise="white"), {Norm.L2: (1.06, 1.6)}),
    (OPT(steps=6, noise="white"), {Norm.L2: (2, 2)}),
    (Boundary(steps=600, noise="white"), {Norm.L2: (2, 2.5)}),
    (RayS(steps=400), {Norm.LINF: (1.05, 1.5)}),
    (CGBA(steps=20, noise="white"), {Norm.L2: (1.03, 1.9)}),
    (SurFree(steps=100, noise="white"), {Norm.L2: (1.6, 3.5)}),
    (GeoDA(steps=10, noise="white"), {Norm.L2: (1.1, 1.8), Norm.LINF: (1.2, 1.7)}),
    (LabelNES(steps=40, samples=20), {Norm.LINF: (1.5, 1.6)}),
    # in L-inf it hops by signs: slow with five classes
    (PopSkipJump(steps=20, noise="white"), {Norm.L2: (1.1, 1.8), Norm.LINF: (1.8, 3)}),
]


def test_every_exported_attack_has_a_row_in_both_tables(exported: set[type]) -> None:
    assert {type(attack) for attack in CASES.values()} == exported
    assert {type(attack) for attack, _ in BARS} == exported


def test_an_attack_keeps_the_law(case: Attack, law: Law) -> None:
    law(case)


def test_an_attack_finds_the_optimum_within_its_bar_and_never_less(
    attack: Attack, norm: Norm, bars: tuple[float, float] | None
) -> None:
    assert bars is not None, f"state a bar for {attack} in {norm}"
    check_optimum(attack, norm, bars)
