"""Attacks with gradients keep the contract, and on linear victims, whose optimum is known, 1 <= found / optimal <= their bars."""

import torch

from hauberk.attacks import (
    ALMA,
    BIM,
    DDN,
    EAD,
    FAB,
    FGSM,
    FMN,
    JSMA,
    LBFGS,
    PDPGD,
    PGD,
    Attack,
    AutoConjugateGradient,
    AutoPGD,
    BoundarySlide,
    BrendelBethge,
    CarliniWagner,
    DeepFool,
    FrankWolfe,
    HoppingPGD,
    IterativeLeastLikely,
    Momentum,
    MultiTargeted,
    SigmaZero,
    SparseSwap,
    SuperDeepFool,
    Transfer,
    TrustRegion,
)
from hauberk.testing import breaks_at, check_optimum, linear_settings
from hauberk.testing.laws import Law
from hauberk.threat import Access, Norm

ACCESS = Access.GRADIENTS

# Cheap settings, for the laws run each a few hundred times.
CASES: dict[str, Attack] = {
    "fgsm": FGSM(),
    "fgsm from a random start": FGSM(loss="margin", start="uniform"),
    "fgsm, normalised": FGSM(step="normalised"),
    "fgsm, towards a class": FGSM(target="least-likely"),
    "fgsm, towards a random class": FGSM(target="random", step="normalised", start="uniform"),
    "bim": BIM(steps=5, loss="margin"),
    "pgd": PGD(steps=5, restarts=2),
    "pgd, every option": PGD(
        steps=5, restarts=2, loss="dlr", start="blocks", schedule="linear", momentum=0.5, early_stop=False
    ),
    "momentum": Momentum(steps=5),
    "momentum, nesterov": Momentum(steps=5, nesterov=True, loss="margin", early_stop=False),
    "multi_targeted": MultiTargeted(steps=4, targets=2),
    "iterative_least_likely": IterativeLeastLikely(steps=5),
    "frank_wolfe": FrankWolfe(steps=6),
    "frank_wolfe, constant": FrankWolfe(steps=5, step_size=0.4, momentum=0.0, loss="margin", early_stop=False),
    "auto_conjugate_gradient": AutoConjugateGradient(steps=10),
    "auto_conjugate_gradient, restarted": AutoConjugateGradient(steps=6, restarts=2, loss="ce"),
    "auto_pgd": AutoPGD(steps=10),
    "auto_pgd, targeted": AutoPGD(steps=8, loss="dlr", targets=2),
    "hopping_pgd": HoppingPGD(steps=4, restarts=5, candidates=2, rival_steps=3),
    "hopping_pgd, every climb": HoppingPGD(steps=3, restarts=4, candidates=1, rivals=0, near=None, early_stop=False),
    "sigma_zero": SigmaZero(steps=12),
    "sigma_zero, with patience": SigmaZero(steps=15, patience=3),
    "ddn": DDN(steps=12),
    "ddn, with patience": DDN(steps=12, loss="margin", patience=2),
    "fmn": FMN(steps=6),
    "fmn, with patience": FMN(steps=8, step_size=0.5, patience=2),
    "fab": FAB(steps=6),
    "fab, targeted": FAB(steps=3, targets=2, restarts=2),
    "boundary_slide": BoundarySlide(steps=5, rivals=2),
    "jsma": JSMA(),
    "jsma, every option": JSMA(theta=0.3, gamma=0.5, at_once=1, direction="both"),
    "sparse_swap": SparseSwap(steps=6, rivals=2, kicks=1, patience=3),
    "sparse_swap, with exchanges": SparseSwap(steps=4, rivals=1, kicks=1, exchanges=3, candidates=4, patience=3),
    "alma": ALMA(steps=10),
    "alma, with patience": ALMA(steps=10, first=0.3, patience=2),
    "pdpgd": PDPGD(steps=6),
    "pdpgd, with patience": PDPGD(steps=7, step_size=0.2, patience=2),
    "deepfool": DeepFool(steps=10),
    "deepfool, as the paper steps": DeepFool(steps=10, approach=1, first=9, refined=9),
    "carlini_wagner": CarliniWagner(steps=5, binary_search_steps=1, rivals=2, searches=4),
    "super_deepfool": SuperDeepFool(steps=10, search=3),
    "trust_region": TrustRegion(steps=12, step_size=0.05),
    "trust_region, towards the furthest rival": TrustRegion(steps=12, step_size=0.05, adaptive=False, worst_case=True),
    "brendel_bethge": BrendelBethge(steps=2),
    "ead": EAD(steps=6, binary_search_steps=1, rivals=2),
    "lbfgs": LBFGS(steps=6, binary_search_steps=3),
    "transfer": Transfer(steps=2),
    "transfer, copies": Transfer(steps=2, inputs=("di", "si:copies=2")),
    "transfer, look ahead": Transfer(
        steps=4, inputs=(), gradients=(), look_ahead=True, variance=0, loss="margin", early_stop=True
    ),
    "transfer, other copies and variance": Transfer(steps=2, inputs=("ssa:copies=1", "bsr:copies=1"), variance=1),
    "transfer, penalty": Transfer(steps=2, inputs=(), penalty=1),
}

