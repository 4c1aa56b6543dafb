"""What the report says, as one value: every word and number that the templates lay out, already chosen and spelled.

The templates hold no logic beyond loops and "is it there"; whatever can be wrong is computed here, where it is typed
and tested.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from torch import Tensor

from hauberk.report.adaptation import adaptation_sentence, indicator_lines, step_lines
from hauberk.report.charts import Curve
from hauberk.report.gallery import Case, cases
from hauberk.report.outcomes import STATUSES, Level, drawing, levels
from hauberk.report.proofs import Proven, proven
from hauberk.report.queries import Asked, asked
from hauberk.report.words import (
    DASH,
    Headline,
    amount,
    bounds_of,
    duration,
    headline,
    interval,
    is_image,
    is_seeking,
    noun,
    percent,
    plain,
    propagations,
    radius_text,
    threat_of,
)

__all__ = ["AttackLine", "ClassLine", "Finding", "Page", "page"]

_MOST_CLASSES = 20


@dataclass(frozen=True)
class AttackLine:
    """One row of the attack table."""

    name: str
    settings: tuple[tuple[str, str], ...]
    attempted: str
    broken: str
    rate: str
    share: float
    forwards: str
    backwards: str
    queries: str
    seconds: str


@dataclass(frozen=True)
class ClassLine:
    """One row of the class table; the numbers are per cent, None where nothing is known."""

    name: str
    count: str
    clean: str
    robust: str
    interval: str
    proven: str
    clean_at: float | None
    at: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Finding:
    """One finding of the audit."""

    id: str
    severity: str
    evidence: str
    next: str


@dataclass(frozen=True)
class Page:
    """All that the report shows."""

    title: str
    model: str
    data: str
    headline: Headline
    note: str
    tiles: tuple[tuple[str, str, str], ...]
    noun: str
    per: str
    levels: tuple[Level, ...]
    statuses: tuple[str, ...]
    attacks: tuple[AttackLine, ...]
    total: AttackLine | None
    proven: Proven | None
    asked: Asked | None
    curve: Curve | None
    curve_words: str
    curve_is_sought: bool
    classes: tuple[ClassLine, ...]
    classes_note: str
    cases: tuple[Case, ...]
    broken: int
    in_colour: bool
    findings: tuple[Finding, ...]
    alarm: str
    checks: tuple[str, ...]
    steps: tuple[tuple[str, str, str], ...]
    indicators: tuple[tuple[str, str, str], ...]
    threat: str
    threat_statement: str
    costs: tuple[tuple[str, str, str], ...]
    command: str
    facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    notes: tuple[str, ...]
    written_by: str


def page(result: Mapping[str, Any], rows: pa.Table, adversarials: Iterable[Mapping[str, Tensor]]) -> Page:
    """Everything that the report of a run shows.

    Args:
        result: the JSON contract of the run; null is accepted wherever the contract allows it.
        rows: its table.
        adversarials: its chunks of adversarial tensors, read lazily.
    """
    model, data = result.get("model") or {}, result.get("data") or {}
    named = data.get("class_names")

    def name_of(label: int | None) -> str:
        if label is None:
            return DASH
        return plain(named[label]) if named and 0 <= label < len(named) else str(label)

    shown = tuple(levels(result, rows))
    shape = data.get("shape")
    threat = threat_of(result)
    kept = cases(rows, adversarials, bounds_of(result), name_of, lambda radius: radius_text(threat, radius))
    figure, words = drawing(result, rows, shown)
    lines = [_class_line(entry, name_of) for entry in result.get("per_class") or []]
    findings = _findings(result)
    name = plain(model.get("name") or "model")
    return Page(
        title=f"{name}: robustness under {plain(result.get('threat') or DASH)}",
        model=name,
        data=plain(data.get("name") or "data"),
        headline=headline(result),
        note=_note(result),
        tiles=_tiles(result),
        noun=noun(result),
        per=noun(result, 1),
        levels=shown,
        statuses=tuple(s for s in STATUSES if s != "proven" or any(level.count("proven") for level in shown)),
        attacks=tuple(_attack_line(entry) for entry in result.get("attacks") or []),
        total=_total(result),
        proven=proven(result, rows),
        asked=asked(result),
        curve=figure,
        curve_words=words,
        curve_is_sought=is_seeking(result),
        classes=tuple(_worst(lines)),
        classes_note=f"The {_MOST_CLASSES} lowest of {len(lines)} classes; result.json holds all."
        if len(lines) > _MOST_CLASSES
        else "",
        cases=tuple(kept),
        broken=shown[-1].count("broken") if shown else 0,
        in_colour=bool(shape) and is_image(shape) and len(shape) == 3 and 3 in (shape[0], shape[-1]),
        findings=findings,
        alarm=_alarm(findings),
        checks=tuple(dict.fromkeys(plain(check) for check in result.get("audit_checks") or [])),
        steps=tuple(step_lines(result)),
        indicators=tuple(indicator_lines(result.get("audit_indicators"))),
        threat=plain(result.get("threat") or DASH),
        threat_statement=plain(result.get("threat_statement") or ""),
        costs=_costs(result),
        command=_command(result),
        facts=_facts(result),
        notes=tuple(plain(note) for part in (model, data) for note in part.get("notes") or []),
        written_by=f"hauberk {plain(result.get('hauberk') or '')}".strip(),
    )


def _note(result: Mapping[str, Any]) -> str:
    """What stands under the headline: the clean accuracy, and what kind of numbers these are."""
    clean = result.get("clean_accuracy") or {}
    first = (
        f"Unattacked, {percent(clean.get('value'))} ({interval(clean)}) are right. "
        if clean.get("value") is not None
        else ""
    )
    first += f"{said} " if (said := adaptation_sentence(result)) else ""
    return first + "Ranges are exact 95\N{NO-BREAK SPACE}% intervals for the sampling of the test examples."


def _tiles(result: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    robust, cost = result.get("robust_accuracy") or {}, result.get("cost") or {}
    clean, upper, lower = result.get("clean_accuracy") or {}, robust.get("upper") or {}, robust.get("lower")
    tiles = [
        ("Clean accuracy", percent(clean.get("value")), interval(clean)),
        ("Robust accuracy, at most", percent(upper.get("value")), interval(upper)),
    ]
    if lower:
        tiles.append(("Proven, at least", percent(lower.get("value")), interval(lower)))
    passes = (
        f"{amount(cost.get('forwards_per_example'))} forwards + {amount(cost.get('backwards_per_example'))} backwards"
    )
    tiles.append((f"Propagations per {noun(result, 1)}", amount(propagations(cost)), passes))
    title = "Time spent" if result.get("certified") else "Time spent attacking"
    proofs = (result.get("certified") or {}).get("seconds")
    more = f", {duration(proofs)} of it proofs" if proofs is not None else ""
    tiles.append((title, duration(cost.get("seconds")), f"suite {plain(result.get('suite') or DASH)}{more}"))
    return tuple(tiles)


def _setting(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return plain(text if len(text) <= 400 else text[:399] + "…")


def _attack_line(entry: Mapping[str, Any]) -> AttackLine:
    attempted, broken = entry.get("attempted"), entry.get("broken")
    share = broken / attempted if attempted and broken is not None else 0.0
    return AttackLine(
        plain(entry.get("name") or DASH),
        tuple((plain(key), _setting(value)) for key, value in (entry.get("settings") or {}).items()),
        amount(attempted),
        amount(broken),
        percent(share) if attempted else DASH,
        share,
        amount(entry.get("forwards")),
        amount(entry.get("backwards")),
        amount(entry.get("queries")),
        duration(entry.get("seconds")),
    )


def _total(result: Mapping[str, Any]) -> AttackLine | None:
    entries = result.get("attacks") or []
    if len(entries) < 2:
        return None
    keys = ("broken", "forwards", "backwards", "queries", "seconds")
    sums = {key: sum(entry.get(key) or 0 for entry in entries) for key in keys}
    return _attack_line({"name": "All attacks", "attempted": None, **sums})


def _class_line(entry: Mapping[str, Any], name_of: Any) -> ClassLine:
    clean, robust = entry.get("clean_accuracy") or {}, entry.get("robust_accuracy") or {}
    # A contract with bounds on both sides nests them; the picture speaks of the upper one.
    lower, robust = robust.get("lower"), robust.get("upper") or robust
    at, low, high = (None if robust.get(key) is None else 100 * robust[key] for key in ("value", "low", "high"))
    return ClassLine(
        plain(entry["name"]) if entry.get("name") is not None else name_of(entry.get("class")),
        amount(entry.get("count")),
        percent(clean.get("value")),
        percent(robust.get("value")),
        interval(robust),
        percent(lower["value"]) if lower else "",
        None if clean.get("value") is None else 100 * clean["value"],
        at,
        low,
        high,
    )


def _worst(lines: Sequence[ClassLine]) -> Sequence[ClassLine]:
    if len(lines) <= _MOST_CLASSES:
        return lines
    return sorted(lines, key=lambda line: math.inf if line.at is None else line.at)[:_MOST_CLASSES]


def _findings(result: Mapping[str, Any]) -> tuple[Finding, ...]:
    order = {"error": 0, "warning": 1, "info": 2}
    found = [
        Finding(
            plain(entry.get("id") or DASH),
            severity if (severity := entry.get("severity")) in order else "warning",
            plain(entry.get("evidence") or ""),
            plain(entry.get("next") or ""),
        )
        for entry in result.get("audit") or []
    ]
    return tuple(sorted(found, key=lambda finding: order[finding.severity]))


def _alarm(findings: Sequence[Finding]) -> str:
    """What must be read before the number is believed; empty where nothing is."""
    tally = [(word, sum(f.severity == word for f in findings)) for word in ("error", "warning")]
    parts = [f"{count} {word}{'s' if count > 1 else ''}" for word, count in tally if count]
    return f"The audit found {' and '.join(parts)}: read that before relying on the number above." if parts else ""


def _costs(result: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    cost, n = result.get("cost") or {}, result.get("n") or 0
    total = propagations(cost)

    def line(title: str, each: float | None) -> tuple[str, str, str]:
        return title, amount(each), amount(None if each is None else each * n)

    return (
        line("Forward passes", cost.get("forwards_per_example")),
        line("Backward passes", cost.get("backwards_per_example")),
        line("Propagations (forwards + backwards)", total),
        line("Queries", cost.get("queries_per_example")),
        ("Time", duration((cost.get("seconds") or 0) / n if n else None), duration(cost.get("seconds"))),
    )


def _command(result: Mapping[str, Any]) -> str:
    """The shell command of the run, or the call in Python that asks for the same."""
    environment = result.get("environment") or {}
    if environment.get("command"):
        return plain(environment["command"])
    asked = [f"{key}={result[key]!r}" for key in ("threat", "suite", "seed", "n") if result.get(key) is not None]
    return plain(f"hb.evaluate({', '.join(['model', 'data', *asked])})")


def _facts(result: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Groups of (name, value) that tell what ran, on what and where."""
    model, data, env = result.get("model") or {}, result.get("data") or {}, result.get("environment") or {}
    git = env.get("git")
    groups: list[tuple[str, list[tuple[str, Any]]]] = [
        (
            "Evaluation",
            [
                ("threat", result.get("threat")),
                ("suite", result.get("suite")),
                ("seed", result.get("seed")),
                ("examples", result.get("n")),
                ("batch size", result.get("batch_size")),
                ("rows", result.get("rows")),
            ],
        ),
        (
            "Model",
            [
                ("name", model.get("name")),
                ("fingerprint", model.get("fingerprint")),
                *(model.get("description") or {}).items(),
            ],
        ),
        ("Data", [(key.replace("_", " "), data.get(key)) for key in ("name", "fingerprint", "shape", "class_names")]),
        (
            "Environment",
            [
                ("hauberk", result.get("hauberk")),
                ("python", env.get("python")),
                ("platform", env.get("platform")),
                *(
                    (name, version)
                    for name, version in (env.get("packages") or {}).items()
                    if name not in ("hauberk", "python")
                ),
                (
                    "git",
                    f"{git.get('revision')}{' (with uncommitted changes)' if git.get('dirty') else ''}"
                    if git and git.get("revision")
                    else None,
                ),
                ("device", env.get("device")),
                ("dtype", env.get("dtype")),
                ("threads", env.get("threads")),
                ("started", env.get("started")),
                ("finished", env.get("finished")),
            ],
        ),
    ]
    return tuple(
        (title, tuple((plain(key), _setting(value)) for key, value in lines if value is not None))
        for title, lines in groups
    )
