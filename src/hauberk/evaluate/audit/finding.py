"""What an audit leaves: findings, each a reason to doubt a number; indicators, each a measured share; and what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hauberk.evaluate.cascade import Known

__all__ = ["STEPS", "AuditEvidence", "Finding", "Indicator", "in_order"]

STEPS: dict[str, str] = {
    "eot": "attack the average of several answers (EOT), and judge by a majority vote of the model's answers",
    "bpda": "replace the backward pass of the steps that carry no gradient (BPDA)",
    "logits": "attack the scores before the softmax",
    "margin": "climb margins instead of cross-entropies",
    "smooth": "climb gradients averaged over a neighbourhood",
    "score-attacks": "search with more queries and without gradients",
    "more-steps": "climb longer and from more starts",
}
"""What can be done about a finding without asking anybody, and in words; `adapt` applies it. In the order they are applied."""


@dataclass(frozen=True)
class Finding:
    """One reason to doubt a number.

    Attributes:
        id: kebab-case name, stable for scripts.
        severity: `error` (the upper bound cannot be trusted), `warning` (it may be too high) or `info`.
        evidence: what was seen, with figures.
        next: what to do.
        adapt: the steps of `STEPS` that answer it; empty where only a person can.
    """

    id: str
    severity: str
    evidence: str
    next: str
    adapt: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The finding as plain values."""
        return {
            "id": self.id,
            "severity": self.severity,
            "evidence": self.evidence,
            "next": self.next,
            "adapt": list(self.adapt),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Finding":
        """The finding that `to_json` wrote."""
        return cls(**{**value, "adapt": tuple(value.get("adapt", ()))})


@dataclass(frozen=True)
class Indicator:
    """One of the six indicators of attack failure (Pintor et al. 2022, arXiv:2106.09947), averaged over examples.

    Attributes:
        id: `I1` .. `I6`.
        name: the paper's name.
        value: in [0, 1]; the share of the examples where it is 1, for `I2` the mean over the examples.
        examples: how many it was measured on.
    """

    id: str
    name: str
    value: float
    examples: int

    def to_json(self) -> dict[str, Any]:
        """The indicator as plain values."""
        return {"id": self.id, "name": self.name, "value": self.value, "examples": self.examples}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Indicator":
        """The indicator that `to_json` wrote."""
        return cls(**value)


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
    indicators: tuple[Indicator, ...] = ()
    broken: dict[int, Known] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the broken points, as plain values."""
        kept = ("examples", "forwards", "backwards", "queries", "seconds")
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "checks": list(self.checks),
            "indicators": [indicator.to_json() for indicator in self.indicators],
        } | {key: getattr(self, key) for key in kept}


def in_order(findings: "list[Finding] | tuple[Finding, ...]") -> list[Finding]:
    """Errors first, then warnings, then what is only worth knowing."""
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])
