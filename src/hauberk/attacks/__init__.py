"""Attacks, one algorithm a file; `NAME(model, x, y, threat, ..., seed=0)` runs one, its class is the strict layer below."""

from hauberk.attacks._attack import Attack, name_of, settings_of
from hauberk.attacks._friendly import AttackResult, run_attack
from hauberk.attacks.auto_pgd import AutoPGD, auto_pgd
from hauberk.attacks.bim import BIM, bim
from hauberk.attacks.fgsm import FGSM, fgsm
from hauberk.attacks.hopping_pgd import HoppingPGD, hopping_pgd
from hauberk.attacks.noise import Noise, noise
from hauberk.attacks.pgd import PGD, pgd
from hauberk.attacks.square import Square, square

__all__ = [
    "BIM",
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoPGD",
    "HoppingPGD",
    "Noise",
    "Square",
    "auto_pgd",
    "bim",
    "fgsm",
    "hopping_pgd",
    "name_of",
    "noise",
    "pgd",
    "run_attack",
    "settings_of",
    "square",
]
