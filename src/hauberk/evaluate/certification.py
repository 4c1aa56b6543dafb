"""What the proofs of a run came to, from its ledgers: a part of the JSON contract."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hauberk.evaluate.audit import Finding
from hauberk.evaluate.cascade import Tally

__all__ = ["audit_proofs", "certification", "certify_entries", "sought"]

Ledger = Mapping[str, Any]


def sought(ledgers: Sequence[Ledger]) -> bool:
    """Proofs were sought in this run."""
    return any(ledger.get("proofs") is not None for ledger in ledgers)


def certification(
    ledgers: Sequence[Ledger],
    tallies: Sequence[Sequence[Tally]],
    radii: Sequence[float],
    options: Mapping[str, Any],
) -> dict[str, Any] | None:
    """How far the proofs went, which method proved how many, and what they spared; None where none were sought.

    A proven example withstands every attack, so what proofs spared a stage is reckoned at what the examples that withstood it cost it.
    A stage that no example met, or none withstood, counts for nothing.
    """
    parts = [ledger["proofs"] for ledger in ledgers if ledger.get("proofs") is not None]
    if not parts:
        return None
    spared = 0.0
    for stage in zip(*tallies, strict=True):
        stood = sum(tally.attempted - tally.broken for tally in stage)
        spared += sum(t.spared for t in stage) * sum(t.withstood for t in stage) / stood if stood else 0.0
    by: list[Counter[str]] = [Counter() for _ in radii]
    for part in parts:
        for total, counts in zip(by, part["by"], strict=True):
            total.update(counts)
    return {
        "method": options.get("certify"),
        "seconds_allowed": options.get("certify_seconds"),
        "seconds": sum(part["seconds"] for part in parts),
        "by": [
            {"radius": radius, "proven": dict(sorted(counts.items()))} for radius, counts in zip(radii, by, strict=True)
        ],
        "spared": {"examples": max(sum(tally.spared for tally in stages[:1]) for stages in tallies), "queries": spared},
        "looked": sum(part["looked"] for part in parts),
    }


def certify_entries(ledgers: Sequence[Ledger]) -> list[dict[str, Any]]:
    """What proving asked of the victim, as an attack: the smallest changes, the estimates, and what branch and bound came upon."""
    parts = [ledger["proofs"] for ledger in ledgers if ledger.get("proofs") is not None]
    if not parts:
        return []
    keys = ("broken", "forwards", "backwards", "queries", "seconds")
    total = {key: sum(part[key] for part in parts) for key in keys}
    return [{"name": "certify", "settings": {}, "attempted": sum(part["tried"] for part in parts)} | total]


def audit_proofs(ledgers: Sequence[Ledger]) -> list[Finding]:
    """The alarm: something is proven and broken at once."""
    crossed = [words for ledger in ledgers if ledger.get("proofs") for words in ledger["proofs"]["contradicted"]]
    if not crossed:
        return []
    more = f", and {len(crossed) - 1} more" if len(crossed) > 1 else ""
    return [
        Finding(
            "proof-contradicted",
            "error",
            f"{crossed[0]}{more}; the proofs of these examples were withdrawn, and what is broken counts",
            "one of the two is wrong, so trust no proof of this run: please report it with the model",
        )
    ]
