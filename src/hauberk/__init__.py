"""How robust is a classifier, really? Attack it within what you allow, keep the evidence, read the report.

    import hauberk as hb

    victim = hb.wrap(net, bounds=(0, 1), mean=0.5, std=0.25)
    evaluation = hb.evaluate(victim, "test.npz", "linf:8/255", suite="standard", n=512, out="run")
    found = hb.attacks.pgd(victim, x, y, threat="linf:8/255", steps=20, seed=0)

A facade: what most people need, under one name. Everything else is in the packages it is built from, such as
`hauberk.threat`, `hauberk.victims`, `hauberk.evidence` and `hauberk.report`.
"""

from importlib.metadata import version as _version

from hauberk import attacks, data, zoo
from hauberk.attacks import AttackResult
from hauberk.certify import Certificates, certify
from hauberk.errors import (
    AccessError,
    BudgetError,
    ContradictionError,
    DataError,
    HauberkError,
    InputError,
    MissingExtraError,
    ModelError,
    RunError,
    SettingError,
    ThreatError,
    UnknownNameError,
)
from hauberk.evaluate import Audit, Evaluation, Suite, audit, compare, evaluate
from hauberk.threat import Access, Goal, Norm, Predicate, Targeted, ThreatModel, TopK, Untargeted, least_likely
from hauberk.victims import Victim, bpda, ensemble, eot, wrap

__all__ = [
    "Access",
    "AccessError",
    "AttackResult",
    "Audit",
    "BudgetError",
    "Certificates",
    "ContradictionError",
    "DataError",
    "Evaluation",
    "Goal",
    "HauberkError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "Norm",
    "Predicate",
    "RunError",
    "SettingError",
    "Suite",
    "Targeted",
    "ThreatError",
    "ThreatModel",
    "TopK",
    "UnknownNameError",
    "Untargeted",
    "Victim",
    "__version__",
    "attacks",
    "audit",
    "bpda",
    "certify",
    "compare",
    "data",
    "ensemble",
    "eot",
    "evaluate",
    "least_likely",
    "wrap",
    "zoo",
]

__version__ = _version("hauberk")
