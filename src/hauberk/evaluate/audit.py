"""The audit: signs that the attacks of an evaluation cannot be trusted, each with its evidence and what to do next.

Most checks run every kind of attack, without a cascade, on a few correctly classified examples; what they cost is in the
ledger. The idea of each is in Carlini et al. 2019, "On evaluating adversarial robustness", arXiv:1902.06705; the flags for
randomised and softmax outputs in Croce and Hein 2020, arXiv:2003.01690.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, flat
from hauberk.attacks import FGSM, PGD, Attack, Noise, Square, name_of
from hauberk.blocks import Frontier, ascend, loss_named, schedule_named, start_named
from hauberk.blocks.judge import judge
from hauberk.evaluate.cascade import Known, look_clean
from hauberk.threat import Access, Ball, Goal, Norm, ThreatModel, Untargeted
from hauberk.victims import Meter, Victim

__all__ = ["EXAMPLES", "POOL", "SHARE", "AuditEvidence", "Finding", "audit_victim"]

EXAMPLES = 32
"""How many correctly classified examples the audit works on, at most."""
POOL = 128
"""How many examples it looks among, whatever the batch size."""
SHARE = 0.05  # of the examples that one attack may break beyond a stronger one before it is a finding: chance does less


@dataclass(frozen=True)
class Finding:
    """One reason to doubt a number.

    Attributes:
        id: kebab-case name, stable for scripts.
        severity: `error` (the upper bound cannot be trusted), `warning` (it may be too high) or `info`.
        evidence: what was seen, with figures.
        next: what to do.
    """

    id: str
    severity: str
    evidence: str
    next: str


@dataclass(frozen=True, eq=False)
class AuditEvidence:
    """What the audit of a victim found, which checks ran, what it broke on the way, and what it cost.

    `broken` maps example ids to points within the threat's largest radius.
    """

    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    examples: int
    forwards: int
    backwards: int
    queries: int
    seconds: float
    broken: dict[int, Known] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the broken points, as plain values."""
        kept = ("checks", "examples", "forwards", "backwards", "queries", "seconds")
        return {"findings": [asdict(finding) for finding in self.findings]} | {key: getattr(self, key) for key in kept}


def audit_victim(
    victim: Victim, x: Batch, y: Labels, ids: Tensor, threat: ThreatModel, *, seed: int, access: Access
) -> AuditEvidence:
    """Audit on the first correctly classified examples among these.

    Cost: one forward for each example; about 270 forwards and 125 backwards more for each of at most `EXAMPLES` of them.
    """
    began = time.perf_counter()
    meter = Meter(victim, len(x), access=access)
    clean = look_clean(meter, x, y)
    chosen = clean.correct.nonzero()[:EXAMPLES, 0]
    findings: list[Finding] = []
    checks: list[str] = []
    broken: dict[int, Known] = {}
    if len(chosen):
        part = _Part(meter, x[chosen], y[chosen], chosen, ids.to(x.device)[chosen], threat.at(threat.radius), seed)
        plan: list[tuple[str, Access, Callable[[_Part], Finding | None]]] = [
            ("random-output", Access.LABELS, _random_output),
            ("batch-dependent-output", Access.LABELS, _batch_dependent),
            ("softmax-output", Access.SCORES, _softmax_output),
            ("dead-gradients", Access.GRADIENTS, _dead_gradients),
            ("one-step-beats-iterated", Access.GRADIENTS, _one_step_beats_iterated),
            ("black-box-beats-gradients", Access.GRADIENTS, _black_box_beats_gradients),
            ("unbounded-attack-fails", Access.GRADIENTS, _unbounded_fails),
            ("loss-still-rising", Access.GRADIENTS, _still_rising),
        ]
        for name, needs, check in plan:
            if meter.access >= needs:
                checks.append(name)
                finding = check(part)
                if finding is not None:
                    findings.append(finding)
        broken = part.found
    else:
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
        broken,
    )


