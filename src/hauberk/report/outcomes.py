"""What became of every example at each radius, and the curve through it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hauberk.evaluate.statistics import wilson
from hauberk.report.charts import Curve, Mark, curve
from hauberk.report.words import is_seeking, percent, radius_text, threat_of

__all__ = ["STATUSES", "Level", "drawing", "levels"]

STATUSES = ("proven", "undecided", "broken", "misclassified")
"""In the order of the bar, so that its three inner borders are the proven, the robust and the clean accuracy."""
_STEPS = 60  # of the curve through the sizes of smallest changes


@dataclass(frozen=True)
class Level:
    """The outcome at one radius."""

    radius: float | None
    text: str
    counts: tuple[tuple[str, int, float, str], ...]  # status, count, share, the share in words
    n: int
    upper: Mapping[str, Any] | None
    lower: Mapping[str, Any] | None

    def count(self, status: str) -> int:
        """How many examples ended so."""
        return next(count for name, count, *_ in self.counts if name == status)


def levels(result: Mapping[str, Any], rows: pa.Table | None = None) -> list[Level]:
    """The outcome at each radius: as the result tells it, else counted in the rows."""
    threat = threat_of(result)
    entries = [dict(entry) for entry in result.get("radii") or []]
    if not entries and rows is not None and rows.num_rows:
        for radius in sorted(set(rows["radius"].to_pylist()), key=lambda r: math.inf if r is None else r):
            at = rows.filter(pc.field("radius") == radius)
            tally = {pair["values"]: pair["counts"] for pair in at["status"].value_counts().to_pylist()}
            entries.append({"radius": radius, "robust_accuracy": None, **tally})
        if len(entries) == 1:
            entries[0]["robust_accuracy"] = result.get("robust_accuracy")
    found = []
    for entry in entries:
        tally = {status: int(entry.get(status) or 0) for status in STATUSES}
        n = sum(tally.values())
        counts = tuple((s, k, k / n if n else 0.0, percent(k / n if n else None)) for s, k in tally.items())
        robust = entry.get("robust_accuracy") or {}
        text = radius_text(threat, entry.get("radius"))
        found.append(Level(entry.get("radius"), text, counts, n, robust.get("upper"), robust.get("lower")))
    return found


def drawing(result: Mapping[str, Any], rows: pa.Table, shown: Sequence[Level]) -> tuple[Curve | None, str]:
    """The radius curve, None where there is nothing to draw, and its alternative text."""
    clean = (result.get("clean_accuracy") or {}).get("value")
    if is_seeking(result):
        return _sought(result, rows)
    start = []
    if clean is not None and shown and shown[-1].n:
        start = [_mark(0.0, round(clean * shown[-1].n), shown[-1].n, "no change")]
    upper, lower = list(start), []
    for level in shown:
        if level.radius is None or not math.isfinite(level.radius) or not level.n:
            continue
        left = level.count("undecided") + level.count("proven")
        upper.append(_mark(level.radius, left, level.n, level.text))
        if level.lower is not None:
            lower.append(_mark(level.radius, level.count("proven"), level.n, level.text))
    lines = [("upper", upper)] + ([("lower", lower)] if lower else [])
    ticks = [(0.0, "0"), *((mark.radius, mark.label) for mark in upper if mark.radius > 0)]
    words = "; ".join(f"at {m.label}: at most {percent(m.value)}" for m in upper)
    return curve(lines, ticks), f"Robust accuracy against radius. {words}."


def _sought(result: Mapping[str, Any], rows: pa.Table) -> tuple[Curve | None, str]:
    """Where the smallest change was sought, the sizes found are the curve: what a size broke, every larger one breaks."""
    threat = threat_of(result)
    n = rows.num_rows
    if threat is None or not n:
        return None, ""
    broken = rows.filter(pc.field("status") == "broken")
    sizes = np.sort(np.asarray(broken[threat.norm.value].drop_null().to_numpy(), dtype=np.float64))
    if not sizes.size:
        return None, ""
    right = n - rows.filter(pc.field("status") == "misclassified").num_rows
    far = float(sizes[-1])
    marks = []
    for radius in np.linspace(0.0, far, _STEPS + 1):
        left = right - int(np.searchsorted(sizes, radius, side="right"))
        marks.append(_mark(float(radius), left, n, f"{radius:.3g}"))
    middle = float(np.median(sizes))
    words = f"Robust accuracy against the size of the smallest change found. Half of the {len(sizes)} broken examples fall to a change of at most {middle:.3g}."
    return curve([("upper", marks)], [(far * k / 4, f"{far * k / 4:.2g}") for k in range(5)]), words


def _mark(radius: float, successes: int, n: int, label: str) -> Mark:
    band = wilson(successes, n)
    return Mark(radius, successes / n, band.low, band.high, label)
