"""What was asked and what came of it: success and the smallest change against queries, and the cost, in words and drawings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hauberk.report.charts import Curve, Mark, curve, round_ticks
from hauberk.report.words import amount, noun, percent

__all__ = ["Asked", "asked", "queries_sentence"]


@dataclass(frozen=True)
class Asked:
    """All that the report shows of queries.

    Attributes:
        sentence: how many were asked, how many it took, and what they cost.
        success, success_words: share of the right examples broken, over queries; None where there was nothing to break.
        sizes, sizes_words: the median of the smallest changes; None where no query met the goal for half of the examples.
    """

    sentence: str
    success: Curve | None
    success_words: str
    sizes: Curve | None
    sizes_words: str


def asked(result: Mapping[str, Any]) -> Asked | None:
    """What a run asked; None where its queries were not traced."""
    found = result.get("queries")
    if not found:
        return None
    points, right = found["curve"], found["right"]
    far = max((point["queries"] for point in points), default=0)
    ticks = [(_place(q), amount(q)) for q in _decades(far)]
    success = sizes = None
    if right and far > 1:
        shares = [(point["queries"], point["broken"] / right) for point in points]
        success = curve([("upper", _marks(shares))], ticks)
    known = [(point["queries"], point["median_size"]) for point in points if point["median_size"] is not None]
    if len(known) > 1 and known[0][1] > 0:
        top = max(size for _, size in known)
        rungs = [(size / (1.05 * top), label) for size, label in round_ticks(top)]
        sizes = curve(
            [("upper", _marks([(q, size / (1.05 * top)) for q, size in known]))], ticks, rungs, far=_place(far)
        )
    spoken = noun(result)
    return Asked(
        queries_sentence(result),
        success,
        f"Share of the {amount(right)} {spoken} that are right and were broken, against the queries spent on each.",
        sizes,
        f"Median over the {spoken} of the smallest change found so far that meets the goal, against the queries spent on each.",
    )


def queries_sentence(result: Mapping[str, Any]) -> str:
    """How many queries it took, and what they cost; empty where they were not traced."""
    found = result.get("queries")
    if not found:
        return ""
    spoken, right = noun(result), found["right"]
    said = f"{amount(found['asked'])} queries were asked in all"
    said += f", at most {amount(found['limit'])} about any one {noun(result, 1)}" if found["limit"] else ""
    if found["broken"]:
        said += (
            f". {amount(found['broken'])} of {amount(right)} {spoken} that were right broke, after {amount(found['median'])} queries in "
            f"the median and {amount(found['mean'])} in the mean"
        )
        marks = [
            (share, found[key]) for share, key in ((0.5, "to_half"), (0.9, "to_nine_tenths")) if found[key] is not None
        ]
        said += "".join(f"; {percent(share)} within {amount(count)}" for share, count in marks)
    if found["cost"] is not None:
        said += f". At {found['price']:g} a query that is {found['cost']:,.2f}"
        said += f", {found['cost_per_broken']:,.2f} for each that broke" if found["cost_per_broken"] is not None else ""
    return said + "."


def _place(queries: float) -> float:
    """Where so many queries stand on the axis."""
    return math.log10(max(queries, 1))


def _decades(far: int) -> list[int]:
    return [10**k for k in range(len(str(far)))] if far else []


def _marks(values: Sequence[tuple[int, float]]) -> list[Mark]:
    """Steps: what is reached after q queries holds until the next ones."""
    marks: list[Mark] = []
    for queries, value in values:
        if marks and marks[-1].value != value:
            marks.append(Mark(_place(queries), marks[-1].value, marks[-1].value, marks[-1].value, ""))
        marks.append(Mark(_place(queries), value, value, value, f"{amount(queries)} queries"))
    return marks
