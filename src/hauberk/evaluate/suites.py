"""Suites: which attacks an evaluation runs, cheap ones first; each sees only what those before it left standing.

A suite stops on an example because it is broken (later: or proven). `quick` and `standard` also spend less on the examples that
stay far from broken: `HoppingPGD` gives each a floor of climbs and many more where much of the clean margin is gone; the others
spend their whole schedule on every survivor. `autoattack` and `exhaustive` never stop early on an example that stands.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from hauberk.attacks import (
    CGBA,
    FAB,
    FGSM,
    FMN,
    PGD,
    Attack,
    AutoPGD,
    GeoDA,
    HoppingPGD,
    HopSkipJump,
    Noise,
    RayS,
    SigmaZero,
    SignHunter,
    SparseRS,
    Square,
    name_of,
)
from hauberk.attacks import __all__ as ATTACKS
from hauberk.errors import AccessError, SettingError, ThreatError, UnknownNameError
from hauberk.evaluate.suites_charts import chart_suite
from hauberk.threat import Access, Norm, ThreatModel

__all__ = ["SUITES", "Suite", "suite_for"]


@dataclass(frozen=True)
class Suite:
    """A named sequence of attacks.

    Args:
        name: what reports call it.
        attacks: in the order they run.
        purpose: one sentence.
        shares: where queries are limited, the share of what is left of them that each attack may ask; all of it where there are none.
    """

    name: str
    attacks: tuple[Attack, ...]
    purpose: str = field(default="", compare=False)
    shares: tuple[float, ...] = field(default=(), compare=False)

    def share(self, stage: int) -> float:
        """Of the queries that are left, what the attack of this stage may ask."""
        return self.shares[stage] if stage < len(self.shares) else 1.0

    def first(self, stages: int) -> "Suite":
        """The suite limited to its first attacks."""
        if not 1 <= stages <= len(self.attacks):
            raise SettingError(f"suite {self.name!r} has {len(self.attacks)} stages, got stages={stages}")
        if stages == len(self.attacks):
            return self
        return Suite(f"{self.name}[:{stages}]", self.attacks[:stages], self.purpose, self.shares[: stages - 1])


_FIRST_SHARE = 0.75
_FIRST_LOOK = PGD(steps=10, loss="margin", start="clean", schedule="linear")


def _quick(norm: Norm) -> tuple[Attack, ...]:
    if norm is Norm.L0:
        return (
            FGSM(loss="margin"),
            PGD(steps=20, loss="margin", schedule="linear"),
            SigmaZero(steps=100),
            Noise(tries=20),
        )
    if norm is Norm.L1:
        return (
            FGSM(loss="margin"),
            AutoPGD(steps=20, loss="margin"),
            FAB(steps=30),
            AutoPGD(steps=20, loss="dlr", targets=2),
        )
    climbs = FGSM(loss="margin"), _FIRST_LOOK, HoppingPGD(restarts=4)
    return climbs if norm is Norm.LINF else (*climbs, FAB(steps=30))


def _standard(norm: Norm) -> tuple[Attack, ...]:
    if norm is Norm.L0:
        return (
            FGSM(loss="margin"),
            PGD(steps=20, loss="margin", start="clean", schedule="linear"),
            SigmaZero(steps=1000),
            Noise(tries=100),
        )
    if norm is Norm.L1:
        return (
            AutoPGD(steps=50, loss="margin"),
            FAB(targets=9),
            AutoPGD(steps=50, loss="dlr", targets=3),
            AutoPGD(steps=50),
            Noise(tries=100),
        )
    if (
        norm is Norm.L2
    ):  # on nets trained for another norm, gradients mislead inside the ball more than outside, where FAB goes
        return _FIRST_LOOK, AutoPGD(steps=20), HoppingPGD(), FAB(targets=4), Square(steps=100)
    return _FIRST_LOOK, AutoPGD(steps=20), HoppingPGD(), Square(steps=100)


def _autoattack(norm: Norm) -> tuple[Attack, ...]:
    if norm is Norm.L0:
        raise ThreatError(
            "the suite autoattack is defined in linf, l2 and l1, got l0; use the suite standard or exhaustive"
        )
    few = norm is Norm.L1
    gradients = AutoPGD(restarts=5 if few else 1), AutoPGD(loss="dlr", targets=5 if few else 9), FAB(targets=9)
    return (*gradients, Square(steps=5000)) if norm in Square.norms else gradients


def _autoattack_scores(norm: Norm) -> tuple[Attack, ...]:
    if norm not in Square.norms:
        raise ThreatError(
            f"the suite autoattack has one attack that needs no gradients, for linf and l2, got {norm}; use the suite standard"
        )
    return (Square(steps=5000),)


def _autoattack_labels(norm: Norm) -> tuple[Attack, ...]:
    raise AccessError("the suite autoattack needs scores at least, got labels only; use the suite standard")


def _exhaustive(norm: Norm) -> tuple[Attack, ...]:
    restarted = PGD(steps=100, loss="margin", schedule="linear", restarts=10)
    if norm is Norm.L0:
        return FGSM(loss="margin"), SigmaZero(steps=2000), FMN(steps=2000), restarted, Noise(tries=1000)
    adaptive = AutoPGD(restarts=5), AutoPGD(loss="dlr", targets=9), AutoPGD(loss="margin", targets=9)
    boundary: tuple[Attack, ...] = (FAB(targets=9), FMN(steps=1000))
    if norm is Norm.L1:
        return _FIRST_LOOK, *adaptive, *boundary, restarted, Noise(tries=1000)
    hops = HoppingPGD(restarts=200, rivals=9, rival_steps=20, near=None)
    return _FIRST_LOOK, *adaptive, hops, *boundary, restarted, Square(steps=5000), Noise(tries=1000)


def _scores(steps: int, restarts: int = 1) -> Callable[[Norm], tuple[Attack, ...]]:
    """Random search first, which breaks most; what decides by signs alone, or by single values, is another opinion."""

    def attacks(norm: Norm) -> tuple[Attack, ...]:
        if norm is Norm.L0:
            return SparseRS(steps=steps, restarts=restarts), SparseRS(steps=steps, cells="values", restarts=restarts)
        if norm not in Square.norms:
            return (Noise(tries=2 * steps * restarts),)
        return Square(steps=steps, restarts=restarts), SignHunter(steps=steps)

    return attacks


def _labels(hops: int) -> Callable[[Norm], tuple[Attack, ...]]:
    """Along the boundary, whose distance then says whether the radius is reached."""

    def attacks(norm: Norm) -> tuple[Attack, ...]:
        if norm is Norm.LINF:
            return RayS(steps=60 * hops), GeoDA(steps=hops), HopSkipJump(steps=hops)
        if norm is Norm.L2:
            return HopSkipJump(steps=hops), CGBA(steps=hops), GeoDA(steps=hops)
        return (Noise(tries=50 * hops),)

    return attacks


SUITES: dict[str, tuple[str, dict[Access, Callable[[Norm], tuple[Attack, ...]]]]] = {
    "quick": (
        "a first look, in minutes on a CPU",
        {Access.GRADIENTS: _quick, Access.SCORES: _scores(500), Access.LABELS: _labels(8)},
    ),
    "standard": (
        "the number to publish",
        {Access.GRADIENTS: _standard, Access.SCORES: _scores(5000), Access.LABELS: _labels(40)},
    ),
    "autoattack": (
        "the four stages and settings of AutoAttack, to compare with published numbers (in l1 without square)",
        {Access.GRADIENTS: _autoattack, Access.SCORES: _autoattack_scores, Access.LABELS: _autoattack_labels},
    ),
    "exhaustive": (
        "all that might help, on every survivor to the end, where cost does not matter",
        {
            Access.GRADIENTS: _exhaustive,
            Access.SCORES: _scores(5000, restarts=5),
            Access.LABELS: _labels(100),
        },
    ),
}
"""Name -> (purpose, access -> norm -> attacks)."""


def suite_for(
    suite: "str | Suite | Attack | Sequence[Attack]",
    threat: ThreatModel,
    access: Access,
    max_queries: int | None = None,
) -> Suite:
    """The suite meant, fit for this threat and what may be asked of the victim.

    Args:
        max_queries: that an example may cost over the whole suite. Attacks without gradients then share it: each may ask three
            quarters of what is left, the last one all of it, and what plans its steps ahead plans for that.
        suite: a name (`quick`, `standard`, `autoattack`, `exhaustive`), a Suite, an attack, or a sequence of attacks of the caller's own.

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
        if threat.chart is not None and threat.chart.names:
            return Suite(suite, chart_suite(suite, threat, access), purpose)
        attacks = by_access[access](threat.norm)
        if threat.goal != "untargeted":  # the goal names the class, or asks for more than one rival above the true one
            attacks = tuple(replace(attack, targets=0) if _chooses_targets(attack) else attack for attack in attacks)
        if max_queries is None or access >= Access.GRADIENTS:
            return Suite(suite, attacks, purpose)
        shares = (_FIRST_SHARE,) * (len(attacks) - 1)
        left = [max_queries * (1 - _FIRST_SHARE) ** stage for stage in range(len(attacks))]
        most = [part * (*shares, 1.0)[stage] for stage, part in enumerate(left)]
        fitted = (_planned(attack, int(queries)) for attack, queries in zip(attacks, most, strict=True))
        return Suite(suite, tuple(fitted), purpose, shares)
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
        if threat.goal != "untargeted" and _chooses_targets(attack):
            raise SettingError(
                f"{name_of(attack)} with targets={attack.targets} chooses the targets itself and needs an untargeted threat, "
                f"got {threat}; use targets=0"
            )
    return suite


def _planned(attack: Attack, queries: int) -> Attack:
    """The attack with a schedule that ends with its queries, where it has one."""
    if isinstance(attack, Square | SparseRS):
        return replace(attack, steps=max(1, min(attack.steps, queries - 1)))
    return attack


def _chooses_targets(attack: object) -> TypeGuard[AutoPGD | FAB]:
    return isinstance(attack, AutoPGD | FAB) and attack.targets > 0
