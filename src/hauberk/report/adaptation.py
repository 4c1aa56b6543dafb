"""What was done about the findings of an audit, in words, for the terminal and the page."""

from collections.abc import Mapping
from typing import Any

from hauberk.report.words import interval, percent, plain

__all__ = ["adaptation_sentence", "indicator_lines", "step_lines"]


def adaptation_sentence(result: Mapping[str, Any]) -> str:
    """What the suite alone said, and what was done then; empty where nothing was to be adapted."""
    adapted = result.get("adapted")
    if not adapted:
        return ""
    first = ((adapted.get("first") or {}).get("robust_accuracy") or {}).get("upper") or {}
    said = (
        f"{percent(first.get('value'))} ({interval(first)})" if first.get("value") is not None else "an unknown share"
    )
    steps = adapted.get("steps") or []
    if not steps:
        return f"Nothing was adapted, as no finding asked for it; the attacks left {said}."
    names = ", ".join(plain(step.get("step")) for step in steps)
    return f"Adapted to the findings ({names}). Before, the attacks left {said}."


def step_lines(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Each step taken: its name, what it does, and the findings that asked for it."""
    steps = (result.get("adapted") or {}).get("steps") or []
    return [
        (plain(step.get("step")), plain(step.get("what") or ""), ", ".join(map(plain, step.get("findings") or [])))
        for step in steps
    ]


def indicator_lines(indicators: Any) -> list[tuple[str, str, str]]:
    """Each indicator of attack failure: number, name and value."""
    return [
        (plain(entry.get("id")), plain(entry.get("name")), percent(entry.get("value"))) for entry in indicators or []
    ]
