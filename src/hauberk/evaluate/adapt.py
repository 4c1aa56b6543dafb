"""From findings to a stronger evaluation: the steps they ask for, as attacks on a substitute of the victim.

A substitute answers, or is differentiated, otherwise than the victim; it only proposes. What its points are worth is decided by the
victim itself, where it answers at random by a majority vote of its own answers.

    bpda            backward substitutes for steps without a gradient      Athalye et al. 2018, arXiv:1802.00420
    logits          the scores before the softmax                          Carlini and Wagner 2017, arXiv:1608.04644
    smooth          gradients averaged over a neighbourhood                Tramer et al. 2020, arXiv:2002.08347
    eot             scores and gradients averaged over draws               Athalye et al. 2018, arXiv:1802.00420
    margin          climbs on the margin, in float64
    more-steps      longer climbs from more starts
    score-attacks   Square, or random search, with more queries
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hauberk._shapes import Batch
from hauberk.attacks import PGD, Attack, AutoPGD, HoppingPGD, Noise, SigmaZero, Square
from hauberk.errors import HauberkError, SettingError, UnknownNameError
from hauberk.evaluate.audit import STEPS, Finding
from hauberk.evaluate.cascade import ChunkEvidence
from hauberk.evaluate.suites import Suite, suite_for
from hauberk.evaluate.through import Through, label_of, shown_settings
from hauberk.threat import Access, Norm, ThreatModel
from hauberk.victims import EotVictim, Victim, bpda, eot
from hauberk.victims.before_softmax import BeforeSoftmax
from hauberk.victims.chance import private_chance
from hauberk.victims.smooth import SmoothVictim

__all__ = ["LOOKED", "Adaptation", "adapted_suite", "merged", "planned", "steps_for", "voting", "wanted_steps"]

SAMPLES = 20
"""Draws of a randomised model for each score and gradient."""
LOOKED = 8
"""Examples by which substitutes find out what they can do."""
NEIGHBOURS = 10
"""Points of the neighbourhood that a smoothed gradient is averaged over."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What is done about the findings of an audit.

    Attributes:
        steps: those asked for, each with the findings that do; empty where none do.
        judge: who decides: the victim itself, where it answers at random the majority of its answers.
        suite: the attacks on what the first suite left standing.
    """

    steps: dict[str, list[str]]
    judge: Any
    suite: Suite

    @property
    def applied(self) -> list[str]:
        """The steps that an attack takes; others found nothing to change, or nothing that they could."""
        taken = {step for each in self.suite.attacks if isinstance(each, Through) for step in each.steps}
        return [step for step in self.steps if step in taken]


def planned(victim: Victim, threat: ThreatModel, steps: Mapping[str, Sequence[str]], seed: int, x: Batch) -> Adaptation:
    """The adaptation that these steps make; `x`: some examples, see `adapted_suite`."""
    asked = {step: list(findings) for step, findings in steps.items()}
    suite = adapted_suite(victim, threat, threat.access, list(asked), seed, x)
    return Adaptation(asked, voting(victim, asked, seed), suite)


def merged(
    ledger: dict[str, Any], first: ChunkEvidence, again: ChunkEvidence, adaptation: Adaptation
) -> tuple[dict[str, Any], ChunkEvidence]:
    """A chunk's ledger and evidence with the adapted verdict as its own, and the first verdict beside it."""
    columns = again.columns
    for name in ("forwards", "backwards", "queries"):
        columns[name] = [a + b for a, b in zip(first.columns[name], columns[name], strict=True)]
    beside = {
        "steps": adaptation.steps,
        "applied": adaptation.applied,
        "stages": [{"name": label_of(each), "settings": shown_settings(each)} for each in adaptation.suite.attacks],
        "attacks": [asdict(tally) for tally in again.tallies],
        "statuses": ledger["statuses"],
        "classes": ledger["classes"],
    }
    charged = {key: count + again.charged[key] for key, count in first.charged.items()}
    own = {
        "statuses": again.statuses,
        "classes": [[label, *counts] for label, counts in sorted(again.classes.items())],
        "charged": charged,
        "adapted": beside,
    }
    return ledger | own, again


def wanted_steps(adapt: bool | Sequence[str], *, audit: bool) -> tuple[str, ...] | None:
    """The steps asked for besides those of the findings, in the order of `STEPS`; None where nothing is to be adapted.

    Raises:
        SettingError, UnknownNameError: `adapt` is not what it must be.
    """
    if adapt is False:
        return None
    if isinstance(adapt, str) or (adapt is not True and not isinstance(adapt, Sequence)):
        cure = f"; write ({adapt!r},)" if isinstance(adapt, str) else ""
        raise SettingError(f"adapt is True, False or a sequence of steps, got {adapt!r}{cure}")
    steps = () if adapt is True else tuple(adapt)
    for step in steps:
        if not isinstance(step, str) or step not in STEPS:
            raise UnknownNameError.of("step of adapt", str(step), STEPS)
    if not audit and not steps:
        raise SettingError("adapt=True applies what the audit finds, and audit=False leaves it out; leave audit on")
    return tuple(step for step in STEPS if step in steps)


def steps_for(findings: Iterable[Finding], access: Access, besides: Iterable[str] = ()) -> dict[str, list[str]]:
    """The steps that errors and warnings ask for, in the order of `STEPS`, each with the findings that do.

    Args:
        access: what the threat allows; without gradients only scores are left, without scores nothing.
        besides: steps that are wanted whatever was found.
    """
    asked: dict[str, list[str]] = {step: [] for step in besides}
    for finding in findings:
        if finding.severity == "info":
            continue
        for step in finding.adapt:
            asked.setdefault(step, [])
            if finding.id not in asked[step]:
                asked[step].append(finding.id)
    allowed = {Access.GRADIENTS: set(STEPS), Access.SCORES: {"eot", "score-attacks"}, Access.LABELS: {"eot"}}[access]
    return {step: asked[step] for step in STEPS if step in asked and step in allowed}


