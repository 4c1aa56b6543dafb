"""Ten toy defenses that are known to be broken: does an evaluation see through them?

    from hauberk.testing import broken
    defense = broken.build("jpeg")
    broken.naive_pgd(defense.model, *defense.data, defense.radius)     # says: robust
    hb.evaluate(defense.model, defense.data, defense.threat)           # says: not

Each is built in seconds from data that come with installed packages (`hauberk[demo]`), without a file and without a trace in
global generators. Each fools a textbook attack, by one of the ways of "Obfuscated gradients give a false sense of security"
(Athalye, Carlini, Wagner 2018, arXiv:1802.00420): gradients that are zero, that are noise, or that point elsewhere.
"""

from hauberk.testing.broken.defenses import BROKEN, BrokenDefense, build, honest
from hauberk.testing.broken.naive import naive_pgd

__all__ = ["BROKEN", "BrokenDefense", "build", "honest", "naive_pgd"]
