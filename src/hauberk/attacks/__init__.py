"""Attacks, one algorithm a file; `NAME(model, x, y, threat, ..., seed=0)` runs one, its class is the strict layer below."""

from hauberk.attacks._attack import Attack, name_of, settings_of
from hauberk.attacks._friendly import AttackResult, run_attack
from hauberk.attacks._portfolio import SmallestResult, smallest
from hauberk.attacks.alma import ALMA, alma
from hauberk.attacks.auto_conjugate_gradient import AutoConjugateGradient, auto_conjugate_gradient
from hauberk.attacks.auto_pgd import AutoPGD, auto_pgd
from hauberk.attacks.auto_zoom import AutoZOOM, auto_zoom
from hauberk.attacks.bandits import Bandits, bandits
from hauberk.attacks.bim import BIM, bim
from hauberk.attacks.boundary import Boundary, boundary
from hauberk.attacks.boundary_slide import BoundarySlide, boundary_slide
from hauberk.attacks.brendel_bethge import BrendelBethge, brendel_bethge
from hauberk.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from hauberk.attacks.cgba import CGBA, cgba
from hauberk.attacks.ddn import DDN, ddn
from hauberk.attacks.deepfool import DeepFool, deepfool
from hauberk.attacks.ead import EAD, ead
from hauberk.attacks.fab import FAB, fab
from hauberk.attacks.fgsm import FGSM, fgsm
from hauberk.attacks.fmn import FMN, fmn
from hauberk.attacks.frank_wolfe import FrankWolfe, frank_wolfe, frank_wolfe_gaps
from hauberk.attacks.gen_attack import GenAttack, gen_attack
from hauberk.attacks.geo_da import GeoDA, geo_da
from hauberk.attacks.grid import Grid, grid
from hauberk.attacks.hop_skip_jump import HopSkipJump, hop_skip_jump
from hauberk.attacks.hopping_pgd import HoppingPGD, hopping_pgd
from hauberk.attacks.input_free import InputFree, input_free
from hauberk.attacks.iterative_least_likely import IterativeLeastLikely, iterative_least_likely
from hauberk.attacks.jsma import JSMA, jsma
from hauberk.attacks.label_nes import LabelNES, label_nes
from hauberk.attacks.lbfgs import LBFGS, lbfgs
from hauberk.attacks.local_search import LocalSearch, local_search
from hauberk.attacks.momentum import Momentum, momentum
from hauberk.attacks.multi_targeted import MultiTargeted, multi_targeted
from hauberk.attacks.nes import NES, nes
from hauberk.attacks.noise import Noise, noise
from hauberk.attacks.one_pixel import OnePixel, one_pixel
from hauberk.attacks.opt import OPT, opt
from hauberk.attacks.partial_nes import PartialNES, partial_nes
from hauberk.attacks.pdpgd import PDPGD, pdpgd
from hauberk.attacks.pgd import PGD, pgd
from hauberk.attacks.pop_skip_jump import PopSkipJump, pop_skip_jump
from hauberk.attacks.prior_rgf import PriorRGF, prior_rgf
from hauberk.attacks.random_grouping import RandomGrouping, random_grouping
from hauberk.attacks.ray_s import RayS, ray_s
from hauberk.attacks.sigma_zero import SigmaZero, sigma_zero
from hauberk.attacks.sign_hunter import SignHunter, sign_hunter
from hauberk.attacks.sign_opt import SignOPT, sign_opt
from hauberk.attacks.simba import SimBA, simba
from hauberk.attacks.smallest_transformation import SmallestTransformation, smallest_transformation
from hauberk.attacks.spanning import Spanning, spanning
from hauberk.attacks.sparse_rs import SparseRS, sparse_rs
from hauberk.attacks.sparse_swap import SparseSwap, sparse_swap
from hauberk.attacks.spsa import SPSA, spsa
from hauberk.attacks.square import Square, square
from hauberk.attacks.super_deepfool import SuperDeepFool, super_deepfool
from hauberk.attacks.sur_free import SurFree, sur_free
from hauberk.attacks.transfer import Transfer, transfer
from hauberk.attacks.trust_region import TrustRegion, trust_region
from hauberk.attacks.universal import UniversalResult, universal
from hauberk.attacks.zeroth_order_frank_wolfe import ZerothOrderFrankWolfe, zeroth_order_frank_wolfe
from hauberk.attacks.zoo import ZOO, zoo

__all__ = [
    "ALMA",
    "BIM",
    "CGBA",
    "DDN",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "LBFGS",
    "NES",
    "OPT",
    "PDPGD",
    "PGD",
    "SPSA",
    "ZOO",
    "Attack",
    "AttackResult",
    "AutoConjugateGradient",
    "AutoPGD",
    "AutoZOOM",
    "Bandits",
    "Boundary",
    "BoundarySlide",
    "BrendelBethge",
    "CarliniWagner",
    "DeepFool",
    "FrankWolfe",
    "GenAttack",
    "GeoDA",
    "Grid",
    "HopSkipJump",
    "HoppingPGD",
    "InputFree",
    "IterativeLeastLikely",
    "LabelNES",
    "LocalSearch",
    "Momentum",
    "MultiTargeted",
    "Noise",
    "OnePixel",
    "PartialNES",
    "PopSkipJump",
    "PriorRGF",
    "RandomGrouping",
    "RayS",
    "SigmaZero",
    "SignHunter",
    "SignOPT",
    "SimBA",
    "SmallestResult",
    "SmallestTransformation",
    "Spanning",
    "SparseRS",
    "SparseSwap",
    "Square",
    "SuperDeepFool",
    "SurFree",
    "Transfer",
    "TrustRegion",
    "UniversalResult",
    "ZerothOrderFrankWolfe",
    "alma",
    "auto_conjugate_gradient",
    "auto_pgd",
    "auto_zoom",
    "bandits",
    "bim",
    "boundary",
    "boundary_slide",
    "brendel_bethge",
    "carlini_wagner",
    "cgba",
    "ddn",
    "deepfool",
    "ead",
    "fab",
    "fgsm",
    "fmn",
    "frank_wolfe",
    "frank_wolfe_gaps",
    "gen_attack",
    "geo_da",
    "grid",
    "hop_skip_jump",
    "hopping_pgd",
    "input_free",
    "iterative_least_likely",
    "jsma",
    "label_nes",
    "lbfgs",
    "local_search",
    "momentum",
    "multi_targeted",
    "name_of",
    "nes",
    "noise",
    "one_pixel",
    "opt",
    "partial_nes",
    "pdpgd",
    "pgd",
    "pop_skip_jump",
    "prior_rgf",
    "random_grouping",
    "ray_s",
    "run_attack",
    "settings_of",
    "sigma_zero",
    "sign_hunter",
    "sign_opt",
    "simba",
    "smallest",
    "smallest_transformation",
    "spanning",
    "sparse_rs",
    "sparse_swap",
    "spsa",
    "square",
    "super_deepfool",
    "sur_free",
    "transfer",
    "trust_region",
    "universal",
    "zeroth_order_frank_wolfe",
    "zoo",
]