def voting(victim: Victim, steps: Iterable[str], seed: int) -> Any:
    """The victim that judges: of a randomised one, the majority of its own answers; one that votes already does so."""
    votes = "eot" in steps and not getattr(victim, "judge_samples", 0)
    return eot(victim, samples=SAMPLES, seed=seed) if votes else victim


def adapted_suite(
    victim: Victim, threat: ThreatModel, access: Access, steps: Sequence[str], seed: int, x: Batch
) -> Suite:
    """The attacks that apply these steps, in the order to run them, for whom `voting` judges.

    Args:
        access: what the threat allows; a substitute may give gradients that the victim does not.
        x: some examples, by which substitutes find out what they can do; a few uncounted forwards.

    Cost: of the standard suite, times 20 for a randomised victim; with score attacks, 5,000 queries an example left standing.
    """
    attacks: list[Any] = []
    judge = voting(victim, steps, seed)
    core = victim.inner if isinstance(victim, EotVictim) else victim  # backward passes are replaced in what is averaged
    single, made = _substitute(core, steps, x) if access >= Access.GRADIENTS else (core, ())

    def averaged(substitute: Any) -> Any:
        if isinstance(victim, EotVictim):
            return victim.around(substitute)
        return substitute if judge is victim else voting(substitute, steps, seed)

    substitute = averaged(single)
    climbing = access >= Access.GRADIENTS and substitute.access >= Access.GRADIENTS
    named = ("eot",) if "eot" in steps else ()
    made = (*made, *named)
    through = (*made, "margin") if "margin" in steps else made
    if climbing and through:
        attacks += [Through(attack, substitute, through) for attack in _climbs(threat, "eot" in steps)]
    if climbing and "smooth" in steps:
        smooth = averaged(SmoothVictim(single, _neighbourhood(threat, victim), NEIGHBOURS, seed))
        climb = PGD(steps=40, loss="margin", start=_start(threat), schedule="linear")
        attacks += [Through(climb, smooth, (*made, "smooth"))]
    if climbing and "more-steps" in steps:
        attacks += [Through(attack, substitute, (*made, "more-steps")) for attack in _longer(threat)]
    if access >= Access.SCORES and "score-attacks" in steps and victim.access >= Access.SCORES:
        queries = 5000 if "eot" not in steps else 500
        blind = Square(steps=queries) if _fits_square(threat) else Noise(tries=1000)
        attacks.append(Through(blind, judge, (*named, "score-attacks")))
    if not attacks and named:
        attacks.append(Through(Noise(tries=100), judge, named))
    return Suite("adapted", tuple(attacks), "what the findings of the audit ask for")


def _substitute(victim: Victim, steps: Sequence[str], x: Batch) -> tuple[Any, tuple[str, ...]]:
    """The victim with every change of `steps` to its gradients that there is something to make of, and which were made."""
    made: list[str] = []
    substitute: Any = victim
    x = x[:LOOKED]
    if victim.access < Access.SCORES or not len(x):
        return substitute, ()
    with private_chance("adapt", device=victim.device):
        if "bpda" in steps:
            try:
                passing = bpda(substitute)
            except HauberkError:  # no PyTorch module: what remains are score attacks
                pass
            else:
                passing.logits(x, torch.arange(len(x), device=x.device))
                if passing.substitutes or passing.description["bpda"]["straight_through"]:
                    substitute = passing
                    made.append("bpda")
        if "logits" in steps:
            before = BeforeSoftmax(substitute)
            if before.found(x):
                substitute = before
                made.append("logits")
    return substitute, tuple(made)


def _climbs(threat: ThreatModel, is_random: bool) -> tuple[Attack, ...]:
    """The gradient attacks of the standard suite; of the quick one where every question costs `SAMPLES`."""
    suite = suite_for("quick" if is_random else "standard", threat, Access.GRADIENTS)
    climbs = tuple(attack for attack in suite.attacks if attack.access is Access.GRADIENTS)
    if not is_random:
        return climbs
    # early success on one average of a few draws is not yet a majority: one climb goes on to a wide margin
    return (*climbs, PGD(steps=40, loss="margin", start=_start(threat), schedule="linear", early_stop=False))


def _longer(threat: ThreatModel) -> tuple[Attack, ...]:
    far = PGD(steps=400, loss="margin", start="clean", schedule="linear")
    if threat.norm in HoppingPGD.norms:
        return far, HoppingPGD(steps=50, restarts=10, near=None)
    if threat.norm in AutoPGD.norms:
        return far, AutoPGD(steps=200, loss="margin", restarts=3)
    return far, SigmaZero(steps=2000)


def _start(threat: ThreatModel) -> str:
    return "uniform" if threat.norm in {Norm.LINF, Norm.L2} else "clean"


def _neighbourhood(threat: ThreatModel, victim: Victim) -> float:
    """How far gradients are averaged: half of what the threat allows each value, at most a twentieth of the range of the input."""
    low, high = victim.bounds
    if threat.chart is None and threat.norm is Norm.LINF:
        return min(threat.radius / 2, (high - low) / 20)
    return 8 / 255 * (high - low) / 2


def _fits_square(threat: ThreatModel) -> bool:
    return threat.chart is None and threat.norm in Square.norms
