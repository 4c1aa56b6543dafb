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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hauberk._shapes import Batch
from hauberk.attacks import PGD, Attack, AutoPGD, HoppingPGD, Noise, Square
from hauberk.errors import HauberkError
from hauberk.evaluate.audit import STEPS, Finding
from hauberk.evaluate.cascade import ChunkEvidence
from hauberk.evaluate.suites import Suite, suite_for
from hauberk.evaluate.through import Through, label_of, shown_settings
from hauberk.threat import Access, Norm, ThreatModel
from hauberk.victims import Victim, bpda, eot
from hauberk.victims.before_softmax import BeforeSoftmax
from hauberk.victims.smooth import SmoothVictim

__all__ = ["Adaptation", "adapted_suite", "merged", "planned", "steps_for", "voting"]

SAMPLES = 20
"""Draws of a randomised model for each score and gradient."""
_LOOKED = 8
NEIGHBOURS = 10
"""Points of the neighbourhood that a smoothed gradient is averaged over."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What is done about the findings of an audit.

    Attributes:
        steps: each with the findings that ask for it; empty where none do.
        judge: who decides: the victim itself, where it answers at random the majority of its answers.
        suite: the attacks on what the first suite left standing.
    """

    steps: dict[str, list[str]]
    judge: Any
    suite: Suite


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
    """The victim that judges: of a randomised one, the majority of its own answers."""
    return eot(victim, samples=SAMPLES, seed=seed) if "eot" in steps else victim


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
    substitute, made = _substitute(victim, steps, seed)
    if min(access, victim.access) >= Access.SCORES and len(x):
        substitute.logits(x[:_LOOKED], torch.arange(len(x[:_LOOKED]), device=x.device))
    climbing = access >= Access.GRADIENTS and substitute.access >= Access.GRADIENTS
    named = ("eot",) if "eot" in steps else ()
    if climbing and (made or "margin" in steps):
        attacks += [Through(attack, substitute, made or ("margin",)) for attack in _climbs(threat, "eot" in steps)]
    if climbing and "smooth" in steps:
        smooth = _averaged(SmoothVictim(substitute, _neighbourhood(threat, victim), NEIGHBOURS, seed), steps, seed)
        climb = PGD(steps=40, loss="margin", start=_start(threat), schedule="linear")
        attacks += [Through(climb, smooth, (*made, "smooth"))]
    if climbing and "more-steps" in steps:
        attacks += [Through(attack, substitute, (*made, "more-steps")) for attack in _longer(threat)]
    if access >= Access.SCORES and "score-attacks" in steps and victim.access >= Access.SCORES:
        queries = 5000 if "eot" not in steps else 500
        blind = Square(steps=queries) if _fits_square(threat) else Noise(tries=1000)
        attacks.append(Through(blind, voting(victim, steps, seed), (*named, "score-attacks")))
    if not attacks and named:
        attacks.append(Through(Noise(tries=100), voting(victim, steps, seed), named))
    return Suite("adapted", tuple(attacks), "what the findings of the audit ask for")


def _substitute(victim: Victim, steps: Sequence[str], seed: int) -> tuple[Any, tuple[str, ...]]:
    """The victim with every change of `steps` that can be made to it, and which were."""
    changes: dict[str, Callable[[Any], Any]] = {"bpda": bpda, "logits": BeforeSoftmax}
    made: list[str] = []
    substitute: Any = victim
    for step, change in changes.items():
        if step in steps:
            try:
                substitute = change(substitute)
            except HauberkError:  # no PyTorch module: what remains are score attacks
                continue
            made.append(step)
    averaged = _averaged(substitute, steps, seed)
    return averaged, (*made, *(("eot",) if averaged is not substitute else ()))


def _averaged(substitute: Any, steps: Sequence[str], seed: int) -> Any:
    return eot(substitute, samples=SAMPLES, seed=seed) if "eot" in steps else substitute


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
    return far, AutoPGD(steps=200, loss="margin", restarts=3) if threat.norm in AutoPGD.norms else far


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
