"""Attacks with scores alone keep the contract, and on linear victims 1 <= found / optimal <= their bars."""

from hauberk.attacks import (
    NES,
    SPSA,
    ZOO,
    Attack,
    AutoZOOM,
    Bandits,
    GenAttack,
    InputFree,
    LocalSearch,
    OnePixel,
    PartialNES,
    PriorRGF,
    RandomGrouping,
    SignHunter,
    SimBA,
    SparseRS,
    Square,
    ZerothOrderFrankWolfe,
)
from hauberk.testing import check_optimum
from hauberk.testing.laws import Law
from hauberk.threat import Access, Norm

ACCESS = Access.SCORES

# Cheap settings, for the laws run each a few hundred times.
CASES: dict[str, Attack] = {
    "gen_attack": GenAttack(generations=4, population=4),
    "gen_attack, coarse": GenAttack(generations=3, population=5, side=3, patience=1),
    "input_free": InputFree(steps=2, samples=4, side=2),
    "input_free, sizes tried": InputFree(
        steps=2, samples=2, side=None, trials=2, trial_steps=1, start="clean", loss="ce"
    ),
    "local_search": LocalSearch(rounds=3, candidates=4, at_once=1, reach=1),
    "local_search, cyclic": LocalSearch(rounds=2, cells="values", candidates=9, at_once=2, moves="cyclic"),
    "random_grouping": RandomGrouping(steps=1),
    "random_grouping, every option": RandomGrouping(
        steps=2, group_size=5, delta=0.02, step_size=0.03, loss="ce", early_stop=False
    ),
    "sign_hunter": SignHunter(steps=15),
    "sign_hunter, from random signs": SignHunter(steps=12, start="random", early_stop=False),
    "simba": SimBA(steps=15),
    "simba, low frequencies": SimBA(steps=15, basis="dct", order="low", step_size=0.05, early_stop=False),
    "sparse_rs": SparseRS(steps=15),
    "sparse_rs, values": SparseRS(steps=8, cells="values", alpha=0.8, restarts=2, early_stop=False),
    "square": Square(steps=12),
    "square, restarted": Square(steps=6, restarts=2, early_stop=False),
    "square, early": Square(steps=12, p_init=0.2, shrink="early"),
    "one_pixel": OnePixel(generations=3, population=10),
    "auto_zoom": AutoZOOM(steps=6, shrink_steps=2, samples=3, space="bilinear:3"),
    "auto_zoom, in its small space": AutoZOOM(steps=20, shrink_steps=3, samples=5, space="dct:3", shrink_space=None),
    "zoo": ZOO(passes=2, samples=20),
    "zoo, growing, by importance": ZOO(
        passes=2, samples=16, space="bilinear:2,3+identity", importance=True, confidence=0.1
    ),
    "zoo, adam": ZOO(solver="adam", passes=2, samples=30, space="dct:3+identity"),
    "zoo, adam in tanh space": ZOO(solver="adam", passes=2, samples=30, tanh=True),
    "nes": NES(steps=3, samples=6),
    "nes, every option": NES(steps=3, samples=4, space="dct:3", patience=1, loss="ce", early_stop=False),
    "bandits": Bandits(steps=4, space="tile:3"),
    "bandits, time prior": Bandits(steps=4, space="identity", loss="ce", early_stop=False),
    "zeroth_order_frank_wolfe": ZerothOrderFrankWolfe(steps=3, samples=4),
    "zeroth_order_frank_wolfe, every option": ZerothOrderFrankWolfe(
        steps=3, samples=4, step_size=0.3, space="bilinear:3", loss="ce", early_stop=False
    ),
    "prior_rgf": PriorRGF(steps=3, samples=3),
    "partial_nes": PartialNES(steps=2, samples=4),
    "spsa": SPSA(steps=3, samples=6, learning_rate=0.03),
}

EXACT = 1 + 1e-6
# (attack, norm) -> largest found / optimal on linear victims of two classes, and of five. They search at random: their bars speak of
# these 12 to 90 inputs, and would not hold for 3,072.
BARS: list[tuple[Attack, dict[Norm, tuple[float, float]]]] = [
    (GenAttack(generations=150), {Norm.LINF: (1.6, 1.4)}),
    (InputFree(steps=60, samples=64, start="clean"), {Norm.LINF: (1.1, 1.5), Norm.L2: (1.05, 1.3)}),
    # a pixel costs three values of a colour picture
    (LocalSearch(), {Norm.L0: (2.5, EXACT)}),
    (LocalSearch(cells="values", at_once=1), {Norm.L0: (EXACT, EXACT)}),
    # every feature a group: the gradient itself, spent like FGSM
    (RandomGrouping(steps=1, group_size=1), {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.3, 1.3)}),
    (RandomGrouping(steps=40, group_size=2), {Norm.LINF: (1.2, 1.5), Norm.L2: (1.1, 1.3)}),
    # in L2 all values move alike
    (SignHunter(steps=300), {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.5, 1.6)}),
    (SimBA(steps=300), {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.2, 1.3)}),
    # in L-inf the best corner is not a sum of few waves
    (SimBA(steps=400, basis="dct", order="low"), {Norm.LINF: (1.6, 1.6), Norm.L2: (1.1, 1.3)}),
    (SparseRS(steps=150), {Norm.L0: (2.5, EXACT)}),
    (SparseRS(steps=300, cells="values"), {Norm.L0: (1.4, EXACT)}),
    (Square(steps=200), {Norm.LINF: (1.3, 1.5), Norm.L2: (2.5, 2)}),
    (Square(steps=300, p_init=0.2, shrink="early"), {Norm.LINF: (1.2, 1.3), Norm.L2: (2.5, 2)}),
    (OnePixel(generations=12, population=60), {Norm.L0: (6, 6)}),
    # so many steps of 0.01 would end before the furthest examples
    (SPSA(steps=60, samples=64, learning_rate=0.03), {Norm.LINF: (1.1, 1.5), Norm.L2: (1.1, 1.5)}),
    (NES(steps=40, samples=40), {Norm.LINF: (1.2, 1.3), Norm.L2: (1.1, 1.3)}),
    (Bandits(steps=400, space="identity"), {Norm.LINF: (1.1, 1.3), Norm.L2: (1.05, 1.3)}),
    (
        ZerothOrderFrankWolfe(steps=40, samples=40),
        {Norm.LINF: (1.2, 1.3), Norm.L2: (1.2, 1.4), Norm.L1: (1.4, 1.5)},
    ),
    (PriorRGF(steps=40, samples=40), {Norm.LINF: (1.2, 1.3), Norm.L2: (1.1, 1.3)}),
    (PartialNES(steps=60, samples=40), {Norm.LINF: (1.2, 1.5)}),
    # it follows the rival that is reached first
    (AutoZOOM(space="identity", shrink_steps=60), {Norm.L2: (1.01, 2.5)}),
    # one pass knows the plane; points aim a thousandth past it
    (ZOO(), {Norm.L2: (1.002, 1.3)}),
    (ZOO(solver="adam", passes=60, learning_rate=0.03), {Norm.L2: (1.5, 1.75)}),
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
