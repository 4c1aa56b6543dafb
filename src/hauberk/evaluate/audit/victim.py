"""The audit of a victim: a few correctly classified examples, every check that its access allows, and what they cost."""

import time
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.evaluate.audit import answers, climbs, deep, gradients
from hauberk.evaluate.audit.binarisation import binarisation_test
from hauberk.evaluate.audit.finding import AuditEvidence, Finding, Indicator
from hauberk.evaluate.audit.indicators import NAMES, indicators
from hauberk.evaluate.audit.part import Part
from hauberk.evaluate.clean import look_clean
from hauberk.threat import Access, ThreatModel
from hauberk.victims import Meter, Victim

__all__ = ["EXAMPLES", "POOL", "Check", "audit_victim"]

EXAMPLES = 32
"""How many correctly classified examples the audit works on, at most."""
POOL = 128
"""How many examples it looks among, whatever the batch size."""

Check: TypeAlias = tuple[str, Access, Callable[[Part], Finding | None]]
"""A check's name, the access it needs, and the check."""

_ANSWERS: tuple[Check, ...] = (
    ("random-output", Access.LABELS, answers.random_output),
    ("batch-dependent-output", Access.LABELS, answers.batch_dependent_output),
    ("softmax-output", Access.SCORES, answers.softmax_output),
    ("saturated-loss", Access.GRADIENTS, answers.saturated_loss),
)
_OF_ONE_ANSWER = {"batch-dependent-output"}
"""Checks that mean nothing of a victim that averages over draws: the rows of a batch share them."""
_CLIMBS: tuple[Check, ...] = (
    ("one-step-beats-iterated", Access.GRADIENTS, climbs.one_step_beats_iterated),
    ("black-box-beats-gradients", Access.GRADIENTS, climbs.black_box_beats_gradients),
    ("unbounded-attack-fails", Access.GRADIENTS, climbs.unbounded_fails),
    ("loss-still-rising", Access.GRADIENTS, climbs.still_rising),
)


def audit_victim(
    victim: Victim,
    x: Batch,
    y: Labels,
    ids: Tensor,
    threat: ThreatModel,
    *,
    seed: int,
    access: Access,
    examples: int = EXAMPLES,
    thorough: bool = False,
    binarisation: bool = False,
    batch_size: int = POOL,
) -> AuditEvidence:
    """Audit on the first correctly classified examples among these.

    Args:
        examples: at most so many.
        thorough: run the checks of `hauberk.evaluate.audit.deep` too.
        binarisation: run the binarisation test.
        batch_size: how many of the examples are classified at a time.

    Raises:
        AccessError: the binarisation test cannot be made of this model.

    Cost: one forward for each example; at most 170 forwards and 65 backwards more for each of `examples` of them. Where `thorough`,
    26 forwards more for each example, and at most 620 forwards and 350 backwards for each of `examples`.
    """
    began = time.perf_counter()
    meter = Meter(victim, len(x), access=access)
    looks = [
        look_clean(meter, x[rows], y[rows], rows) for rows in torch.arange(len(x), device=x.device).split(batch_size)
    ]
    findings: list[Finding] = []
    checks: list[str] = ["constant-output"]
    predicted, address = torch.cat([look.predicted for look in looks]), ids.to(x.device)
    if (same := answers.constant_output(meter, x, y, predicted, Streams(seed, address, "audit:noise"))) is not None:
        findings.append(same)
    chosen = torch.cat([look.correct for look in looks]).nonzero()[:examples, 0]
    measured: tuple[Indicator, ...] = ()
    part: Part | None = None

    def part_of(rows: Tensor) -> Part:
        return Part(meter, x[rows], y[rows], rows, address[rows], threat.at(threat.radius), seed)

    if len(chosen):
        part = part_of(chosen)
        measured = _run(part, checks, findings, x if thorough else None)
        if binarisation:
            checks.append("binarisation-test-fails")
            findings += [found for found in [binarisation_test(part)] if found is not None]
    else:
        checks.append("random-output")  # what answers at random may be right of no example
        if (random := answers.random_output(part_of(torch.arange(len(x), device=x.device)[:examples]))) is not None:
            findings.append(random)
        findings.append(
            Finding(
                "audit-could-not-run",
                "info",
                f"the model classified none of the first {len(x)} examples correctly, so that no attack could be tried on one",
                "look at the clean accuracy first: the labels, their order or the preprocessing may be wrong",
            )
        )
    return AuditEvidence(
        tuple(findings),
        tuple(checks),
        len(chosen),
        int(meter.forwards.sum()),
        int(meter.backwards.sum()),
        int(meter.queries.sum()),
        time.perf_counter() - began,
        measured,
        {} if part is None else part.found,
    )


def _run(part: Part, checks: list[str], findings: list[Finding], pool: Batch | None) -> tuple[Indicator, ...]:
    """Every check in order; with a pool the deep ones too."""

    def note(name: str, finding: Finding | None) -> None:
        checks.append(name)
        if finding is not None:
            findings.append(finding)

    def run(plan: tuple[Check, ...]) -> None:
        for name, needs, check in plan:
            if part.meter.access >= needs and not (name in _OF_ONE_ANSWER and part.meter.judge_samples):
                note(name, check(part))

    run(_ANSWERS)
    if part.meter.access < Access.GRADIENTS:
        if part.meter.victim.description.get("kind") == "torch" and part.threat.access >= Access.GRADIENTS:
            none = gradients.no_gradients(part)
            note("dead-gradients", none)
            if none is not None:
                return (Indicator("I1", NAMES["I1"], 1.0, len(part)),)
        return ()
    note("dead-gradients", gradients.dead_gradients(part))
    if part.threat.chart is not None and part.threat.chart.names:
        return ()  # what follows speaks of balls around the input, and this threat is of another kind
    probes = gradients.probe(part)
    if not part.is_random:  # two draws differ by more than a step changes
        note("finite-differences-disagree", gradients.rough_gradients(part, probes))
        note("unstable-predictions", gradients.unstable_predictions(part, probes))
    run(_CLIMBS)
    if pool is None:
        return indicators(part, probes)
    note("smaller-radius-breaks-more", deep.smaller_radius_breaks_more(part))
    note("fewer-steps-break-more", deep.fewer_steps_break_more(part))
    note("transfer-beats-gradients", deep.transfer_beats_gradients(part, pool))
    return indicators(part, probes, deep.changes_around(part))