class _Part:
    """The audited examples, and one way to attack them that charges the audit's meter."""

    def __init__(
        self, meter: Meter, x: Batch, y: Labels, rows: Tensor, ids: Tensor, threat: ThreatModel, seed: int
    ) -> None:
        self.meter, self.x, self.y, self.rows, self.ids, self.threat, self.seed = meter, x, y, rows, ids, threat, seed
        self.goal: Goal = Untargeted(y)
        self.region = threat.ball(meter.bounds)
        self._broken: dict[str, Tensor] = {}
        self.found: dict[int, Known] = {}

    def streams(self, purpose: str) -> Streams:
        return Streams(self.seed, self.ids, f"audit/{purpose}")

    def victim(self) -> Meter:
        """A meter for rows 0, 1, ... of this part; `charge` adds what it counted."""
        return Meter(self.meter.victim, len(self.x), access=self.meter.access)

    def charge(self, meter: Meter) -> None:
        self.meter.forwards[self.rows] += meter.forwards
        self.meter.backwards[self.rows] += meter.backwards
        self.meter.queries[self.rows] += meter.queries

    def broken_by(self, attack: Attack, region: Ball | None = None) -> Tensor:
        """(n,) bool as the judge has it; remembered, so that two checks share one attack."""
        space = self.region if region is None else region
        key = f"{attack!r}@{space.radius!r}"
        if key not in self._broken:
            meter = self.victim()
            points = attack(meter, self.x, self.goal, space, streams=self.streams(name_of(attack)))
            everyone = torch.arange(len(self.x), device=self.x.device)
            verdict = judge(meter, points, self.x, self.goal, space, everyone)
            self._broken[key] = verdict.broken
            self.charge(meter)
            if space is self.region and self.threat.goal == "untargeted":
                for row in verdict.broken.nonzero()[:, 0].tolist():
                    self.found.setdefault(int(self.ids[row]), Known(points[row], f"{name_of(attack)} (audit)"))
        return self._broken[key]


def _answers(part: _Part, x: Batch, rows: Tensor) -> Tensor:
    """Scores, or labels from a victim of labels only, as (B, k) numbers."""
    if part.meter.access < Access.SCORES:
        return part.meter.labels(x, rows)[:, None].to(x.dtype)
    return part.meter.logits(x, rows)


def _random_output(part: _Part) -> Finding | None:
    first, second = _answers(part, part.x, part.rows), _answers(part, part.x, part.rows)
    spread = _largest_gap(first, second)
    if spread <= 1e-6 * _scale(first):
        return None
    return Finding(
        "random-output",
        "error",
        f"the same {len(part.x)} examples, asked twice, gave scores that differ by up to {spread:.3g}",
        "attack the expectation over the model's randomness (EOT), or fix its randomness; one draw is judged here, so the "
        "numbers of this run are not reproducible",
    )


def _batch_dependent(part: _Part) -> Finding | None:
    count = min(8, len(part.x))
    together = _answers(part, part.x, part.rows)[:count]
    alone = torch.cat([_answers(part, part.x[i : i + 1], part.rows[i : i + 1]) for i in range(count)])
    gap = _largest_gap(together, alone)
    if gap <= 1e-3 * _scale(together) or _largest_gap(together, _answers(part, part.x, part.rows)[:count]) >= gap / 2:
        return None  # equal, or no more different than the model is from itself
    return Finding(
        "batch-dependent-output",
        "error",
        f"{count} examples gave scores in a batch of {len(part.x)} that differ by up to {gap:.3g} from those each gives alone",
        "look for batch statistics in use at test time (batch norm in training mode, normalisation over the batch); the "
        "model deployed on single inputs is another one than the model evaluated",
    )


def _softmax_output(part: _Part) -> Finding | None:
    kind = part.meter.victim.description.get("answers")
    scores = _answers(part, part.x, part.rows)
    as_they_are = bool(((scores >= 0) & (scores <= 1)).all() and ((scores.double().sum(dim=1) - 1).abs() < 1e-4).all())
    if not as_they_are and kind != "probabilities":
        return None
    top = scores.amax(dim=1) if as_they_are else scores.softmax(dim=1).amax(dim=1)
    saturated = float((top > 1 - 1e-6).double().mean())
    return Finding(
        "softmax-output",
        "error" if as_they_are or saturated > 0.1 else "warning",
        f"the model answers probabilities, {'taken as they are' if as_they_are else 'turned into logarithms'}; "
        f"{saturated:.0%} of the audited examples are saturated beyond what their gradient can show",
        "give a model that answers logits: take the softmax off its end, or name the logits with output=",
    )


def _dead_gradients(part: _Part) -> Finding | None:
    logits, vjp = part.meter.pullback(part.x, part.rows)
    other = logits.scatter(1, part.y[:, None], -torch.inf).argmax(dim=1)
    cotangent = torch.zeros_like(logits).scatter_(1, part.y[:, None], -1.0).scatter_(1, other[:, None], 1.0)
    gradient = flat(vjp(cotangent))
    finite = gradient.isfinite().all(dim=1)
    dead = finite & (gradient.abs().amax(dim=1) == 0)
    if not bool(dead.any()) and bool(finite.all()):
        return None
    share = float((dead | ~finite).double().mean())
    return Finding(
        "dead-gradients",
        "error" if share > 0.1 else "warning",
        f"the gradient of the margin is exactly zero at {int(dead.sum())} and not finite at {int((~finite).sum())} of "
        f"{len(part.x)} examples",
        "gradient attacks see nothing there: look for rounding, thresholds or saturation in the model, replace their backward "
        "pass (BPDA), or rely on square and label-only attacks",
    )


