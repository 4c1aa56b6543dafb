"""What is proven, in words and drawings: which method proved how many, what that spared, and both ends of the examples looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hauberk.report.charts import Curve, Mark, Span, Spans, curve, round_ticks, spans
from hauberk.report.words import amount, duration, noun, percent, radius_text, size_text, threat_of

__all__ = ["Proven", "ends_sentence", "proofs_sentence", "proven"]

_STEPS = 60
_ORDER = ("crown_ibp", "crown", "alpha_crown", "branch_and_bound")
_WHAT = {
    "crown_ibp": "intervals forward, one linear bound backward",
    "crown": "linear bounds backward from every nonlinearity",
    "alpha_crown": "the same with optimised slopes",
    "branch_and_bound": "case by case over the signs of units",
}


@dataclass(frozen=True)
class Proven:
    """All that the report shows of proofs.

    Attributes:
        radii: of the threat, in words.
        lines: (method, what it is, how many it proved at each radius).
        sentence: what it cost and spared.
        curve, curve_words: shares proven, estimated and not broken, over the radius; None where no example was looked at.
        spans, spans_words: the same one by one.
        ends: what the drawings come to, in words.
    """

    radii: tuple[str, ...]
    lines: tuple[tuple[str, str, tuple[str, ...]], ...]
    sentence: str
    curve: Curve | None
    curve_words: str
    spans: Spans | None
    spans_words: str
    ends: str


def proven(result: Mapping[str, Any], rows: pa.Table) -> Proven | None:
    """What a run proved; None where it did not try."""
    found = result.get("certified")
    if not found:
        return None
    threat = threat_of(result)
    by = found.get("by") or []
    used = {name for entry in by for name in entry["proven"]}
    names = [*(name for name in _ORDER if name in used), *sorted(used - set(_ORDER))]
    lines = tuple((n, _WHAT.get(n, ""), tuple(amount(entry["proven"].get(n, 0)) for entry in by)) for n in names)
    radii = tuple(radius_text(threat, entry["radius"]) for entry in by)
    drawing, drawn, words = None, None, ""
    lower, estimate, upper, examples = _ends(rows)
    if len(lower):
        drawing = _curve(lower, estimate, upper)
        texts = [
            f"{noun(result, 1)} {example}: proven within {size_text(low)}, estimated {size_text(guess)}, "
            + (f"broken by {size_text(high)}" if np.isfinite(high) else "never broken")
            for example, low, guess, high in zip(examples, lower, estimate, upper, strict=True)
        ]
        given = [
            Span(float(low), float(high) if np.isfinite(high) else None, float(guess), text)
            for low, guess, high, text in zip(lower, estimate, upper, texts, strict=True)
        ]
        drawn = spans(given, [(entry["radius"], text) for entry, text in zip(by, radii, strict=True)])
        words = (
            f"{len(given)} {noun(result)}, each as a bar from the radius that is proven to the smallest change that breaks it, "
            "by increasing upper end."
        )
    alternative = "Shares of the same examples that are proven, estimated and not broken, against the radius."
    return Proven(
        radii, lines, proofs_sentence(result), drawing, alternative, drawn, words, ends_sentence(result, rows)
    )


def proofs_sentence(result: Mapping[str, Any]) -> str:
    """What proofs cost and spared; empty where none were sought."""
    found = result.get("certified")
    if not found:
        return ""
    spared = found.get("spared") or {}
    said = f"Proofs took {duration(found.get('seconds'))}"
    if spared.get("examples"):
        saved = f": about {amount(round(spared['queries']))} queries saved" if spared.get("queries") else ""
        return f"{said} and spared {amount(spared['examples'])} {noun(result, spared['examples'])} the attacks{saved}."
    return f"{said} and spared no {noun(result, 1)} the attacks."


def ends_sentence(result: Mapping[str, Any], rows: pa.Table) -> str:
    """What both ends of the examples looked at come to; empty where there are none."""
    lower, estimate, upper, examples = _ends(rows)
    right = upper > 0
    if not right.any():
        return ""
    low, guess, high = (np.median(part[right]) for part in (lower, estimate, upper))
    ordered = ((lower <= estimate) & (estimate <= upper))[right].mean()
    fell = size_text(float(high)) if np.isfinite(high) else "nothing found"
    return (
        f"Of the first {len(examples)} {noun(result)}, those classified rightly are proven within {size_text(float(low))}, estimated at "
        f"{size_text(float(guess))} and broken by {fell} in the median; the estimate lies between both ends for {percent(float(ordered), 0)} "
        "of them."
    )


def _ends(rows: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, Sequence[int]]:
    """Both ends and the estimate of the examples looked at, infinite where nothing breaks one, and which examples they are."""
    names = ("example", "lower", "estimate", "upper")
    if not rows.num_rows or any(name not in rows.column_names for name in names):
        empty = np.zeros(0)
        return empty, empty, empty, []
    seen: dict[int, tuple[float, float, float]] = {}
    for row in rows.select(list(names)).to_pylist():
        if row["estimate"] is not None and row["lower"] is not None:
            upper = np.inf if row["upper"] is None else row["upper"]
            seen.setdefault(row["example"], (row["lower"], row["estimate"], upper))
    ends = np.asarray(list(seen.values()), dtype=np.float64).reshape(-1, 3)
    return ends[:, 0], ends[:, 1], ends[:, 2], list(seen)


def _curve(lower: np.ndarray, estimate: np.ndarray, upper: np.ndarray) -> Curve | None:
    finite = [*upper[np.isfinite(upper)], *lower, *estimate]
    far = float(max(finite))
    if far <= 0:
        return None
    radii = np.linspace(0.0, far, _STEPS + 1)

    def marks(shares: list[float]) -> list[Mark]:
        return [Mark(float(r), s, s, s, f"{r:.3g}") for r, s in zip(radii, shares, strict=True)]

    lines = [
        ("upper", marks([float((upper > r).mean()) for r in radii])),
        ("estimate", marks([float((estimate > r).mean()) for r in radii])),
        ("lower", marks([float(((lower >= r) & (upper > 0)).mean()) for r in radii])),
    ]
    return curve(lines, round_ticks(far))
