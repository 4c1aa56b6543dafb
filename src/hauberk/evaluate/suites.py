"""Suites: which attacks an evaluation runs, cheap ones first; each sees only what those before it left standing.

A suite stops on an example only because it is broken (later: or proven), never because it is hard: every attack spends its
whole schedule on every survivor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hauberk.attacks import FGSM, PGD, Attack, AutoPGD, HoppingPGD, Noise, Square, name_of
from hauberk.attacks import __all__ as ATTACKS
from hauberk.errors import AccessError, SettingError, ThreatError, UnknownNameError
from hauberk.threat import Access, Norm, ThreatModel

__all__ = ["SUITES", "Suite", "suite_for"]


@dataclass(frozen=True)
class Suite:
    """A named sequence of attacks.

    Args:
        name: what reports call it.
        attacks: in the order they run.
        purpose: one sentence.
    """

    name: str
    attacks: tuple[Attack, ...]
    purpose: str = field(default="", compare=False)

    def first(self, stages: int) -> "Suite":
        """The suite limited to its first attacks."""
        if not 1 <= stages <= len(self.attacks):
            raise SettingError(f"suite {self.name!r} has {len(self.attacks)} stages, got stages={stages}")
        if stages == len(self.attacks):
            return self
        return Suite(f"{self.name}[:{stages}]", self.attacks[:stages], self.purpose)


_QUICK_STEPS = PGD(steps=10, loss="margin", start="clean", schedule="linear")


def _quick(norm: Norm) -> tuple[Attack, ...]:
    if norm is Norm.L0:
        return FGSM(loss="margin"), PGD(steps=20, loss="margin", schedule="linear"), Noise(tries=20)
    if norm is Norm.L1:
        return FGSM(loss="margin"), AutoPGD(steps=20, loss="margin"), AutoPGD(steps=20, loss="dlr", targets=2)
    return (
        FGSM(loss="margin"),
        _QUICK_STEPS,
        AutoPGD(steps=10, loss="margin", targets=3),
        HoppingPGD(restarts=2),
    )


def _standard(norm: Norm) -> tuple[Attack, ...]:
    if norm is Norm.L0:
        return (
            FGSM(loss="margin"),
            PGD(steps=40, loss="margin", start="clean", schedule="linear"),
            PGD(steps=40, loss="margin", schedule="linear", restarts=10),
            Noise(tries=100),
        )
    if norm is Norm.L1:
        return (
            AutoPGD(steps=50, loss="margin"),
            AutoPGD(steps=50, loss="dlr", targets=9),
            AutoPGD(steps=50, loss="ce", restarts=3),
            Noise(tries=100),
        )
    return (
        _QUICK_STEPS,
        AutoPGD(steps=10, loss="margin", targets=9),
        HoppingPGD(restarts=13),
        Square(steps=100),
    )


def _scores(thorough: bool) -> Callable[[Norm], tuple[Attack, ...]]:
    def attacks(norm: Norm) -> tuple[Attack, ...]:
        tries = Noise(tries=100 if thorough else 20)
        if norm in Square.norms:
            return tries, Square(steps=5000 if thorough else 500)
        return (Noise(tries=1000 if thorough else 200),)

    return attacks


def _labels(thorough: bool) -> Callable[[Norm], tuple[Attack, ...]]:
    return lambda norm: (Noise(tries=1000 if thorough else 200),)


SUITES: dict[str, tuple[str, dict[Access, Callable[[Norm], tuple[Attack, ...]]]]] = {
    "quick": (
        "a first look, in minutes on a CPU",
        {Access.GRADIENTS: _quick, Access.SCORES: _scores(False), Access.LABELS: _labels(False)},
    ),
    "standard": (
        "the number to publish",
        {Access.GRADIENTS: _standard, Access.SCORES: _scores(True), Access.LABELS: _labels(True)},
    ),
}
"""Name -> (purpose, access -> norm -> attacks)."""


def suite_for(suite: "str | Suite | Attack | Sequence[Attack]", threat: ThreatModel, access: Access) -> Suite:
    """The suite meant, fit for this threat and what may be asked of the victim.

    Args:
        suite: a name (`quick`, `standard`), a Suite, an attack, or a sequence of attacks of the caller's own.

    Raises:
        UnknownNameError: no suite of that name.
        AccessError, ThreatError: an attack of the suite cannot run under this threat.
        SettingError: a suite without attacks.
    """
    if isinstance(suite, str):
        if suite in ATTACKS:
            raise UnknownNameError(
                f"{suite!r} is an attack, not a suite; pass it with its settings, such as hauberk.attacks.PGD(steps=40), or "
                "run it alone with: hauberk attack"
            )
        if suite not in SUITES:
            raise UnknownNameError.of("suite", suite, SUITES)
        purpose, by_access = SUITES[suite]
        attacks = by_access[access](threat.norm)
        if threat.goal != "untargeted":  # the goal names the class, or asks for more than one rival above the true one
            attacks = tuple(replace(attack, targets=0) if isinstance(attack, AutoPGD) else attack for attack in attacks)
        return Suite(suite, attacks, purpose)
    if not isinstance(suite, Suite):
        attacks = tuple(suite) if isinstance(suite, Sequence) else (suite,)
        suite = Suite("custom" if len(attacks) != 1 else name_of(attacks[0]), attacks)
    if not suite.attacks:
        raise SettingError(f"a suite needs at least one attack, got none in {suite.name!r}")
    for attack in suite.attacks:
        if not callable(attack) or not hasattr(attack, "access") or not hasattr(attack, "norms"):
            raise SettingError(f"a suite holds attacks such as hauberk.attacks.PGD(steps=20), got {attack!r}")
        if attack.access > access:
            raise AccessError(
                f"{name_of(attack)} needs {attack.access}, but this victim under {threat} gives {access} only; "
                "leave the suite to hauberk or choose attacks for that access"
            )
        if threat.norm not in attack.norms:
            raise ThreatError(
                f"{name_of(attack)} works in {', '.join(sorted(map(str, attack.norms)))}, got {threat.norm}"
            )
        if isinstance(attack, AutoPGD) and attack.targets and threat.goal != "untargeted":
            raise SettingError(
                f"auto_pgd with targets={attack.targets} chooses the targets itself and needs an untargeted threat, "
                f"got {threat}; use targets=0"
            )
    return suite
