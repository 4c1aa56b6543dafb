"""From the ledgers of a run to the JSON contract `hauberk.evaluation/1`."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any

import torch

from hauberk.attacks import name_of, settings_of
from hauberk.data import Source
from hauberk.evaluate.audit import STEPS, Finding, audit_cascade, audit_setting, in_order
from hauberk.evaluate.cascade import Tally
from hauberk.evaluate.certification import audit_proofs, certification, certify_entries, sought
from hauberk.evaluate.queries import Spending, query_curve
from hauberk.evaluate.statement import threat_statement
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.evaluate.suites import Suite
from hauberk.evidence import RESULT_SCHEMA, Manifest
from hauberk.threat import ThreatModel
from hauberk.victims import Victim

__all__ = ["build_result"]

Ledger = Mapping[str, Any]


def build_result(
    victim: Victim,
    source: Source,
    threat: ThreatModel,
    suite: Suite,
    manifest: Manifest,
    ledgers: Sequence[Ledger],
    spending: Spending,
    *,
    command: str | None,
    started: str,
    finished: str,
) -> dict[str, Any]:
    """The result of a run whose chunks are all done."""
    n = sum(ledger["examples"] for ledger in ledgers)
    radii = [_radius(ledgers, index, n) for index in range(len(threat.radii))]
    right = n - radii[-1]["misclassified"]
    tallies = _tallies(ledgers, suite, threat.radii)
    access = min(threat.access, victim.access)
    seen = len({label for ledger in ledgers for label, *_ in ledger["classes"]})
    audit, checks = _audit(ledgers)
    audit += audit_cascade(tallies, right)
    audit += audit_proofs(ledgers)
    audit += audit_setting(threat, victim.bounds, access, victim.classes, seen, n, right)
    return {
        "schema": RESULT_SCHEMA,
        "hauberk": version("hauberk"),
        "model": {
            "name": victim.name,
            "fingerprint": manifest.model_fingerprint,
            "description": victim.description,
            "notes": list(victim.notes),
        },
        "data": {
            "name": source.name,
            "fingerprint": manifest.data_fingerprint,
            "shape": list(source.shape),
            "notes": list(source.notes),
            "class_names": None if source.class_names is None else list(source.class_names),
        },
        "threat": str(threat),
        "threat_statement": threat_statement(threat, victim.bounds, access),
        "suite": suite.name,
        "seed": manifest.seed,
        "n": n,
        "batch_size": manifest.batch_size,
        "clean_accuracy": clopper_pearson(right, n).to_json(),
        "robust_accuracy": radii[-1]["robust_accuracy"],
        "attacks": [
            {"name": name_of(attack), "settings": settings_of(attack)}
            | {key: count for key, count in _over_radii(stage).items() if key not in ("refused", "silent")}
            for attack, stage in zip(suite.attacks, zip(*tallies, strict=True), strict=True)
        ]
        + [_audit_entry(ledger["audit"], ledgers) for ledger in ledgers if ledger["audit"] is not None]
        + certify_entries(ledgers)
        + _adapted_entries(ledgers, threat.radii),
        "cost": _cost(ledgers, n),
        "queries": _queries(ledgers, n, spending),
        "radii": radii,
        "per_class": _per_class(ledgers, source.class_names),
        "audit": [finding.to_json() for finding in in_order(audit)],
        "audit_checks": checks,
        "audit_indicators": _indicators(ledgers),
        "certified": certification(ledgers, tallies, threat.radii, manifest.options),
        "adapted": _adaptation(ledgers, n, threat.radii),
        "rows": "rows.parquet",
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": dict(manifest.provenance.get("packages", {})),
            "git": manifest.provenance.get("git"),
            "device": str(victim.device),
            "dtype": manifest.dtype,
            "threads": torch.get_num_threads(),
            "command": command,
            "started": started,
            "finished": finished,
        },
    }


def _indicators(ledgers: Sequence[Ledger]) -> list[dict[str, Any]]:
    """The indicators of attack failure, from the ledger that holds them."""
    audits = [ledger["audit"] for ledger in ledgers if ledger["audit"] is not None]
    return [indicator for audit in audits for indicator in audit.get("indicators", [])]


def _adaptation(ledgers: Sequence[Ledger], n: int, radii: Sequence[float]) -> dict[str, Any] | None:
    """Which steps were taken, and the verdict without them; None where none were asked for."""
    parts = [ledger["adapted"] for ledger in ledgers if ledger.get("adapted") is not None]
    if not parts:
        return None
    parts = [part | {"proofs": ledger.get("proofs")} for part, ledger in zip(parts, ledgers, strict=True)]
    first = [_radius(parts, index, n) for index in range(len(radii))]
    right = n - first[-1]["misclassified"]
    steps = [
        {"step": step, "findings": list(findings), "what": STEPS[step]} for step, findings in parts[0]["steps"].items()
    ]
    return {
        "steps": [step for step in steps if step["step"] in parts[0]["applied"]],
        "not_applied": [step for step in steps if step["step"] not in parts[0]["applied"]],
        "first": {
            "clean_accuracy": clopper_pearson(right, n).to_json(),
            "robust_accuracy": first[-1]["robust_accuracy"],
            "radii": first,
        },
    }


def _adapted_entries(ledgers: Sequence[Ledger], radii: Sequence[float]) -> list[dict[str, Any]]:
    """What the adapted attacks did, each over all chunks and radii."""
    parts = [ledger["adapted"] for ledger in ledgers if ledger.get("adapted") is not None]
    if not parts:
        return []
    stages = parts[0]["stages"]
    totals = [[Tally(stage["name"], radius) for stage in stages] for radius in radii]
    for part in parts:
        for total, tally in zip(chain.from_iterable(totals), part["attacks"], strict=True):
            for key in _COUNTS:
                setattr(total, key, getattr(total, key) + tally.get(key, 0))
            if "fresh" not in tally and total.radius == radii[0]:
                total.fresh += tally["attempted"]
    return [
        {"name": stage["name"], "settings": stage["settings"]}
        | {key: count for key, count in _over_radii(tallies).items() if key not in ("refused", "silent")}
        for stage, tallies in zip(stages, zip(*totals, strict=True), strict=True)
    ]


def _radius(ledgers: Sequence[Ledger], index: int, n: int) -> dict[str, Any]:
    rows = [ledger["statuses"][index] for ledger in ledgers]
    counts = {key: sum(row[key] for row in rows) for key in ("misclassified", "broken", "undecided", "proven")}
    standing = counts["undecided"] + counts["proven"]
    lower = clopper_pearson(counts["proven"], n).to_json() if sought(ledgers) else None
    return {
        "radius": rows[0]["radius"],
        "robust_accuracy": {"upper": clopper_pearson(standing, n).to_json(), "lower": lower},
        **counts,
    }


def _tallies(ledgers: Sequence[Ledger], suite: Suite, radii: Sequence[float]) -> list[list[Tally]]:
    """For each radius, what each stage did over all chunks."""
    totals = [[Tally(name_of(attack), radius) for attack in suite.attacks] for radius in radii]
    for ledger in ledgers:
        for total, part in zip(chain.from_iterable(totals), ledger["attacks"], strict=True):
            for key in _COUNTS:
                setattr(total, key, getattr(total, key) + part.get(key, 0))
            if "fresh" not in part and total.radius == radii[0]:  # written before proofs spared anybody
                total.fresh += part["attempted"]
    return totals


def _over_radii(tallies: Sequence[Tally]) -> dict[str, Any]:
    """One stage over a curve: each example counts once where it was attempted, and none is broken twice."""
    summed = {key: sum(getattr(tally, key) for tally in tallies) for key in _COUNTS}
    fresh = summed.pop("fresh")
    del summed["spared"], summed["withstood"]
    return summed | {"attempted": fresh}


def _audit_entry(audit: Mapping[str, Any], ledgers: Sequence[Ledger]) -> dict[str, Any]:
    """What the audit did, as an attack: it broke what its probes did and the suite did not."""
    broken = sum(ledger["broken_before"] for ledger in ledgers)
    counts = {key: audit[key] for key in ("forwards", "backwards", "queries", "seconds")}
    return {"name": "audit", "settings": {}, "attempted": audit["examples"], "broken": broken} | counts


_COUNTS = (
    "attempted",
    "fresh",
    "spared",
    "withstood",
    "broken",
    "refused",
    "silent",
    "forwards",
    "backwards",
    "queries",
    "seconds",
)


def _cost(ledgers: Sequence[Ledger], n: int) -> dict[str, float]:
    def total(key: str) -> int:
        return sum(ledger["charged"][key] + (ledger["audit"] or {}).get(key, 0) for ledger in ledgers)

    return {
        "forwards_per_example": total("forwards") / n,
        "backwards_per_example": total("backwards") / n,
        "queries_per_example": total("queries") / n,
        "seconds": sum(ledger["seconds"] for ledger in ledgers),
    }


def _queries(ledgers: Sequence[Ledger], n: int, spending: Spending) -> dict[str, Any] | None:
    """What is to be said of queries; None where they were not traced."""
    parts = [ledger["queries"] for ledger in ledgers if ledger.get("queries") is not None]
    if len(parts) < len(ledgers):
        return None
    return query_curve(parts, round(_cost(ledgers, n)["queries_per_example"] * n), spending)


def _per_class(ledgers: Sequence[Ledger], names: Sequence[str] | None) -> list[dict[str, Any]]:
    counts: dict[int, list[int]] = {}
    for ledger in ledgers:
        for label, *numbers in ledger["classes"]:
            numbers += [0] * (4 - len(numbers))  # three, from before there were proofs
            counts[label] = [a + b for a, b in zip(counts.get(label, [0] * 4), numbers, strict=True)]
    return [
        {
            "class": label,
            "name": names[label] if names is not None and label < len(names) else None,
            "count": count,
            "clean_accuracy": clopper_pearson(right, count).to_json(),
            "robust_accuracy": {
                "upper": clopper_pearson(standing, count).to_json(),
                "lower": clopper_pearson(proven, count).to_json() if sought(ledgers) else None,
            },
        }
        for label, (count, right, standing, proven) in sorted(counts.items())
    ]


def _audit(ledgers: Sequence[Ledger]) -> tuple[list[Finding], list[str]]:
    """The findings about the victim, and the checks that ran, from the ledger that holds them."""
    findings: list[Finding] = []
    checks: list[str] = []
    for ledger in ledgers:
        if ledger["audit"] is not None:
            findings += [Finding.from_json(finding) for finding in ledger["audit"]["findings"]]
            checks += ledger["audit"]["checks"]
    return findings, checks