EXACT = 1 + 1e-6
# (attack, norm) -> largest found / optimal on linear victims of two classes, and of five, where the nearest rival at the
# example need not be the nearest one in the box, so that an attack that climbs towards one rival at a time does better.
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
    # what goes into lengths beside the gradient's is lost where the box cuts it off
    (
        FGSM(step="normalised"),
        {Norm.LINF: (EXACT, 1.4), Norm.L2: (1.4, 1.4), Norm.L1: (3, 2.5), Norm.L0: (EXACT, EXACT)},
    ),
    (
        Momentum(steps=20, loss="margin"),
        {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.01, 1.3), Norm.L1: (EXACT, 1.4), Norm.L0: (EXACT, EXACT)},
    ),
    (
        Momentum(steps=20, loss="margin", nesterov=True),
        {Norm.LINF: (EXACT, 1.3), Norm.L2: (EXACT, 1.3), Norm.L1: (EXACT, 1.4), Norm.L0: (EXACT, EXACT)},
    ),
    (
        MultiTargeted(steps=20, start="clean"),
        {Norm.LINF: (EXACT, EXACT), Norm.L2: (1.0001, EXACT), Norm.L1: (EXACT, EXACT), Norm.L0: (EXACT, EXACT)},
    ),
    (
        MultiTargeted(steps=20),
        {Norm.LINF: (EXACT, EXACT), Norm.L2: (1.0001, 1.0001), Norm.L1: (1.05, 1.05), Norm.L0: (EXACT, EXACT)},
    ),
    # of five classes it climbs to the farthest, and leaves the true one late
    (
        IterativeLeastLikely(steps=20),
        {Norm.LINF: (EXACT, 30), Norm.L2: (1.001, 30), Norm.L1: (EXACT, 30), Norm.L0: (EXACT, 1.75)},
    ),
    (FrankWolfe(loss="margin"), {Norm.LINF: (EXACT, 1.3), Norm.L2: (EXACT, 1.3), Norm.L1: (EXACT, 1.4)}),
    # 1 - 0.9^40 of the way
    (
        FrankWolfe(step_size=0.1, momentum=0.0, loss="margin"),
        {Norm.LINF: (1.02, 1.4), Norm.L2: (1.02, 1.3), Norm.L1: (1.05, 1.5)},
    ),
    (AutoConjugateGradient(steps=50), {Norm.LINF: (EXACT, 1.3), Norm.L2: (EXACT, 1.3)}),
    (AutoPGD(steps=50), {Norm.LINF: (EXACT, 1.4), Norm.L2: (EXACT, 1.25), Norm.L1: (1.1, 2)}),
    (
        AutoPGD(steps=30, loss="dlr", targets=4),
        {Norm.LINF: (EXACT, EXACT), Norm.L2: (EXACT, EXACT), Norm.L1: (1.05, 1.2)},
    ),
    (HoppingPGD(restarts=4), {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.0001, 1.3)}),
    # its threshold stops small changes from adding up where every coordinate weighs about the same
    (SigmaZero(steps=100), {Norm.L0: (1.1, EXACT)}),
    (DDN(steps=100), {Norm.L2: (1.03, 1.3)}),
    (FMN(steps=100), {Norm.LINF: (1.001, 1.3), Norm.L2: (1.001, 1.3), Norm.L1: (1.01, 1.4), Norm.L0: (1.3, EXACT)}),
    # with a radius there is no final search: it oscillates about the boundary with steps of eta = 1.05
    (FAB(steps=20), {Norm.LINF: (1.01, 1.1), Norm.L2: (1.01, 1.01), Norm.L1: (1.01, 1.3)}),
    (FAB(steps=20, targets=4), {Norm.LINF: (1.01, 1.01), Norm.L2: (1.01, 1.01), Norm.L1: (1.01, 1.01)}),
    # of five classes the nearest by L-inf is the least likely of some examples
    (BoundarySlide(), {Norm.LINF: (1.00001, 1.01), Norm.L2: (1.00001, 1.00001), Norm.L1: (1.00001, 1.00001)}),
    (BoundarySlide(rivals=4), dict.fromkeys((Norm.LINF, Norm.L2, Norm.L1), (1.00001, 1.00001))),
    # it asks of a value that it raises one class and lowers the others: on linear victims many useful ones do not
    (JSMA(gamma=1.0, at_once=1, direction="both"), {Norm.L0: (2.5, 2.5)}),
    (JSMA(gamma=1.0, direction="both"), {Norm.L0: (3, 4)}),
    (SparseSwap(), {Norm.L0: (EXACT, EXACT)}),
    (ALMA(steps=200), {Norm.L2: (1.01, 1.1), Norm.L1: (1.05, 1.5)}),
    (PDPGD(steps=400), {Norm.LINF: (1.05, 1.3), Norm.L2: (1.1, 1.3), Norm.L1: (1.1, 1.4), Norm.L0: (1.3, 1.4)}),
    # it looks at every rival, and stops within its overshoot
    (DeepFool(steps=15), {Norm.L2: (1.021, 1.021), Norm.LINF: (1.021, 1.021)}),
    # short runs end before they have settled; in L0 one value more is the whole of a small optimum
    (
        CarliniWagner(steps=50, rivals=2),
        {Norm.L2: (1.2, 1.2), Norm.LINF: (1.4, 1.3), Norm.L0: (1.3, 1.3)},
    ),
    # with a radius there is no final search
    (SuperDeepFool(steps=15), {Norm.L2: (1.021, 1.021)}),
    (TrustRegion(steps=150), {Norm.L2: (1.05, 1.05), Norm.LINF: (1.05, 1.05)}),
    (
        BrendelBethge(steps=40, restarts=1),
        {Norm.LINF: (1.0001, 1.3), Norm.L2: (1.0001, 1.3), Norm.L1: (1.0001, 1.5), Norm.L0: (1.5, 1.5)},
    ),
    # the smallest elastic net is not the smallest L1
    (EAD(steps=60), {Norm.L1: (1.5, 1.5)}),
    # it follows one rival, the nearest by the gradient
    (LBFGS(steps=30), {Norm.L2: (1.05, 1.3)}),
    # the kernel smears weights that are no picture's
    (Transfer(steps=20, loss="margin", inputs=("si:copies=2",)), {Norm.LINF: (1.5, 2), Norm.L2: (1.7, 2)}),
    (
        Transfer(steps=20, loss="margin", inputs=(), gradients=(), look_ahead=True, variance=0, early_stop=True),
        {Norm.LINF: (EXACT, 1.3), Norm.L2: (1.01, 1.3)},
    ),
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


def test_a_saturated_softmax_does_not_mislead_cross_entropy() -> None:
    # margins of 40 and more: p - 1 is 0 in float64 there, and the gradient of log softmax loses the true class
    victim, setting = linear_settings()["pictures"]
    sharp = type(victim)(victim.weights * 100, victim.bias * 100)
    optimal = sharp.optimal_distance(setting.x, setting.y, Norm.LINF)
    assert float((sharp.logits(setting.x, torch.arange(24)).diff(dim=1).abs()).max()) > 500
    assert breaks_at(FGSM(), sharp, setting, Norm.LINF, EXACT) == optimal.isfinite().nonzero().flatten().tolist()