def _one_step_beats_iterated(part: _Part) -> Finding | None:
    one, many = part.broken_by(FGSM(loss="margin")), part.broken_by(_iterated(part))
    only_one, only_many = int((one & ~many).sum()), int((many & ~one).sum())
    if only_one <= only_many or only_one < max(3, 2 * SHARE * len(part.x)):  # in L0 the two choose other coordinates
        return None
    return Finding(
        "one-step-beats-iterated",
        "error",
        f"one gradient step broke {only_one} of {len(part.x)} examples that 20 steps of PGD did not, and PGD {only_many} "
        "that one step did not",
        "the loss is rough where PGD climbs: the model masks its gradients; try more starts, larger steps and score attacks",
    )


def _black_box_beats_gradients(part: _Part) -> Finding | None:
    climbed = part.broken_by(_iterated(part))
    blind: list[Attack] = [Noise(tries=30)]
    if part.region.norm in Square.norms:
        blind.append(Square(steps=100))
    for attack in blind:
        beyond = int((part.broken_by(attack) & ~climbed).sum())
        if beyond >= max(2, SHARE * len(part.x)):
            return Finding(
                "black-box-beats-gradients",
                "error",
                f"{name_of(attack)}, which sees no gradient, broke {beyond} of {len(part.x)} examples that PGD did not "
                f"(PGD broke {int(climbed.sum())})",
                "the gradients mislead: trust square and label-only attacks over gradient attacks, and look for what masks "
                "the gradient (BPDA, EOT)",
            )
    return None


def _unbounded_fails(part: _Part) -> Finding | None:
    low, high = part.meter.bounds
    whole = Ball(Norm.LINF, high - low, (low, high))
    broken = part.broken_by(PGD(steps=40, restarts=2, loss="margin", schedule="linear"), whole)
    left = int((~broken).sum())
    if not left:
        return None
    return Finding(
        "unbounded-attack-fails",
        "error" if left > 0.1 * len(part.x) else "warning",
        f"with every value free to change over all of [{low:g}, {high:g}], PGD still failed on {left} of {len(part.x)} examples",
        "an attack without a limit must always succeed: the gradients or the optimisation are broken, not the model robust",
    )


def _still_rising(part: _Part) -> Finding | None:
    steps = 20
    meter = part.victim()
    frontier = Frontier(meter, part.x, part.goal, part.region, early_stop=False)
    best: list[Tensor] = []

    def watch(step: int, values: Tensor, gradient: Batch) -> None:
        best.append(values if not best else torch.maximum(best[-1], values))

    z = start_named(_start(part))(part.x, frontier.rows, part.region, part.streams("rising"))
    ascend(
        frontier,
        z,
        loss=loss_named("margin"),
        steps=steps,
        step_size=part.region.reach * (2.5 / steps),
        schedule=schedule_named("constant"),
        watch=watch,
    )
    part.charge(meter)
    standing = best[-1] <= 0
    if not bool(standing.any()):
        return None
    gained = (best[-1] - best[0]).clamp_min(1e-12)
    late = (best[-1] - best[-1 - steps // 4]) / gained
    share = float((late[standing] > 0.2).double().mean())
    if share <= 0.25:
        return None
    return Finding(
        "loss-still-rising",
        "warning",
        f"on {share:.0%} of the {int(standing.sum())} examples that PGD left standing, a fifth or more of the loss it gained came "
        f"in the last quarter of its {steps} steps",
        "PGD had not converged: give it more steps or larger ones before you trust the number",
    )


def _start(part: _Part) -> str:
    """Where PGD is strong: a random start in L1 or L0 spends the radius on coordinates of no use."""
    return "uniform" if part.region.norm in {Norm.LINF, Norm.L2} else "clean"


def _iterated(part: _Part) -> Attack:
    falling = "constant" if part.region.norm in {Norm.LINF, Norm.L2} else "linear"
    return PGD(steps=20, loss="margin", start=_start(part), schedule=falling)


def _largest_gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().nan_to_num(0.0).max()) if a.numel() else 0.0


def _scale(scores: Tensor) -> float:
    return max(float(scores.abs().nan_to_num(0.0).max()), 1e-6)
