"""Attacks, one algorithm a file; `NAME(model, x, y, threat, ..., seed=0)` runs one, its class is the strict layer below."""

from hauberk.attacks._attack import Attack, name_of, settings_of
from hauberk.attacks._friendly import AttackResult, run_attack
from hauberk.attacks._portfolio import SmallestResult, smallest
from hauberk.attacks.alma import ALMA, alma
from hauberk.attacks.auto_conjugate_gradient import AutoConjugateGradient, auto_conjugate_gradient
from hauberk.attacks.auto_pgd import AutoPGD, auto_pgd
from hauberk.attacks.bim import BIM, bim
from hauberk.attacks.boundary_slide import BoundarySlide, boundary_slide
from hauberk.attacks.brendel_bethge import BrendelBethge, brendel_bethge
from hauberk.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from hauberk.attacks.ddn import DDN, ddn
from hauberk.attacks.deepfool import DeepFool, deepfool
from hauberk.attacks.ead import EAD, ead
from hauberk.attacks.fab import FAB, fab
from hauberk.attacks.fgsm import FGSM, fgsm
from hauberk.attacks.fmn import FMN, fmn
from hauberk.attacks.frank_wolfe import FrankWolfe, frank_wolfe, frank_wolfe_gaps
from hauberk.attacks.grid import Grid, grid
from hauberk.attacks.hopping_pgd import HoppingPGD, hopping_pgd
from hauberk.attacks.iterative_least_likely import IterativeLeastLikely, iterative_least_likely
from hauberk.attacks.jsma import JSMA, jsma
from hauberk.attacks.lbfgs import LBFGS, lbfgs
from hauberk.attacks.momentum import Momentum, momentum
from hauberk.attacks.multi_targeted import MultiTargeted, multi_targeted
from hauberk.attacks.noise import Noise, noise
from hauberk.attacks.one_pixel import OnePixel, one_pixel
from hauberk.attacks.pdpgd import PDPGD, pdpgd
from hauberk.attacks.pgd import PGD, pgd
from hauberk.attacks.sigma_zero import SigmaZero, sigma_zero
from hauberk.attacks.smallest_transformation import SmallestTransformation, smallest_transformation
from hauberk.attacks.sparse_swap import SparseSwap, sparse_swap
from hauberk.attacks.square import Square, square
from hauberk.attacks.super_deepfool import SuperDeepFool, super_deepfool
from hauberk.attacks.trust_region import TrustRegion, trust_region
from hauberk.attacks.universal import UniversalResult, universal

__all__ = [
    "ALMA",
    "BIM",
    "DDN",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "LBFGS",
    "PDPGD",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoConjugateGradient",
    "AutoPGD",
    "BoundarySlide",
    "BrendelBethge",
    "CarliniWagner",
    "DeepFool",
    "FrankWolfe",
    "Grid",
    "HoppingPGD",
    "IterativeLeastLikely",
    "Momentum",
    "MultiTargeted",
    "Noise",
    "OnePixel",
    "SigmaZero",
    "SmallestResult",
    "SmallestTransformation",
    "SparseSwap",
    "Square",
    "SuperDeepFool",
    "TrustRegion",
    "UniversalResult",
    "alma",
    "auto_conjugate_gradient",
    "auto_pgd",
    "bim",
    "boundary_slide",
    "brendel_bethge",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "ead",
    "fab",
    "fgsm",
    "fmn",
    "frank_wolfe",
    "frank_wolfe_gaps",
    "grid",
    "hopping_pgd",
    "iterative_least_likely",
    "jsma",
    "lbfgs",
    "momentum",
    "multi_targeted",
    "name_of",
    "noise",
    "one_pixel",
    "pdpgd",
    "pgd",
    "run_attack",
    "settings_of",
    "sigma_zero",
    "smallest",
    "smallest_transformation",
    "sparse_swap",
    "square",
    "super_deepfool",
    "trust_region",
    "universal",
]
