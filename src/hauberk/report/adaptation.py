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
    names, idle = (_names(adapted.get(key)) for key in ("steps", "not_applied"))
    if not names:
        why = f"there was nothing to apply {idle} to" if idle else "no finding asked for it"
        return f"Nothing was adapted, as {why}; the attacks left {said}."
    but = f" There was nothing to apply {idle} to." if idle else ""
    return f"Adapted to the findings ({names}).{but} Before, the attacks left {said}."


def _names(steps: Any) -> str:
    return ", ".join(plain(step.get("step")) for step in steps or [])


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
